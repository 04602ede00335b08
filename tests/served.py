"""`segtl serve` as a process of its own, for tests."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from seg_transfer.serving.service_folder import LOCK
from seg_transfer.util.locks import DEAD_AFTER, Holder


class Running(NamedTuple):
    """A server that runs."""

    process: subprocess.Popen
    client: Any
    model: Path
    image: Path
    temporary: Path
    log: Path


def start(
    model: Path, temporary: Path, *options: str, token: str | None = None, command: str = "serve"
) -> tuple[subprocess.Popen, Path]:
    """Start a server on a free port, in a group of processes of its own.

    Args:
        model: The model.
        temporary: Its folder for temporary files, which also gets its log.
        options: Further options.
        token: In the environment.
        command: ``serve`` or ``dicom-node``.

    Returns:
        The process and its log.
    """
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "TMPDIR": str(temporary),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("SEGTL_TOKEN", None)
    if token is not None:
        environment["SEGTL_TOKEN"] = token
    arguments = [sys.executable, "-m", "seg_transfer", command, "-m", str(model), "--port", "0", "--device", "cpu"]
    log = temporary / f"log_{time.monotonic_ns()}"
    with log.open("w") as said:
        process = subprocess.Popen(
            [*arguments, *options], stdout=subprocess.PIPE, stderr=said, text=True, env=environment, process_group=0
        )
    return process, log


@contextmanager
def served(
    model: Path, temporary: Path, *options: str, token: str | None = None, certificate: Path | None = None
) -> Iterator[Running]:
    """A server of a model of ``exported_balls``, as of :func:`start`, that listens; the token is also the client's.

    Args:
        model: The model.
        temporary: Its folder for temporary files.
        options: Further options.
        token: Of the server and the client.
        certificate: Of a server with TLS; its key lies beside it.
    """
    import httpx

    scheme, verify = "http://", True
    if certificate is not None:
        options += ("--tls-cert", str(certificate), "--tls-key", str(certificate.with_suffix(".key")))
        scheme, verify = "https://", ssl.create_default_context(cafile=certificate)

    process, log = start(model, temporary, *options, token=token)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address.startswith(scheme), log.read_text()
        image = next((model.parent / "balls" / "imagesTr").iterdir())
        address = address.replace("0.0.0.0", "127.0.0.1")  # where it listens on every address
        with httpx.Client(base_url=address, headers=headers, timeout=60, verify=verify) as client:
            yield Running(process, client, model, image, temporary, log)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def job_of(server: Running, name: str, content: bytes) -> str:
    """Upload a file; the identifier of its job."""
    answer = server.client.post("/jobs", files={"file": (name, content)})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/jobs/{answer.json()['id']}"
    return answer.json()["id"]


def ended(server: Running, job: str) -> dict[str, Any]:
    """Wait for a job; its state."""
    while (state := server.client.get(f"/jobs/{job}").json())["status"] in ("queued", "running"):
        time.sleep(0.05)
    return state


def until_running(server: Running, job: str) -> None:
    """Wait until a job runs, of a server whose process that segments is stopped."""
    end = time.monotonic() + 120
    while (status := server.client.get(f"/jobs/{job}").json()["status"]) != "running":
        assert status == "queued" and time.monotonic() < end, status
        time.sleep(0.05)


def held_job(server: Running) -> tuple[psutil.Process, str]:
    """Stop the process that segments while it has a job, so that others have to wait; the process and the job."""
    worker = segmenting(server.process)
    worker.suspend()
    job = job_of(server, "a.nii.gz", server.image.read_bytes())
    until_running(server, job)
    return worker, job


def until_gone(server: Running, path: str) -> set[str]:
    """Wait until a path answers 404; what else it answered as status."""
    seen = set()
    end = time.monotonic() + 120
    while (answer := server.client.get(path)).status_code != 404:
        assert answer.status_code == 200 and time.monotonic() < end, answer.text
        seen.add(answer.json().get("status", ""))
        time.sleep(0.05)
    return seen


def folders(server: Running) -> set[str]:
    """Folders of jobs that are on the disk."""
    (files,) = server.temporary.glob("segtl-serve-*/files-*")
    return {path.name for path in files.iterdir()}


def segmenting(process: subprocess.Popen, *, after: psutil.Process | None = None) -> psutil.Process:
    """Wait until one child of a server segments, and no other; the next one after a child that is killed."""
    end = time.monotonic() + 120
    while True:
        children = psutil.Process(process.pid).children()
        with suppress(psutil.NoSuchProcess):  # it has just ended
            found = [one for one in children if "resource_tracker" not in " ".join(one.cmdline())]
            if len(found) == 1 and found[0] != after and "--multiprocessing-fork" in found[0].cmdline():
                return found[0]
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)


def left_folder(parent: Path, name: str = "segtl-serve-left", *, silent: float = DEAD_AFTER + 5, **change: Any) -> Path:
    """A folder as a service leaves it when it is killed, of another boot if nothing else is given.

    Args:
        parent: Where it is made.
        name: Its name.
        silent: Seconds since its lock was refreshed.
        change: What its lock says that differs.
    """
    folder = parent / name
    (folder / "files-x" / "job").mkdir(parents=True)
    (folder / "files-x" / "job" / "image_0.nii").write_text("of a patient")
    content = Holder.this_process().model_copy(update={"namespace": "another boot"} | change).model_dump_json()
    (folder / LOCK).write_text(content)
    os.utime(folder / LOCK, (time.time() - silent,) * 2)
    return folder
