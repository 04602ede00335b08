"""Options that exclude each other."""

from __future__ import annotations

from seg_transfer.errors import UserError


def at_most_one(**options: object) -> None:
    """Refuse more than one of several ways to say the same.

    Args:
        **options: Value by name; None is not given.

    Raises:
        UserError: If two or more are given.
    """
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} exclude each other", hint="give one of them")
