"""What was measured on the data about transfer; typed, and without torch, so that plans can hold it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from seg_transfer.errors import UserError
from seg_transfer.files import write_text
from seg_transfer.planning.part import Part, wrong_fields
from seg_transfer.planning.strategy_plan import Candidate

RACE_FILE = "race.json"


class Racer(Part):
    """One candidate of a race."""

    candidate: Candidate
    seconds: float = Field(description="of training")
    dice: dict[str, dict[str, float | None]] = Field(
        description="held-out case -> label or region -> Dice on the network's grid, without mirroring; null where "
        "neither prediction nor reference has it"
    )

    def case_dice(self) -> dict[str, float]:
        """Mean over the labels of each case; nan where a case has none of them."""
        means = {}
        for case, of_label in self.dice.items():
            known = [value for value in of_label.values() if value is not None]
            means[case] = sum(known) / len(known) if known else math.nan
        return means


class RaceEvidence(Part):
    """A race at the start of one fold, as ``race.json`` beside its model holds it; grows candidate by candidate."""

    version: Literal[1] = 1
    plan: str = Field(description="hash of the plan that asks for the race")
    fold: int | Literal["full"]
    seed: int
    epochs: int | None = Field(description="budget of race and training together; or time_budget")
    time_budget: float | None = Field(description="budget of race and training together, in seconds")
    steps: int = Field(ge=0, description="of each candidate")
    train: tuple[str, ...] = Field(description="cases that every candidate trained on")
    held_out: tuple[str, ...] = Field(description="cases of the fold's own training cases that they were scored on")
    racers: tuple[Racer, ...] = Field(
        default=(), description="candidates that are done, in the plan's order; none of them where no race was held"
    )
    winner: int | None = Field(
        default=None, ge=0, description="position among the plan's candidates, its own first; null until all are done"
    )
    reason: str = ""

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_text(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> RaceEvidence:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: If it is gone, or was edited into something else.
        """
        if not path.is_file():
            raise UserError("there is no race here", where=path, mend="train this fold again")
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            mend = "restore it from a copy, or train again with --restart"
            raise UserError(wrong_fields(error)[0], where=path, mend=mend) from None
