"""Runs commands of segtl in processes of their own that start at once, and looks at what they leave."""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_server import NOT_ALLOWED
from safetensors import safe_open

HERE = Path(__file__).resolve().parent
LONGEST = 300.0
"""Seconds until a command counts as hanging, on a busy machine."""
ENDED = 10.0
"""Seconds within which the helpers of a process end after it, such as Python's tracker of shared resources."""
Tried = Callable[[str, int], None]
"""Counts so many faults of a kind for the table at the end of the tests' output."""
MEASURED = {"seconds", "digest", "since", "models"}
"""Fields of JSON files that differ from one run to the next: times, and digests of what holds times."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, negative for a signal; what it printed; and seconds."""

    code: int
    text: str
    seconds: float


class Commands:
    """Starts commands through :mod:`command_server`, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        paths = [str(path) for path in (HERE, HERE.parent, HERE.parents[1])]
        changes = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        self.server = subprocess.Popen(
            [sys.executable, str(HERE / "command_server.py")],
            env=os.environ | changes,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # so that what select says is true
        )
        assert self._answer(LONGEST) == "ready"

    def close(self) -> None:
        self.server.kill()
        self.server.communicate()

    def run(
        self,
        *arguments: object,
        prepare: list[list[Any]] | None = None,
        kill: float | None = None,
        meanwhile: Callable[[int], None] | None = None,
    ) -> Ended:
        """Run a command to its end, or kill it.

        Args:
            arguments: Of the command.
            prepare: Names of functions of :mod:`command_server` with their arguments, called before.
            kill: Seconds after which the process is killed.
            meanwhile: Called with the process's number while it works.
        """
        request = {
            "arguments": [str(argument) for argument in arguments],
            "folder": str(self.folder),
            "prepare": prepare or [],
        }
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(request).encode() + b"\n")
        number, start = int(self._answer(LONGEST)), time.monotonic()
        try:
            if kill is not None and self._is_quiet_for(kill):
                os.kill(number, signal.SIGKILL)
            if meanwhile is not None:
                meanwhile(number)
            code, text = json.loads(self._answer(LONGEST))
        finally:
            seconds = time.monotonic() - start
            deadline = time.monotonic() + ENDED
            while (left := _processes_of(number)) and time.monotonic() < deadline:
                time.sleep(0.05)
            for process in left:
                os.kill(process, signal.SIGKILL)
        assert not left, f"processes are left: {left}\n{text}"
        if code == NOT_ALLOWED:
            pytest.skip("the machine does not allow to prepare this")
        return Ended(code, text, seconds)

    def succeeds(self, *arguments: object, prepare: list[list[Any]] | None = None) -> Ended:
        ended = self.run(*arguments, prepare=prepare)
        assert ended.code == 0, ended.text
        return ended

    def fails(self, *arguments: object, prepare: list[list[Any]], saying: str) -> Ended:
        """The command ends with exit code 2 and one message that says this."""
        ended = self.run(*arguments, prepare=prepare)
        assert ended.code == 2 and "Traceback" not in ended.text and saying in ended.text, ended
        return ended

    def _is_quiet_for(self, seconds: float) -> bool:
        assert self.server.stdout is not None
        ready, _, _ = select.select([self.server.stdout], [], [], seconds)
        return not ready

    def _answer(self, seconds: float) -> str:
        assert self.server.stdout is not None
        assert not self._is_quiet_for(seconds), f"no answer within {seconds:.0f} s"
        return self.server.stdout.readline().decode().strip()


def workers_of(number: int) -> list[int]:
    """The workers that a command has spawned."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if _session(process.pid) == number and any("spawn_main" in part for part in process.cmdline()):
                found.append(process.pid)
    return found


def _processes_of(number: int) -> list[int]:
    return [process for process in psutil.pids() if _session(process) == number]


def _session(process: int) -> int:
    try:
        return os.getsid(process)
    except ProcessLookupError:
        return 0


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def hidden(folder: Path) -> list[Path]:
    """Temporary files and folders, and locks."""
    return [path for path in folder.rglob("*") if path.name.startswith(".") or path.suffix == ".lock"]


def results(folder: Path) -> dict[str, Any]:
    """What the files of a folder say: the same for two runs of the same commands, whenever they ran.

    Pictures only by name, and logs, which have times in them, not at all.
    """
    return {
        str(file.relative_to(folder)): _content(file)
        for file in files_of(folder)
        if "tensorboard" not in file.parts and file.name != "segtl.log"
    }


def _content(file: Path) -> Any:
    if file.suffix in (".safetensors", ".segtl"):
        with safe_open(file, framework="np") as tensors:
            return {name: hashlib.sha256(tensors.get_tensor(name).tobytes()).hexdigest() for name in tensors.keys()}  # noqa: SIM118
    if file.suffix == ".json":
        return _without_times(json.loads(file.read_text(encoding="utf-8")))
    if file.suffix in (".png", ".stamp") or file.name == "log.csv":
        return None
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_times(inner) for name, inner in value.items() if name not in MEASURED}
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value
