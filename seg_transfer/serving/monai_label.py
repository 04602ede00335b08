"""What clients of MONAI Label ask for, those of 3D Slicer and OHIF: the model, an upload, and its label map.

Only the parts by which a trained model segments an image are here: no training, no active learning, no labels to keep.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs

from fastapi import APIRouter, File, Form, HTTPException, Query, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from seg_transfer.data.formats import NIFTI_ENDINGS
from seg_transfer.serving.app import ServedModel, file_of, kept, problems, queued, submitted
from seg_transfer.serving.jobs import Job, Jobs
from seg_transfer.version import VERSION

RESULT_ENDINGS = (*NIFTI_ENDINGS, ".nrrd")
LOOK = 0.1
"""Seconds between two looks at a job that a client waits for."""
Output = Literal["image", "json", "all", "dicom_seg"]
Params = Annotated[str, Form(description="a JSON object; result_extension is read, and client_id")]
Upload = Annotated[UploadFile | None, File()]
_SOME_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {kind: {} for kind in ("multipart/form-data", "application/octet-stream", "application/dicom")}}
}


class Session(BaseModel):
    """An image that is kept for further requests."""

    session_id: str
    session_info: dict[str, Any] = {}


class Sample(BaseModel):
    """An image that is kept under a name."""

    image: str


class Login(BaseModel):
    """Whether a token is needed."""

    enabled: bool


class Access(BaseModel):
    """A token."""

    access_token: str
    token_type: str


def make_router(jobs: Jobs, model: ServedModel, token: str | None) -> APIRouter:
    """The requests of MONAI Label's clients."""
    router = APIRouter(tags=["MONAI Label"])
    names: dict[tuple[str, str, str], str] = {}

    @router.get("/auth", include_in_schema=False)
    @router.get("/auth/")
    async def login() -> Login:
        """Whether a token is needed."""
        return Login(enabled=token is not None)

    @router.post("/auth/token", responses=problems(401))
    async def access(request: Request) -> Access:
        """The token, for clients that ask for a password: the token is the password."""
        fields = parse_qs((await request.body()).decode("utf-8", "replace"))
        given = fields.get("password", [""])[0]
        if token is None or not hmac.compare_digest(given.encode(), token.encode()):
            raise HTTPException(401, "the password is not the token")
        return Access(access_token=token, token_type="Bearer")

    @router.get("/info", include_in_schema=False)
    @router.get("/info/")
    async def info() -> dict[str, Any]:
        """The model and its labels."""
        return described(model)

    @router.put("/session/", responses=problems(404, 415, 503, 507))
    def begin(files: Annotated[list[UploadFile], File(min_length=1, max_length=64)]) -> Session:
        """Keep an image for further requests."""
        return Session(session_id=kept(jobs, files).id)

    @router.get("/session/{session}", responses=problems(404))
    async def look(session: str) -> Session:
        """Whether an image is still kept."""
        return Session(session_id=_image(jobs, session).id)

    @router.delete("/session/{session}", responses=problems(404))
    def end(session: str) -> Session:
        """Delete an image that is kept."""
        image = _image(jobs, session)
        jobs.delete(image.id)
        return Session(session_id=image.id)

    @router.put("/datastore/", responses=problems(404, 415, 503, 507))
    def add(request: Request, file: Annotated[UploadFile, File()], image: str = "", params: Params = "{}") -> Sample:
        """Keep an image under a name, which holds for the client that gave it."""
        key = (*_client(request, params), image)
        taken = kept(jobs, [file])
        if before := names.pop(key, None):
            jobs.delete(before)
        for other in [other for other, job in list(names.items()) if jobs.get(job) is None]:
            names.pop(other, None)
        names[key] = taken.id
        return Sample(image=image or taken.id)

    @router.post("/infer/{name}", response_class=Response, responses=_SOME_FILE | problems(404, 415, 500, 503, 507))
    async def infer(
        request: Request,
        name: str,
        image: str = "",
        session_id: str = "",
        output: Annotated[Output | None, Query()] = None,
        params: Params = "{}",
        file: Upload = None,
    ) -> Response:
        """Segment an image that comes along, or is kept; the answer waits for the label map."""
        if name != model.name:
            raise HTTPException(404, f"there is no model {name!r}; the model is {model.name}")
        wished = _object(params).get("result_extension")
        ending = wished if wished in RESULT_ENDINGS and model.dimension == 3 else None
        if file is not None:
            job = await run_in_threadpool(submitted, jobs, [file], ending)
        else:
            key = (*_client(request, params), image)
            job = queued(jobs, _image(jobs, session_id or names.get(key, image)), ending)
        try:
            while not job.ended.is_set():
                await asyncio.sleep(LOOK)
                if await request.is_disconnected():
                    raise HTTPException(499, "the client left")
            made = file_of(job)
            content = await run_in_threadpool(job.result.file.read_bytes) if job.result else b""
        finally:
            await run_in_threadpool(jobs.delete, job.id)
        about = {"label_names": model.labels, "warnings": list(job.warnings)}
        if output == "json":
            return JSONResponse(about)
        if output in ("image", "dicom_seg"):
            return Response(
                content,
                media_type=made.media_type,
                headers={"content-disposition": made.headers["content-disposition"]},
            )
        return _multipart(about, made.filename or "result", content)

    return router


def described(model: ServedModel) -> dict[str, Any]:
    """What MONAI Label tells of a server."""
    one = {
        "type": "segmentation",
        "labels": model.labels,
        "dimension": model.dimension,
        "description": f"segtl: {', '.join(model.channels)}",
        "config": {},
    }
    return {
        "name": "segtl",
        "description": "Segmentation by segtl. Not a medical device.",
        "version": VERSION,
        "labels": list(model.labels),
        "models": {model.name: one},
        "trainers": {},
        "strategies": {},
        "scoring": {},
        "train_stats": {},
        "datastore": {"total": 0, "completed": 0},
    }


def _image(jobs: Jobs, identifier: str) -> Job:
    job = jobs.get(identifier)
    if job is None or job.status != "kept":
        hint = "send the image as file, or keep it first with PUT /session/ or PUT /datastore/"
        raise HTTPException(404, f"there is no such image; {hint}")
    return job


def _client(request: Request, params: str) -> tuple[str, str]:
    """Who asks, so that a name of one client's image is not taken for another's."""
    return "" if request.client is None else request.client.host, str(_object(params).get("client_id") or "")


def _object(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise HTTPException(422, "params is no JSON object")
    return content


def _multipart(about: dict[str, Any], name: str, content: bytes) -> Response:
    boundary = secrets.token_hex(16)
    parts = [
        ('name="params"', "application/json", json.dumps(about).encode()),
        (f'name="image"; filename="{name}"', "application/octet-stream", content),
    ]
    lines = [
        f"--{boundary}\r\nContent-Disposition: form-data; {which}\r\nContent-Type: {kind}\r\n\r\n".encode() + part
        for which, kind, part in parts
    ]
    body = b"\r\n".join([*lines, f"--{boundary}--\r\n".encode()])
    return Response(body, media_type=f"multipart/form-data; boundary={boundary}")
