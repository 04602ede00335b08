"""Clusters that a command starts for itself: worker processes of this machine, and jobs of a queue."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from made_balls import make_dataset

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.util.environment import cores

pytest.importorskip("dask_jobqueue", reason="the extra cluster is not installed")
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
HERE = "interface: lo\n    scheduler-options: {dashboard_address: null}\n    "


def whole(folder: Path) -> dict[str, bytes]:
    """Content of every file of a work folder, but for its log and the data set's stamp, which has times."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".log"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if not path.name.startswith(".")}


def prepare(data: Path, work: Path, **options: object) -> dict[str, bytes]:
    seg_transfer.plan(data, work=work, device="cpu", strategy="gradual", **options)
    seg_transfer.preprocess(work=work, **options)
    return whole(work)


def command(folder: Path, name: str, text: str) -> None:
    """A command on the path, in place of that of a queue."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "there is no such file"),
        (b"", "`jobqueue` has to name one of"),
        (b"\xff\x00\xfe", "malformed"),
        (b"jobqueue: {slurm: [", "malformed"),
        (b"- slurm", "got a list"),
        (b"jobqueue: slurm", "`jobqueue` has to name one of"),
        (b"jobqueue: {slurm: {}, pbs: {}}", "`jobqueue` has to name one of"),
        (b"jobqueue: {kubernetes: {}}", "htcondor, local, lsf"),
        (b"jobqueue: {slurm: 3}", "`slurm` has no settings"),
        (b"jobqueue: {slurm: {core: 1}}", "no setting 'core' of slurm"),
        (b"jobqueue: {slurm: {cores: 1, memory: 2GB}}", "number of workers from 1, not None"),
        (b"jobqueue: {slurm: {cores: 1}}\ndistributed: {adaptive: {maximum: 2.5}}", "not 2.5"),
        (b"jobqueue: {slurm: {cores: 1}}\ndistributed: {adaptive: {maximum: 0}}", "not 0"),
        (b"jobqueue: {slurm: {cores: 1}}\ndistributed: {adaptive: {minimum: 3, maximum: 2}}", "above its maximum 2"),
        (b"jobqueue: {slurm: {cores: 1}}\ndistributed: {adaptive: {maximum: 2}}", "how much cores and memory"),
        (b"jobqueue: {slurm: {cores: x, memory: 1}}\ndistributed: {adaptive: {maximum: 2}}", "cannot start"),
        (b"jobqueue: {slurm: {cores: 1, memory: big}}\ndistributed: {adaptive: {maximum: 2}}", "cannot start"),
    ],
)
def test_a_file_that_describes_no_jobs(
    content: bytes | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "jobs.yaml"
    if content is not None:
        file.write_bytes(content)
    assert main(["check", str(tmp_path), "--cluster", str(file)]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert told in error and "jobs.yaml" in error.replace(" ", "") and "hint:" in error and "Traceback" not in error


def test_the_script_of_a_job_and_a_queue_that_refuses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = "queue: short\n    job_extra_directives: ['--constraint=avx512']\n    "
    (tmp_path / "slurm.yaml").write_text(EXAMPLE.replace("cores:", f"{HERE}{more}cores:"))
    command(tmp_path / "bin", "sbatch", f'cat "$1" > {tmp_path}/script; echo "Invalid account" >&2; exit 1')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert main(["check", str(tmp_path), "--cluster", str(tmp_path / "slurm.yaml")]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "Invalid account" in error and "sbatch" in error and "Traceback" not in error
    script = (tmp_path / "script").read_text()
    for line in ("#SBATCH -p short", "#SBATCH --cpus-per-task=1", "#SBATCH --mem=4G", "#SBATCH -t 01:00:00"):
        assert f"\n{line}\n" in script
    assert "\n#SBATCH --constraint=avx512\n" in script
    assert re.search(rf"^{re.escape(sys.executable)} -m distributed.cli.dask_worker tcp://127.0.0.1:\d+", script, re.M)


def jobs_file(folder: Path, queue: str, workers: int) -> Path:
    """The page's file for this machine; Slurm's commands are stand-ins that run the script at once."""
    text = EXAMPLE.replace("cores:", f"{HERE}cores:").replace("maximum: 20", f"maximum: {workers}")
    if queue == "local":
        text = text.replace("slurm:", "local:").replace("    walltime: '01:00:00'\n", "")
    (folder / "jobs.yaml").write_text(f"{text}  deploy: {{lost-worker-timeout: 500ms}}\n")
    script, log = f"{folder}/$$.sh", f"{folder}/$$.log"
    run = (
        f'cp "$1" {script}; setsid bash {script} > {log} 2>&1 & echo "Submitted job $!"; echo $! >> {folder}/submitted'
    )
    command(folder / "bin", "sbatch", run)
    command(folder / "bin", "scancel", f'echo "$1" >> {folder}/cancelled; kill -- "-$1"')
    return folder / "jobs.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("queue", ["slurm", "local"])
def test_jobs_work_and_are_ended(queue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = jobs_file(tmp_path, queue, workers=2)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    data = make_dataset(tmp_path / "balls", cases=6)
    expected = prepare(data, tmp_path / "near", workers=0)
    assert prepare(data, tmp_path / "far", cluster=str(file)) == expected
    if queue == "slurm":
        submitted = (tmp_path / "submitted").read_text().split()
        assert len(submitted) == 4  # of two commands
        assert sorted((tmp_path / "cancelled").read_text().split()) == sorted(submitted)
    wait_until(lambda: not workers())


@pytest.mark.slow
def test_a_job_that_the_queue_ends_is_submitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = jobs_file(tmp_path, "slurm", workers=1)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    data = make_dataset(tmp_path / "balls", cases=24)
    expected = prepare(data, tmp_path / "near", workers=0)
    seg_transfer.plan(data, work=tmp_path / "far", device="cpu", strategy="gradual", workers=0)

    def end_the_only_job() -> None:
        wait_until(lambda: len(list(tmp_path.glob("far/preprocessed/*/*/case.json"))) >= 3)
        os.killpg(int((tmp_path / "submitted").read_text()), signal.SIGKILL)

    ending = threading.Thread(target=end_the_only_job)
    ending.start()
    seg_transfer.preprocess(work=tmp_path / "far", cluster=str(file))
    ending.join()
    assert whole(tmp_path / "far") == expected
    assert len((tmp_path / "submitted").read_text().split()) == 2


@pytest.mark.slow
def test_workers_of_this_machine(tmp_path: Path) -> None:
    """Of a script without `if __name__ == "__main__"`, from standard input."""
    data = make_dataset(tmp_path / "balls", cases=6)
    expected = prepare(data, tmp_path / "near", workers=0)
    script = f"""
