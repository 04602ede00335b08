"""A process that reads damaged files one after the other, with little memory; see :mod:`fuzz_process`.

Each line of standard input is a reader's name and a file, as JSON; each line of the answer says how it ended.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import sys
import time
import traceback
from pathlib import Path

from fuzz_readers import READERS, make_inputs

from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.util.progress import TRACEBACKS

MEMORY = 2**29
"""Bytes that reading a small file may take on top of what the process holds after reading every valid file."""
_NO_MEMORY = re.compile(r"MemoryError|bad_alloc|[Cc]an't allocate memory|not enough memory|[Ff]ailed to allocate")


class Defects(logging.Handler):
    """Keeps the tracebacks of failed cases, which a user's file must not cause."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage())


def ran_out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if _NO_MEMORY.search(f"{type(error).__name__}: {error}"):
            return True
        error = error.__cause__ or error.__context__
    return False


def attempt(name: str, file: Path, defects: Defects) -> dict[str, object]:
    """Read a file; the outcome is "read", "refused" or "defect"."""
    defects.found.clear()
    start, outcome, text = time.process_time(), "read", ""
    try:
        READERS[name](file)
    except UserError as error:
        outcome, text = "refused", str(error)
        if ran_out_of_memory(error):
            outcome, text = "defect", "took too much memory\n" + traceback.format_exc()
    except SomeCasesFailed as error:
        outcome, text = "refused", str(error)
    except BaseException:
        outcome, text = "defect", traceback.format_exc()
    if defects.found:
        outcome, text = "defect", "\n".join(defects.found)
    return {"outcome": outcome, "text": text, "seconds": time.process_time() - start}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # commands print their results
    defects = Defects()
    logging.getLogger(TRACEBACKS).addHandler(defects)
    folder = Path.cwd() / "valid"
    folder.mkdir()
    make_inputs(folder)
    first = {name: attempt(name, folder / name, defects) for name in READERS}
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    print(json.dumps(first), file=answers, flush=True)
    for line in sys.stdin:
        name, file = json.loads(line)
        print(json.dumps(attempt(name, Path(file), defects)), file=answers, flush=True)


if __name__ == "__main__":
    main()
