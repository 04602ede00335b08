"""``plan-data.json``: the data part of the plan that a preprocessed store was made with, which identifies it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.util.records import JsonRecord

STORE_FILE = "plan-data.json"


class StoreRecord(JsonRecord):
    """The data part of a store; version 1 was the data part alone."""

    noun: ClassVar[str] = "preprocessed store"
    if_missing: ClassVar[str] = "run `segtl preprocess`"
    if_wrong: ClassVar[str] = "delete this folder and run `segtl preprocess`"

    version: Literal[2] = 2
    data: DataPlan

    @classmethod
    def upgrade(cls, content: dict[str, Any], version: int) -> dict[str, Any] | None:
        """Move the fields of version 1 into the data part."""
        return {"data": {name: content[name] for name in content if name != "version"}}


def store_data(file: Path) -> DataPlan:
    """The data part that a store was made with.

    Raises:
        UserError: If the file is missing or damaged.
    """
    return StoreRecord.load(file).data
