"""`segtl serve` as clients see it: a real server on loopback, and requests as curl, 3D Slicer and OHIF send them."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil
import pytest
from made_dicom import write_series
from made_work import exported_balls, tiny_labels
from served import Running, ended, folders, held_job, job_of, segmenting, served, until_running

from seg_transfer.cli.app import main
from seg_transfer.workflow.segmenter import Segmenter

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")
pytestmark = pytest.mark.usefixtures("one_thread")

TOKEN = "a-token-of-the-test-0123456789"
AFFINE = np.diag([1.0, 1.0, 2.5, 1.0])
LIMIT = 300_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model beside the images that it was made for, which finds its own labels far too large."""
    return exported_balls(tmp_path_factory.mktemp("served"), tiny_labels)


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    options = ("--queue", "2", "--upload-limit", str(LIMIT))
    with served(model, tmp_path_factory.mktemp("server"), *options, token=TOKEN) as running:
        assert str(running.client.base_url).startswith("http://127.0.0.1:")
        yield running


def volume(content: bytes) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(content))


def zipped(folder: Path) -> bytes:
    made = BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return made.getvalue()


def expected(server: Running) -> np.ndarray:
    return np.asarray(Segmenter.load(server.model, device="cpu")(nibabel.load(server.image)).dataobj)


def test_an_image(server: Running) -> None:
    job = job_of(server, "Miller.nii.gz", server.image.read_bytes())
    state = ended(server, job)
    assert {re.split(" is|:", text)[0] for text in state.pop("warnings")} == {"ball", "core"}
    assert state == {"id": job, "status": "done", "error": ""}
    answer = server.client.get(f"/jobs/{job}/result")
    made = volume(answer.content)
    np.testing.assert_array_equal(np.asarray(made.dataobj), expected(server))
    np.testing.assert_allclose(made.affine, nibabel.load(server.image).affine, atol=1e-5)
    (folder,) = server.temporary.glob(f"segtl-serve-*/files-*/{job}")
    assert [path.name for path in folder.iterdir()] == ["result.nii.gz"]  # the upload is gone
    assert server.client.delete(f"/jobs/{job}").status_code == 204
    assert [server.client.request(how, f"/jobs/{job}").status_code for how in ("GET", "DELETE")] == [404, 404]
    assert folders(server) == set()


def test_a_series(server: Running, tmp_path: Path) -> None:
    values = np.asarray(nibabel.load(server.image).dataobj).astype(np.int16)
    uid = write_series(tmp_path / "series", values, AFFINE)
    job = job_of(server, "study.zip", zipped(tmp_path / "series"))
    assert ended(server, job)["status"] == "done"
    answer = server.client.get(f"/jobs/{job}/result")
    assert answer.headers["content-type"] == "application/dicom"
    made = pydicom.dcmread(BytesIO(answer.content))
    assert made.Modality == "SEG" and made.PatientID == "12345"
    assert made.ReferencedSeriesSequence[0].SeriesInstanceUID == uid
    assert (made.Rows, made.Columns) == (values.shape[1], values.shape[0])


