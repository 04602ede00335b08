"""The HTTP interface: jobs, health and metrics."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, File, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field

from seg_transfer.data.formats import ENDINGS, RASTER_ENDINGS, ending
from seg_transfer.errors import UserError, printable
from seg_transfer.serving.guard import RETRY_AFTER
from seg_transfer.serving.jobs import Job, Jobs, QueueFull, Status
from seg_transfer.serving.segment import Task
from seg_transfer.serving.worker import Worker
from seg_transfer.util.names import LONGEST_NAME
from seg_transfer.version import VERSION

ARCHIVE = ".zip"
MOST_INPUTS = 64


@dataclass(frozen=True)
class ServedModel:
    """What clients are told about the models.

    Attributes:
        name: Of the model.
        labels: Name -> value in label maps, without background.
        channels: Names of the channels of an image.
        dimension: 2 or 3.
    """

    name: str
    labels: dict[str, int]
    channels: tuple[str, ...]
    dimension: int


class Problem(BaseModel):
    """Why a request was not served."""

    detail: str


class JobState(BaseModel):
    """Where a job stands."""

    id: str
    status: Status
    error: str = Field(description="why it failed; empty if it did not")
    warnings: tuple[str, ...] = Field(
        description="in what the image or its labels' volumes are unlike those of training"
    )


class Health(BaseModel):
    """The server runs."""

    status: str


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of the answers with these codes."""
    return {code: {"model": Problem} for code in codes}


def make_app(jobs: Jobs, worker: Worker, model: ServedModel) -> FastAPI:
    """The application, without the guard before it."""
    app = FastAPI(
        title="segtl",
        version=VERSION,
        description="Segments images with trained models. Not a medical device.",
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        responses=problems(400, 401, 403, 413, 421, 422),
    )

    @app.exception_handler(RequestValidationError)
    async def refused(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"detail": f"{where}: {first['msg']}"}, status_code=422)

    @app.get("/health")
    async def health() -> Health:
        """Whether the server runs."""
        return Health(status="ok")

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        """Figures for Prometheus."""
        return metrics_text(jobs, worker)

    @app.post("/jobs", status_code=202, responses=problems(415, 503, 507))
    def submit(file: Annotated[list[UploadFile], File(max_length=MOST_INPUTS)], response: Response) -> JobState:
        """Upload an image, one file per channel, or a .zip of a DICOM series; it is segmented once its turn comes."""
        job = submitted(jobs, file)
        response.headers["Location"] = f"/jobs/{job.id}"
        return state(job)

    @app.get("/jobs/{job}", responses=problems(404))
    async def status(job: str) -> JobState:
        """Where a job stands."""
        return state(found(jobs, job))

    @app.get(
        "/jobs/{job}/result",
        response_class=FileResponse,
        responses={200: {"content": {"application/octet-stream": {}}}, **problems(404, 409, 500)},
    )
    async def result(job: str) -> FileResponse:
        """The label map, in the image's own geometry: NIfTI (a 2D image: PNG), or DICOM-SEG of a series."""
        return file_of(found(jobs, job))

    @app.delete("/jobs/{job}", status_code=204, responses=problems(404))
    def delete(job: str) -> Response:
        """Delete a job, its files and its result; break it off if it runs."""
        if not jobs.delete(job):
            raise HTTPException(404, NO_JOB)
        return Response(status_code=204)

    return app


NO_JOB = "there is no such job; results expire"


def found(jobs: Jobs, identifier: str) -> Job:
    """The job of an identifier."""
    job = jobs.get(identifier)
    if job is None:
        raise HTTPException(404, NO_JOB)
    return job


def state(job: Job) -> JobState:
    """What a client is told about a job."""
    return JobState(id=job.id, status=job.status, error=job.error, warnings=job.warnings)