import seg_transfer
print("once")
options = dict(work={str(tmp_path / "far")!r}, cluster="local")
seg_transfer.plan({str(data)!r}, device="cpu", strategy="gradual", **options)
seg_transfer.preprocess(**options)
"""
    done = subprocess.run([sys.executable], input=script, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "once\n", "")
    assert whole(tmp_path / "far") == expected
    wait_until(lambda: not workers())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_command(number: int, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "balls", cases=2)
    for copy in range(2000):  # more than are measured until the signal comes
        for name, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
            os.link(data / name / f"case_0{ending}", data / name / f"copy_{copy}{ending}")
    described = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps(described | {"numTraining": 2002}))
    options = ["plan", str(data), "-w", str(tmp_path / "work"), "--device", "cpu", "--cluster", "local"]
    run = subprocess.Popen(
        [sys.executable, "-m", "seg_transfer", *options], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(lambda: len(workers()) == cores())
    time.sleep(3)
    if number == signal.SIGINT:
        os.killpg(run.pid, number)  # as a terminal does
    else:
        run.send_signal(number)
    told = run.communicate(timeout=60)[1]
    assert run.returncode in (130, -signal.SIGKILL) and "Traceback" not in told
    wait_until(lambda: not workers())


def workers() -> list[psutil.Process]:
    """Processes of Dask that work for this test."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = " ".join(process.info["cmdline"] or [])
        mine = (process.info["environ"] or {}).get("PYTEST_CURRENT_TEST") == os.environ["PYTEST_CURRENT_TEST"]
        if mine and ("dask_worker" in words or "spawn_main" in words):
            found.append(process)
    return found


def wait_until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)
