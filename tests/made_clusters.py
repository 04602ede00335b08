"""Clusters of Dask for tests: threads of this process, or a real scheduler and real workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def in_this_process(*, workers: int, threads: int = 1) -> Any:
    """A scheduler and workers as threads of the tests' process."""
    import distributed

    return distributed.LocalCluster(
        n_workers=workers, threads_per_worker=threads, processes=False, dashboard_address=None, protocol="inproc"
    )


class Processes:
    """A scheduler and three workers, each a process of its own; workers that do not answer for 15 s count as dead."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.running = folder, []
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self, count: int = 3) -> str:
        file = self.folder / "scheduler.json"
        file.unlink(missing_ok=True)
        self._run("scheduler", "--port", "0", "--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file))
        deadline = time.monotonic() + 60
        while not file.is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        for _ in range(count):
            options = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--scheduler-file", str(file)]
            self.workers.append(self._run("worker", *options, "--local-directory", str(self.folder)))
        return str(json.loads(file.read_text())["address"])

    def _run(self, kind: str, *options: str) -> subprocess.Popen[bytes]:
        quick = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "15s", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options]
        options = {"cwd": self.folder, "env": os.environ | quick, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, **options)
        self.running.append(process)
        return process

    def stop(self) -> None:
        for process in self.running:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        self.running.clear()
        self.workers.clear()