def file_of(job: Job) -> FileResponse:
    """The result of a job that is done; otherwise why there is none."""
    if job.status == "failed":
        raise HTTPException(422 if job.refused else 500, job.error)
    if job.result is None:
        raise HTTPException(409, f"the job is {job.status}")
    kind = "application/dicom" if job.result.file.suffix == ".dcm" else "application/octet-stream"
    return FileResponse(job.result.file, media_type=kind, filename=job.result.file.name)


def submitted(jobs: Jobs, files: Sequence[UploadFile], result_ending: str | None = None) -> Job:
    """Queue a job for uploaded files."""
    return _stored(jobs, files, jobs.submit, result_ending)


def kept(jobs: Jobs, files: Sequence[UploadFile]) -> Job:
    """Keep uploaded files, to be segmented when somebody asks."""
    return _stored(jobs, files, jobs.keep, None)


def queued(jobs: Jobs, image: Job, result_ending: str | None = None) -> Job:
    """Queue a job for an image that is kept."""
    with room():
        task = image.task
        return jobs.submit(Task(task.inputs, jobs.new_folder(), result_ending or task.ending, task.names))


@contextmanager
def room() -> Iterator[None]:
    """Answer that the queue is full where it is."""
    try:
        yield
    except QueueFull:
        raise HTTPException(503, "the queue is full; try again later", {"Retry-After": str(RETRY_AFTER)}) from None


def _stored(jobs: Jobs, files: Sequence[UploadFile], take: Callable[[Task], Job], result_ending: str | None) -> Job:
    inputs = [(file, ending_of(file)) for file in files]
    if len(inputs) > 1 and any(each == ARCHIVE for _, each in inputs):
        raise HTTPException(415, "give one .zip, or images")
    folder = jobs.new_folder()
    try:
        paths = [_saved(file, folder / f"image_{index}{each}") for index, (file, each) in enumerate(inputs)]
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise HTTPException(507, f"the upload cannot be stored: {error.strerror}") from None
    usual = ".png" if inputs[0][1] in RASTER_ENDINGS else ".nii.gz"
    with room():
        return take(Task(tuple(paths), folder, result_ending or usual, tuple(map(name_of, files))))


def ending_of(file: UploadFile) -> str:
    """The ending of an uploaded file; nothing else of its name is used on the disk."""
    name = (file.filename or "").lower()
    try:
        return ARCHIVE if name.endswith(ARCHIVE) else ending(Path(name))
    except UserError:
        known = ", ".join((*ENDINGS, ARCHIVE))
        name = name_of(file) or "the uploaded file"
        raise HTTPException(415, f"{name}: its name has to end in one of {known}") from None


def name_of(file: UploadFile) -> str:
    """The name of an uploaded file for messages; some clients send a whole path, of which it is the last part."""
    return printable(re.split(r"[/\\]", file.filename or "")[-1][-LONGEST_NAME:])


def _saved(file: UploadFile, path: Path) -> Path:
    with path.open("wb") as target:
        shutil.copyfileobj(file.file, target)
    return path


def metrics_text(jobs: Jobs, worker: Worker) -> str:
    """Prometheus' text format."""
    figures: list[tuple[str, str, str, list[tuple[str, float]]]] = [
        (
            "segtl_jobs_total",
            "counter",
            "Jobs that ended.",
            [(f'{{status="{status}"}}', jobs.ended[status]) for status in ("done", "failed", "deleted")],
        ),
        ("segtl_jobs_waiting", "gauge", "Jobs that wait.", [("", jobs.waiting)]),
        ("segtl_jobs_running", "gauge", "Jobs that run.", [("", jobs.running)]),
        ("segtl_job_seconds_total", "counter", "Time that jobs ran.", [("", round(jobs.seconds, 3))]),
        ("segtl_worker_starts_total", "counter", "Starts of the process that segments.", [("", worker.starts)]),
    ]
    lines = []
    for name, kind, text, values in figures:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{labels} {value:g}" for labels, value in values]
    return "\n".join(lines) + "\n"
