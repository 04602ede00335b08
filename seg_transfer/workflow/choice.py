"""``choice.json``: which trained runs `predict` and `export` use by default, as cross-validation has chosen them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from seg_transfer.errors import UserError
from seg_transfer.planning.model_file import Postprocessing
from seg_transfer.util.files import write_text
from seg_transfer.util.records import Part, wrong_fields

CHOICE_VERSION: Literal[1] = 1


class ChosenRun(Part):
    """Folds of one plan."""

    run: str = Field(description="folder in runs/")
    folds: tuple[int, ...] = Field(min_length=1)


class Choice(Part):
    """What `segtl summary` chose; several runs are averaged."""

    version: Literal[1] = CHOICE_VERSION
    runs: tuple[ChosenRun, ...] = Field(min_length=1)
    postprocessing: Postprocessing = Postprocessing()
    dice: dict[str, float | None] = Field(description="label -> mean Dice by cross-validation, as postprocessed")
    cases: int = Field(description="that these means are over")

    @property
    def name(self) -> str:
        """For people."""
        return " + ".join(run.run for run in self.runs)

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_text(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Choice:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: If it was edited into something else.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            hint = "run `segtl summary` again, or delete this file to use the plan in force"
            raise UserError(wrong_fields(error)[0], where=path, hint=hint) from None
