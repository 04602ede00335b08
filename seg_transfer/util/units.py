"""Amounts of memory and time as text: ``8GB``, ``30m``; and the range of spacings."""

from __future__ import annotations

import math
import re

from seg_transfer.errors import UserError

SPACINGS = (1e-7, 1e4)
"""Least and largest spacing, in mm: a tenth of a nanometre and ten metres."""

_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTES |= {"K": 10**3, "M": 10**6, "G": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SECONDS = {"": 1.0, "S": 1.0, "MIN": 60.0, "M": 60.0, "H": 3600.0, "D": 86400.0}


def bytes_from_text(text: str) -> int:
    """Parse ``8GB``, ``500 MB``, ``6GiB`` or a plain number of bytes.

    Raises:
        UserError: If the text is no positive amount of memory.
    """
    return int(_amount(text, _BYTES, examples="8GB, 500MB"))


def seconds_from_text(text: str) -> float:
    """Parse ``90s``, ``30m``, ``1.5h``, ``1h30m``, ``1:30:00`` or a plain number of seconds.

    Raises:
        UserError: If the text is no positive time.
    """
    if ":" in text:
        clock = re.fullmatch(r"\s*(\d{1,4}):([0-5]\d):([0-5]\d)\s*", text)
        hours, minutes, seconds = map(int, clock.groups()) if clock else (0, 0, 0)
        if not hours + minutes + seconds:
            raise UserError(f"cannot read {text!r}", hint="write hours, minutes and seconds, as in 1:30:00, or 1h30m")
        return 3600.0 * hours + 60 * minutes + seconds
    parts = re.findall(r"[\d.]+\s*[A-Za-z]+", text)
    if len(parts) > 1 and re.sub(r"\s", "", "".join(parts)) == re.sub(r"\s", "", text):
        return sum(seconds_from_text(part) for part in parts)
    return _amount(text, _SECONDS, examples="90s, 30m, 1h30m")


def _amount(text: str, units: dict[str, float] | dict[str, int], *, examples: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*", text)
    factor = units.get(match[2].upper()) if match else None
    if match is None or factor is None or not 0 < float(match[1]) * factor < math.inf:
        raise UserError(f"cannot read {text!r}", hint=f"write it as one of {examples}")
    return float(match[1]) * factor


def bytes_text(count: float) -> str:
    """``1234567890`` -> ``1.2 GB``."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def seconds_text(seconds: float) -> str:
    """``5`` -> ``5 s``, ``300`` -> ``5 min``, ``5400`` -> ``1 h 30 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"