def test_what_is_no_image(server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer has the words of the command line."""
    broken = tmp_path / "scan.nii.gz"
    broken.write_bytes(server.image.read_bytes()[:500])
    assert main(["predict", "-m", str(server.model), "-i", str(broken), "-o", str(tmp_path / "out"), "-q"]) == 2
    printed = capsys.readouterr().err
    job = job_of(server, "C:\\Miller\\scan.nii.gz", broken.read_bytes())
    state = ended(server, job)
    assert state["status"] == "failed" and state["error"].startswith("scan.nii.gz: cannot be read")
    answer = server.client.get(f"/jobs/{job}/result")
    said = answer.json()["detail"]
    assert answer.status_code == 422 and said == state["error"]
    assert said.split("scan.nii.gz: ")[1] in printed.replace("; hint", "\n  hint")
    write_series(tmp_path / "two", np.zeros((8, 8, 4)), AFFINE)
    write_series(tmp_path / "two" / "other", np.zeros((8, 8, 4)), AFFINE)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "note.txt").write_text("no DICOM")
    write_series(tmp_path / "cut", np.zeros((8, 8, 4)), AFFINE)
    one = sorted((tmp_path / "cut").iterdir())[2]
    one.write_bytes(one.read_bytes()[:-40])
    one.rename(one.with_name("IM_2.dcm"))
    for content, message in (
        (zipped(tmp_path / "two"), "it holds 2 series"),
        (zipped(tmp_path / "text"), "study.zip: it holds no DICOM file"),
        (zipped(tmp_path / "cut"), "IM_2.dcm"),
        (b"PK\3\4 nothing", "study.zip: cannot be unpacked"),
    ):
        job = job_of(server, "study.zip", content)
        ended(server, job)
        answer = server.client.get(f"/jobs/{job}/result")
        assert answer.status_code == 422 and message in answer.json()["detail"]
        assert_no_stored_name(server, answer.text)


def assert_no_stored_name(server: Running, text: str) -> None:
    for internal in (str(server.temporary), str(server.model.parent), "image_", "series/"):
        assert internal not in text


def test_messages_name_the_file_of_the_client(server: Running, tmp_path: Path) -> None:
    client, image = server.client, nibabel.load(server.image)
    other = tmp_path / "other.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), other)
    files = [("file", ("t1.nii.gz", server.image.read_bytes())), ("file", ("/me/t2.nii.gz", other.read_bytes()))]
    said = ended(server, client.post("/jobs", files=files).json()["id"])["error"]
    assert said.startswith("t2.nii.gz: does not lie on the grid of t1.nii.gz")
    answer = client.post("/jobs", files={"file": ("C:\\me\\scan.txt", b"x")})
    assert answer.json()["detail"].startswith("scan.txt: its name has to end in")
    text = b"ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = /etc/passwd\n"
    said = ended(server, job_of(server, "scan.mhd", text))["error"]
    assert said.startswith("scan.mhd: ")
    assert_no_stored_name(server, said)
    kept = client.put("/session/", files={"files": ("kept.nii", b"nothing")}).json()["session_id"]
    answer = client.post(f"/infer/model?session_id={kept}&output=image", files={"params": (None, "{}")})
    client.delete(f"/session/{kept}")
    assert answer.status_code == 422 and answer.json()["detail"].startswith("kept.nii: cannot be read")
    assert_no_stored_name(server, answer.text)


def test_requests_that_make_no_sense(server: Running) -> None:
    client = server.client
    for name in ("passwd", "scan.dcm", ""):
        assert client.post("/jobs", files={"file": (name or "..", b"x")}).status_code == 415
    assert client.post("/jobs", files=[("file", ("a.zip", b"")), ("file", ("b.zip", b""))]).status_code == 415
    assert client.post("/jobs", data={"file": "text"}).status_code == 422
    assert client.post("/jobs").status_code == 422
    assert client.get("/jobs/../../etc/passwd").status_code == 404
    before = folders(server)
    answer = client.post("/jobs", files={"file": ("large.nii", bytes(LIMIT + 1))})
    assert answer.status_code == 413 and "300.0 KB" in answer.json()["detail"]
    assert folders(server) == before


def test_an_upload_without_a_length_ends_at_the_limit(server: Running) -> None:
    connection = http.client.HTTPConnection(server.client.base_url.host, server.client.base_url.port, timeout=60)
    connection.putrequest("POST", "/jobs")
    connection.putheader("Authorization", f"Bearer {TOKEN}")
    connection.putheader("Content-Type", "multipart/form-data; boundary=b")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.nii"\r\n\r\n'
    sent = 0
    for part in (head, *[bytes(50_000)] * 7):  # the body never ends
        connection.send(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        sent += len(part)
    answer = connection.getresponse()
    assert answer.status == 413 and sent > LIMIT
    connection.close()


def test_who_may_ask(server: Running) -> None:
    client = server.client
    for given in ("", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer wrong"):
        for path in ("/jobs/x", "/metrics", "/info/", "/openapi.json"):
            answer = client.get(path, headers={"Authorization": given})
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert client.get("/health", headers={"Authorization": ""}).json() == {"status": "ok"}
    assert client.get("/auth/", headers={"Authorization": ""}).json() == {"enabled": True}
    for password, code in (("wrong", 401), (TOKEN, 200)):
        data = {"username": "me", "password": password, "grant_type": "password"}
        assert client.post("/auth/token", data=data, headers={"Authorization": ""}).status_code == code
    assert TOKEN not in server.log.read_text()


def multipart_of_slicer(fields: dict[str, str], files: dict[str, Path]) -> tuple[str, bytes]:
    """The body as MONAI Label's client for 3D Slicer writes it: the file's whole path, and a line at the end."""
    limit = "----------lImIt_of_THE_fIle_eW_$"
    lines: list[bytes] = []
    for name, value in fields.items():
        lines += [f"--{limit}".encode(), f'Content-Disposition: form-data; name="{name}"'.encode(), b"", value.encode()]
    for name, file in files.items():
        head = f'Content-Disposition: form-data; name="{name}"; filename="{file}"'
        lines += [f"--{limit}".encode(), head.encode(), b"Content-Type: application/x-gzip", b"", file.read_bytes()]
    body = b"".join(line + b"\r\n" for line in (*lines, f"--{limit}--".encode(), b""))
    return f"multipart/form-data; boundary={limit}", body


def parts_of(answer: Any) -> dict[str, tuple[str, bytes]]:
    """Name -> file name and content of a multipart answer."""
    boundary = answer.headers["content-type"].partition("boundary=")[2].encode()
    found = {}
    for part in answer.content.split(b"--" + boundary)[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        file = re.search(rb'filename="([^"]*)"', head)
        assert name is not None
        found[name[1].decode()] = (file[1].decode() if file else "", content.removesuffix(b"\r\n"))
    return found


def test_3d_slicer(server: Running) -> None:
    client = server.client
    told = client.get("/info/").json()
    assert list(told["models"]) == ["model"] and told["models"]["model"]["type"] == "segmentation"
    assert told["labels"] == list(told["models"]["model"]["labels"])
    kind, body = multipart_of_slicer({"params": '{"client_id": "user"}'}, {"file": server.image})
    headers = {"Content-Type": kind}
    assert client.put("/datastore/?image=Volume", content=body, headers=headers).json() == {"image": "Volume"}
    session = client.put("/session/", files=[("files", (server.image.name, server.image.read_bytes()))]).json()
    identifier = session["session_id"]
    assert client.get(f"/session/{identifier}").status_code == 200
    for query, files in (
        ("image=Volume", {}),
        (f"image=Volume&session_id={identifier}", {}),
        ("image=", {"file": server.image}),
    ):
        kind, body = multipart_of_slicer({"params": '{"client_id": "user"}'}, files)
        answer = client.post(f"/infer/model?{query}", content=body, headers={"Content-Type": kind})
        assert answer.status_code == 200, answer.text
        parts = parts_of(answer)
        assert json.loads(parts["params"][1])["label_names"] == told["models"]["model"]["labels"]
        assert parts["image"][0] == "result.nii.gz"
        np.testing.assert_array_equal(np.asarray(volume(parts["image"][1]).dataobj), expected(server))
    kind, body = multipart_of_slicer({"params": '{"client_id": "another"}'}, {})
    answer = client.post("/infer/model?image=Volume", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 404 and "no such image" in answer.json()["detail"]
    assert client.delete(f"/session/{identifier}").status_code == 200
    assert client.get(f"/session/{identifier}").status_code == 404


def test_ohif(server: Running, tmp_path: Path) -> None:
    """Its request has params alone and asks for an uncompressed NRRD; the image is kept before."""
    client = server.client
    files = {"file": (server.image.name, server.image.read_bytes()), "params": (None, "{}")}
    assert client.put("/datastore/?image=1.2.3", files=files).status_code == 200
    wish = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False}
    params = {"params": (None, json.dumps(wish))}
    answer = client.post("/infer/model?image=1.2.3&output=image", files=params)
    assert answer.status_code == 200 and answer.content.startswith(b"NRRD")
    assert client.post("/infer/other?image=1.2.3&output=image", files=params).status_code == 404
    assert client.post("/infer/model?image=4.5&output=image", files=params).status_code == 404
    assert client.post("/infer/model?image=1.2.3&output=all", files={"params": (None, "[")}).status_code == 422
    broken = {"file": ("a.nii", b"nothing"), "params": (None, "{}")}
    answer = client.post("/infer/model?image=&output=image", files=broken)
    assert answer.status_code == 422 and "cannot be read" in answer.json()["detail"]


def test_a_full_queue_a_killed_job_and_a_deleted_one(server: Running) -> None:
    """The process that segments is stopped, so that jobs have to wait."""
    client = server.client
    worker, running = held_job(server)
    waiting = [job_of(server, "b.nii.gz", server.image.read_bytes()) for _ in range(2)]
    answer = client.post("/jobs", files={"file": ("c.nii.gz", server.image.read_bytes())})
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
    assert client.get(f"/jobs/{running}/result").status_code == 409
    assert "segtl_jobs_waiting 2\nsegtl" in re.sub("#.*\n", "", client.get("/metrics").text)
    assert client.delete(f"/jobs/{waiting[0]}").status_code == 204
    assert client.delete(f"/jobs/{running}").status_code == 204
    assert client.get("/health").status_code == 200
    until_running(server, waiting[1])
    another = segmenting(server.process, after=worker)
    assert another.pid != worker.pid
    another.kill()  # as the system does when memory runs out
    state = ended(server, waiting[1])
    assert state["status"] == "failed" and "killed" in state["error"]
    assert client.get(f"/jobs/{waiting[1]}/result").status_code == 500
    assert not {running, waiting[0]} & folders(server)
    assert list(next(server.temporary.glob(f"segtl-serve-*/files-*/{waiting[1]}")).iterdir()) == []
    said = client.get("/metrics").text
    assert 'segtl_jobs_total{status="deleted"} 1' in said and "segtl_worker_starts_total 2" in said
    away = server.model.rename(server.model.with_name("away"))
    state = ended(server, job_of(server, "a.nii.gz", server.image.read_bytes()))
    away.rename(server.model)
    assert state["error"].endswith("the models cannot be loaded again; the server's log says why")
    assert client.get(f"/jobs/{state['id']}/result").status_code == 500
    assert f"{server.model}: " in server.log.read_text()


@pytest.mark.slow
def test_made_up_requests(server: Running) -> None:
    """Schemathesis makes requests up from the schema, and compares answers with it."""
    pytest.importorskip("schemathesis")
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.client.base_url}/openapi.json"]
    command += ["-H", f"Authorization: Bearer {TOKEN}", "--max-examples", "15", "--seed", "0", "--phases", "fuzzing"]
    command += ["--checks", "not_a_server_error,status_code_conformance,response_schema_conformance"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-5000:]


def test_it_ends_when_it_is_told_to(server: Running) -> None:
    """The last test: with what still waits or runs, nothing stays."""
    ended(server, job_of(server, "a.nii.gz", server.image.read_bytes()))  # so that a process is there
    held_job(server)
    job_of(server, "b.nii.gz", server.image.read_bytes())
    children = psutil.Process(server.process.pid).children(recursive=True)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=60) == 0
    assert list(server.temporary.glob("segtl-*")) == []
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert "Traceback" not in server.log.read_text() and TOKEN not in server.log.read_text()
