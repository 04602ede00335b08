"""The reasons of a plan's decisions, noted as they are taken."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel

from seg_transfer.data.description import Region
from seg_transfer.planning.plan import Reason
from seg_transfer.planning.strategy import Race, Strategy

T = TypeVar("T")


class Reasons:
    """The decisions taken so far."""

    def __init__(self) -> None:
        self.taken: list[Reason] = []

    def take(self, path: str, decision: tuple[T, str]) -> T:
        """Note a rule's reason under the plan's field, and give its choice.

        Args:
            path: Such as ``model.patch``.
            decision: What the rule gave: (choice, reason).
        """
        choice, reason = decision
        self.taken.append(Reason(field=path, choice=show(choice), reason=reason))
        return choice

    def amend(self, path: str, choice: object, why: str) -> None:
        """Replace a choice that a later decision changes, and add why."""
        self.taken = [
            Reason(field=path, choice=show(choice), reason=f"{each.reason}; {why}") if each.field == path else each
            for each in self.taken
        ]


def show(choice: object) -> str:
    """A choice as short text for the table of decisions."""
    if isinstance(choice, Race):
        return f"{choice.share:.0%} of the budget, against {', '.join(each.name for each in choice.challengers)}"
    if isinstance(choice, Strategy):
        return str(choice)
    if isinstance(choice, BaseModel):
        given = choice.model_dump(exclude_defaults=True, exclude_none=True)
        return ", ".join(f"{name} {show(value)}" for name, value in given.items())
    if isinstance(choice, tuple):
        if choice and isinstance(choice[0], Region):
            return ", ".join(region.name for region in choice)
        if choice and isinstance(choice[0], BaseModel):
            return f"{len(choice)} fold(s)"
        return " x ".join(show(value) for value in choice) if choice else "none"
    if isinstance(choice, bool):
        return "yes" if choice else "no"
    if choice is None:
        return "none"
    return f"{choice:g}" if isinstance(choice, float) else str(choice)
