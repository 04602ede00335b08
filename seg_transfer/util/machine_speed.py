"""What was measured about this machine's processor, kept in the user's cache so that planning need not load torch."""

from __future__ import annotations

import json
import os
import platform
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from seg_transfer.errors import UserError
from seg_transfer.util.files import write_text
from seg_transfer.util.local_files import make_folder
from seg_transfer.util.texts import version_of

_CPU = Path("/proc/cpuinfo")
_BFLOAT16 = {"amx_bf16", "avx512_bf16", "avx_ne_convert", "bf16", "svebf16"}
"""Instructions for bfloat16 as Linux names them, on x86 and ARM."""


def processor() -> str:
    """Name of the processor."""
    return _field("model name") or platform.processor() or platform.machine()


def lacks_bfloat16() -> bool:
    """Whether the processor is known to have no instructions for bfloat16; False where the system does not say."""
    flags = _flags()
    return bool(flags) and not _BFLOAT16 & set(flags)


def remembered(name: str, measure: Callable[[], float]) -> float:
    """Measure, or take what was measured earlier with the same processor and version of torch.

    Args:
        name: Of the measurement.
        measure: Returns a positive number.
    """
    key = f"{processor()} {zlib.crc32(' '.join(_flags()).encode()):08x}, torch {version_of('torch')}"
    path = _file()
    known = _read(path)
    earlier = known.get(key)
    of_machine = earlier if isinstance(earlier, dict) else {}
    found = of_machine.get(name)
    if isinstance(found, float) and 0 < found < float("inf"):
        return found
    measured = float(measure())
    with suppress(OSError, UserError):  # a user without a home, or one that is read-only
        make_folder(path.parent)
        write_text(path, json.dumps({**known, key: {**of_machine, name: measured}}, indent=1) + "\n")
    return measured


def _file() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    with suppress(RuntimeError):  # there is no home
        cache = cache.expanduser()
    return cache / "segtl" / "machine.json"


def _read(path: Path) -> dict[str, object]:
    """What the file holds; nothing where it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _flags() -> list[str]:
    return (_field("flags") or _field("Features")).split()


def _field(name: str) -> str:
    """The first value of a field of Linux's description of the processor; empty where there is none."""
    with suppress(OSError):
        for line in _CPU.read_text(encoding="ascii", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""
