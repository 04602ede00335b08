"""What the user did wrong, and how to fix it.

Everything a user can cause is raised as :class:`UserError`: the command line turns it into one message and
exit code 2. Any other exception is a defect of segtl and keeps its traceback.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path


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
        head = f"{self.where}: {self.what}" if self.where is not None else self.what
        return f"{head}\n  hint: {self.hint}" if self.hint else head

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes send their errors by pickle, which cannot pass keyword arguments itself.
        return partial(type(self), where=self.where, hint=self.hint), (self.what,)


class SomeCasesFailed(Exception):
    """Some cases failed and all others are done: exit code 3.

    Args:
        failures: Case identifier -> one-line cause.
    """

    def __init__(self, failures: dict[str, str]) -> None:
        self.failures = dict(failures)
        lines = "\n".join(f"  {case}: {cause}" for case, cause in self.failures.items())
        super().__init__(f"{len(self.failures)} case(s) failed, the others are done:\n{lines}")
