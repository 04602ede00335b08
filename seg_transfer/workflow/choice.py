"""``choice.json``: which trained runs `predict` and `export` use by default, as cross-validation has chosen them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from seg_transfer.planning.fields import Fold
from seg_transfer.planning.model_file import Postprocessing
from seg_transfer.util.records import JsonRecord, Part


class ChosenRun(Part):
    """Folds of one plan."""

    run: str = Field(description="folder in runs/")
    folds: tuple[Fold, ...] = Field(min_length=1)


class Choice(JsonRecord):
    """What `segtl summary` chose; several runs are averaged."""

    noun: ClassVar[str] = "choice"
    if_missing: ClassVar[str] = "run `segtl summary`"
    if_wrong: ClassVar[str] = "run `segtl summary` again, or delete this file to use the current plan"

    version: Literal[1] = 1
    runs: tuple[ChosenRun, ...] = Field(min_length=1)
    postprocessing: Postprocessing = Postprocessing()
    dice: dict[str, float | None] = Field(description="label -> mean Dice by cross-validation, as postprocessed")
    cases: int = Field(description="that these means are over")

    @property
    def name(self) -> str:
        """For people."""
        return " + ".join(run.run for run in self.runs)
