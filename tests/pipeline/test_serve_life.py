"""How `segtl serve` starts and ends, whom it answers without a token, and that nothing stays: real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from made_certificates import make_certificate
from made_work import exported_balls
from served import Running, ended, folders, held_job, job_of, segmenting, served, start, until_gone

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_balls(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def public(model: Path, temporary: Path) -> Iterator[Running]:
    """A server for other machines with TLS, without a token of its user."""
    certificate = make_certificate(model.parent, "server")
    with served(model, temporary, "--host", "0.0.0.0", certificate=certificate) as running:
        yield running


@pytest.fixture(scope="module")
def left(public: Running) -> Path:
    """The folder that it leaves when it is killed."""
    if public.process.poll() is None:
        public.process.kill()
        public.process.wait()
    (folder,) = public.temporary.glob("segtl-serve-*")
    return folder


@pytest.fixture(scope="module")
def local(model: Path, temporary: Path, left: Path) -> Iterator[Running]:
    """A server for this machine, which keeps results for a moment."""
    with served(model, temporary, "--keep", "2s") as running:
        yield running


def test_a_token_is_made_for_other_machines(public: Running) -> None:
    assert public.process.stdout is not None
    found = re.fullmatch(r"token: ([\w-]{32})\n", public.process.stdout.readline())
    assert found is not None
    client, good = public.client, {"Authorization": f"Bearer {found[1]}"}
    files = {"file": ("a.nii.gz", public.image.read_bytes())}
    for headers in ({}, {"Authorization": "Bearer " + found[1].swapcase()}):
        assert client.get("/metrics", headers=headers).status_code == 401
        assert client.post("/jobs", files=files, headers=headers).status_code == 401
    assert folders(public) == set()
    assert client.get("/metrics", headers=good | {"Host": "any.example", "Origin": "http://x"}).status_code == 200
    client.headers.update(good)
    ended(public, job_of(public, "a.nii.gz", public.image.read_bytes()))
    assert found[1] not in public.log.read_text()


def test_nothing_is_answered_without_tls(public: Running) -> None:
    address = public.client.base_url
    assert address.scheme == "https"
    with pytest.raises(httpx.TransportError):
        httpx.get(str(address.copy_with(scheme="http", path="/health")))
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(str(address.copy_with(path="/health")))
    assert public.client.get("/health").status_code == 200


def test_when_it_is_killed_its_children_end_and_its_files_stay(public: Running) -> None:
    before = folders(public)
    children = psutil.Process(public.process.pid).children(recursive=True)
    assert len(before) == 1 and segmenting(public.process) in children
    public.process.kill()
    public.process.wait()
    assert public.process.stdout is not None and public.process.stdout.read() == ""  # the token was printed once
    assert psutil.wait_procs(children, timeout=60)[1] == []
    assert folders(public) == before


def test_the_next_start_removes_what_a_killed_one_left(left: Path, local: Running) -> None:
    assert not left.exists() and len(folders(local)) == 0
    assert f"removed {left}" in local.log.read_text()


def test_names_and_sites_that_are_not_answered(local: Running) -> None:
    client = local.client
    host = f"127.0.0.1:{client.base_url.port}"
    names = {host: 200, host.replace("127.0.0.1", "localhost"): 200}
    names |= dict.fromkeys(("evil.example", f"evil.example:{client.base_url.port}", "127.0.0.1", ""), 421)
    for name, code in names.items():
        assert client.get("/health", headers={"Host": name}).status_code == code, name
    sites = {f"http://{host}": 200}
    other = ("http://evil.example", f"http://{host}.evil.example", f"http://evil.example/{host}", "null", "http://[")
    sites |= dict.fromkeys(other, 403)
    for site, code in sites.items():
        assert client.get("/info/", headers={"Origin": site}).status_code == code, site
    files = {"file": ("a.nii.gz", local.image.read_bytes())}
    for headers, code in (({"Host": "evil.example"}, 421), ({"Origin": "http://evil.example"}, 403)):
        assert client.post("/jobs", files=files, headers=headers).status_code == code
        assert client.put("/session/", files=files, headers=headers).status_code == code
    assert folders(local) == set()


def test_results_and_kept_images_expire(local: Running) -> None:
    """A job that runs does not, however long it takes."""
    client = local.client
    worker, job = held_job(local)
    waiting = job_of(local, "b.nii.gz", local.image.read_bytes())
    kept = client.put("/session/", files={"files": ("c.nii.gz", local.image.read_bytes())}).json()["session_id"]
    assert folders(local) == {job, waiting, kept}
    until_gone(local, f"/session/{kept}")
    assert folders(local) == {job, waiting}
    states = [client.get(f"/jobs/{each}").json()["status"] for each in (job, waiting)]
    assert states == ["running", "queued"]
    worker.resume()
    for each in (job, waiting):
        assert until_gone(local, f"/jobs/{each}") <= {"queued", "running", "done"}
        answer = client.get(f"/jobs/{each}/result")
        assert answer.status_code == 404 and "expire" in answer.json()["detail"]
        assert client.delete(f"/jobs/{each}").status_code == 404
    assert folders(local) == set()
    assert 'segtl_jobs_total{status="done"} 2' in client.get("/metrics").text


def test_ctrl_c_ends_it_while_jobs_run(local: Running) -> None:
    """A terminal sends SIGINT to all of its processes."""
    for _ in range(6):
        job_of(local, "a.nii.gz", local.image.read_bytes())
    assert_ends_cleanly(local.process, local.temporary, local.log, signal.SIGINT)


def test_a_node_ends_while_it_loads_the_models(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("pynetdicom")
    pytest.importorskip("highdicom")
    process, log = start(model, tmp_path, "--peer", "PACS@127.0.0.1:104", command="dicom-node")
    segmenting(process).suspend()  # it never ends loading
    assert len(list(tmp_path.glob("segtl-node-*"))) == 1
    assert_ends_cleanly(process, tmp_path, log, signal.SIGTERM)
    assert process.stdout is not None and process.stdout.read() == ""
    process.stdout.close()


def assert_ends_cleanly(process: subprocess.Popen, temporary: Path, log: Path, number: signal.Signals) -> None:
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    os.killpg(process.pid, number)
    assert process.wait(timeout=60) == 0
    assert list(temporary.glob("segtl-*")) == []
    assert psutil.wait_procs(children, timeout=60)[1] == []
    assert "Traceback" not in log.read_text(), log.read_text()
