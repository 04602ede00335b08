"""Limits of the machine or the account: memory, open files, processes and threads.

Libraries report them in many ways; here each becomes one message.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from seg_transfer.errors import EveryCaseFails, UserError


class LimitReached(EveryCaseFails):
    """Something ran out that the other cases need too, such as room on the disk."""


_FILES = re.compile(r"[Tt]oo many open files")
_PROCESSES = re.compile(r"can't start new thread|pthread_create|Resource temporarily unavailable")
_MEMORY = re.compile(
    r"can't allocate memory|[Cc]annot allocate memory|bad_alloc|not enough memory|[Oo]ut of memory"
    r"|failed to map segment|could not create a primitive|[Ff]ailed to allocate|[Uu]nable to allocate"
)
_TOLD_IN_TEXT = (RuntimeError, ImportError, OSError, SystemError)
_LONGEST = 200


def limit_reached(error: BaseException) -> UserError | None:
    """What to tell the user about an error that a limit caused, directly or as its cause; None for any other error.

    Returns:
        :class:`LimitReached` if files or processes ran out; a plain :class:`UserError` for memory, of which another
        case may need less.
    """
    for one in _chain(error):
        number = one.errno if isinstance(one, OSError) else None
        text = str(one) if isinstance(one, _TOLD_IN_TEXT) else ""
        if number in (errno.EMFILE, errno.ENFILE) or _FILES.search(text):
            hint = "raise the limit, such as by `ulimit -n 1024`, then run the same command again"
            return LimitReached("too many files are open", hint=hint)
        if number == errno.EAGAIN or _PROCESSES.search(text):
            hint = "end other programs, or raise the limit (`ulimit -u`; `ulimit -v` for the memory that threads need)"
            return LimitReached("the system starts no more processes or threads", hint=hint)
        if isinstance(one, MemoryError) or number == errno.ENOMEM or _MEMORY.search(text):
            cause = " ".join(str(one).split())[:_LONGEST]
            hint = "use fewer --workers, a smaller --memory, or a machine with more; `ulimit -v` limits it too"
            return UserError(f"memory ran out{cause and f' ({cause})'}", hint=hint)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, as ``raise from`` sets them."""
    while error is not None:
        yield error
        error = error.__cause__
