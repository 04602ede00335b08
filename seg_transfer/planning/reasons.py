"""The reasons of a plan's decisions, recorded in the order in which they are taken."""

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
        self.recorded: list[Reason] = []

    def take(self, path: str, decision: tuple[T, str]) -> T:
        """Record a rule's choice and reason for a field of the plan, and return the choice.

        Args:
            path: Path of the field, such as ``model.patch``.
            decision: A rule's (choice, reason).
        """
        choice, reason = decision
        self.recorded.append(Reason(field=path, choice=choice_text(choice), reason=reason))
        return choice

    def amend(self, path: str, choice: object, why: str) -> None:
        """Replace a choice that a later decision changes, and append the reason."""
        for index, entry in enumerate(self.recorded):
            if entry.field == path:
                self.recorded[index] = Reason(field=path, choice=choice_text(choice), reason=f"{entry.reason}; {why}")


def choice_text(choice: object) -> str:
    """A choice as a short text for the table of decisions."""
    if isinstance(choice, Race):
        return f"{choice.share:.0%} of the budget, against {', '.join(each.name for each in choice.challengers)}"
    if isinstance(choice, Strategy):
        return str(choice)
    if isinstance(choice, BaseModel):
        given = choice.model_dump(exclude_defaults=True, exclude_none=True)
        return ", ".join(f"{name} {choice_text(value)}" for name, value in given.items())
    if isinstance(choice, tuple):
        if choice and isinstance(choice[0], Region):
            return ", ".join(region.name for region in choice)
        if choice and isinstance(choice[0], BaseModel):
            return f"{len(choice)} fold(s)"
        return " x ".join(choice_text(value) for value in choice) if choice else "none"
    if isinstance(choice, bool):
        return "yes" if choice else "no"
    if choice is None:
        return "none"
    return f"{choice:g}" if isinstance(choice, float) else str(choice)
