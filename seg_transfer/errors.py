"""What the user did wrong, and how to fix it.

Everything a user can cause is raised as :class:`UserError`: the command line turns it into one message and
exit code 2. Any other exception is a defect of segtl and keeps its traceback.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_INDENTED = "\n  "
MOST_LISTED = 10
"""Failures that a message lists; results and logs have all of them."""


def printable(text: str, *, keep: str = "") -> str:
    r"""Escape what a terminal would obey: control characters, marks of the writing direction, halves of characters.

    Example:
        >>> printable("liver\x1b[2J")
        'liver\\u001b[2J'

    Args:
        text: Text that may hold foreign names; escaping it twice changes nothing.
        keep: Characters that stay, such as a line break.
    """
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else f"\\u{ord(found[0]):04x}", text)


def cause_of(error: BaseException, longest: int | None = None) -> str:
    """What an exception of a library says, on one line of at most so many characters; its type if it says nothing."""
    return " ".join(str(error).split())[:longest] or type(error).__name__


def printable_message(text: str) -> str:
    """Escape as :func:`printable` does, except before indented lines, which messages have for hints and lists."""
    return _INDENTED.join(map(printable, text.split(_INDENTED)))


USER_ERROR, SOME_FAILED = 2, 3
"""Exit codes of a :class:`UserError` and of :class:`SomeCasesFailed`."""
INTERRUPTED = 130
"""Exit code of a command that was told to end."""
OUTPUT_CLOSED = 141
"""Exit code of a command whose output nobody reads any more, as of one that SIGPIPE ends."""


class UserError(ValueError):
    """Input that segtl cannot work with.

    Args:
        what: What is wrong, with the offending value.
        where: The file, folder, option or field it is about.
        hint: What the user can do about it.
    """

    def __init__(self, what: str, *, where: Path | str | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(str(self))

    def __str__(self) -> str:
        what = printable_message(self.what)
        head = f"{printable(str(self.where))}: {what}" if self.where is not None else what
        return f"{head}{_INDENTED}hint: {printable_message(self.hint)}" if self.hint else head

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes send their errors by pickle, which cannot pass keyword arguments itself.
        return partial(type(self), where=self.where, hint=self.hint), (self.what,)


class EveryCaseFails(UserError):
    """What the other cases of a data set would meet too, such as a full disk: the work ends with it."""


class SomeCasesFailed(Exception):
    """Some cases failed and all others are done: exit code 3; 2 if there are no others.

    Args:
        failures: Case identifier -> one-line cause.
        of: Number of cases.
    """

    def __init__(self, failures: dict[str, str], *, of: int) -> None:
        self.failures, self.of = dict(failures), of
        listed = list(self.failures.items())
        lines = [f"{printable(case)}: {printable_message(cause)}" for case, cause in listed[:MOST_LISTED]]
        if len(listed) > MOST_LISTED:
            lines.append(f"and {len(listed) - MOST_LISTED} more")
        count = f"{len(listed)} of {of} cases failed" if of > 1 else "the only case failed"
        head = f"{count}, the others are done:" if self.others_done else f"{count}:"
        super().__init__("\n  ".join([head, *lines]))

    @property
    def others_done(self) -> bool:
        """Whether any case succeeded."""
        return self.of > len(self.failures)
