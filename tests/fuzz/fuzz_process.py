"""Starts the process that reads damaged files, and ends it when it hangs.

One process reads them all, since importing torch takes seconds. A library that ends the whole process is noticed too.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
STARTED = 300.0
"""Seconds until the process has imported everything, on a busy machine."""
HANGS = 60.0
"""Seconds after which an answer is not waited for any more."""


class FuzzProcess:
    """Reads files with the readers of :mod:`fuzz_readers`; starts again after it died.

    Args:
        folder: An empty folder for its files.

    Attributes:
        first: Reader -> how it read its valid file.
        valid: Reader -> content of its valid file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.starts = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.first: dict[str, dict[str, Any]] = self._started()
        self.valid = {name: (folder / "0" / "valid" / name).read_bytes() for name in self.first}

    def read(self, name: str, content: bytes) -> dict[str, Any]:
        """Write content in place of a reader's file and read it; the outcome says how it ended."""
        if self.process is None:
            self._started()
        assert self.process is not None
        file = self.folder / str(self.starts - 1) / "valid" / name
        file.write_bytes(content)
        return self._answer(json.dumps([name, str(file)]) + "\n", HANGS)

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _started(self) -> dict[str, dict[str, Any]]:
        folder = self.folder / str(self.starts)
        folder.mkdir()
        self.starts += 1
        paths = [str(path) for path in (HERE, HERE.parent, HERE.parents[1])]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "1",
        }
        with (folder / "errors.txt").open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "fuzz_child.py")],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        answer = self._answer("", STARTED)
        assert "outcome" not in answer, answer
        return answer

    def _answer(self, question: str, seconds: float) -> dict[str, Any]:
        process = self.process
        assert process is not None and process.stdin is not None and process.stdout is not None
        process.stdin.write(question.encode())
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        line = process.stdout.readline() if ready else b""
        if line:
            return json.loads(line)
        self.close()
        how = f"the process ended with {process.returncode}" if ready else f"no answer within {seconds:.0f} s"
        errors = (self.folder / str(self.starts - 1) / "errors.txt").read_text(errors="replace")
        return {"outcome": "defect", "text": f"{how}\n{errors[-3000:]}", "seconds": seconds}
