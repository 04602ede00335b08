"""Tells processes apart, and the dead from the living, across containers that share a folder.

Process numbers alone identify nobody: in two containers they are the same, and the system uses them again.
"""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path


def namespace() -> str:
    """Where a process number is unique: this boot of this machine and, on Linux, the PID namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def start_of(pid: int) -> int | None:
    """When a process of this namespace started, in clock ticks since the boot; None where that is not known."""
    process = _process(pid)
    return None if process is None else process[1]


def is_alive(pid: int, started: int | None, within: str) -> bool | None:
    """Whether a process runs; None if that cannot be known from here.

    Args:
        pid: Its number.
        started: When it started, of :func:`start_of`.
        within: The :func:`namespace` of the number.
    """
    if within != namespace():
        return None
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    process = _process(pid)
    if process is None or started is None:
        return None
    state, start = process
    return state not in "ZX" and start == started


def short_namespace() -> str:
    """Eight hexadecimal digits of the :func:`namespace`, for names of files."""
    return hashlib.sha256(namespace().encode()).hexdigest()[:8]


def _process(pid: int) -> tuple[str, int] | None:
    """State and start of a process of this namespace; None where that is not known.

    A container may see the processes of another namespace in ``/proc``: then this process has another number there.
    """
    try:
        if str(Path("/proc/self").readlink()) != str(os.getpid()):
            return None
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
