"""``choice.json``: the trained runs that `predict` and `export` use by default, chosen by cross-validation."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from seg_transfer.planning.fields import Fold
from seg_transfer.planning.model_file import Postprocessing
from seg_transfer.util.names import FileName
from seg_transfer.util.records import JsonRecord, Record


class ChosenRun(Record):
    """Folds of one plan."""

    run: FileName = Field(description="folder in runs/")
    folds: tuple[Fold, ...] = Field(min_length=1)


class Choice(JsonRecord):
    """The result of `segtl summary`; several runs predict as an ensemble. Version 1 named no models."""

    noun: ClassVar[str] = "choice"
    if_missing: ClassVar[str] = "run `segtl summary`"
    if_wrong: ClassVar[str] = "run `segtl summary` again, or delete this file to use the current plan"

    version: Literal[2] = 2
    runs: tuple[ChosenRun, ...] = Field(min_length=1)
    postprocessing: Postprocessing = Postprocessing()
    dice: dict[str, float | None] = Field(description="label -> cross-validated mean Dice after postprocessing")
    cases: int = Field(description="number of cases that the means are over")
    models: tuple[str, ...] = Field(default=(), description="digests of the models of the runs")

    @classmethod
    def upgrade(cls, content: dict[str, Any], version: int) -> dict[str, Any] | None:
        """Version 1 is read as it is."""
        return content
