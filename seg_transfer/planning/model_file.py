"""``model.segtl``: a trained model in one file; its format, and a reader that is safe for untrusted files.

A safetensors file. Tensors are named ``<member>/<fold>/<name in the network>`` with indices of member and fold; the
metadata hold a :class:`ModelHeader` as JSON. Members are the configurations of an ensemble, mostly one; the folds of a
member share its plan.

Reading runs no code, and safetensors checks every size against the file's before it allocates memory. No torch:
planning reads the header too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from seg_transfer.errors import UserError
from seg_transfer.planning.fields import part_hash
from seg_transfer.planning.plan import Plan
from seg_transfer.util.records import JsonRecord, Record
from seg_transfer.util.tensor_file import TensorFileKind, open_tensor_file

LARGEST_HEADER = 8 * 2**20
"""Bytes; three configurations with ten folds of 700 tensors come to 3 MB."""
DTYPES = {"F32", "I64"}
HINT = "copy it again from its source, or export it again"
MODEL_FILE = TensorFileKind(
    noun="model file",
    if_missing="give the path of a file that `segtl export` wrote",
    if_foreign="give a file that `segtl export` wrote",
    if_damaged=HINT,
    largest_header=LARGEST_HEADER,
)


class Postprocessing(Record):
    """Postprocessing of predicted label maps; see :mod:`seg_transfer.inference.postprocess`."""

    foreground: bool = Field(default=False, description="keep only the largest component of all labels together")
    labels: tuple[int, ...] = Field(default=(), description="values of which only the largest component is kept")


NOTHING = Postprocessing()


class Member(Record):
    """Trained folds of one plan, whose probabilities are averaged."""

    plan: Plan = Field(description="without the names of cases and data set, paths and reasons")
    folds: tuple[str, ...] = Field(min_length=1, description="names of the folds: 0 … K-1, or full")


class ModelHeader(JsonRecord):
    """Content of a model file except the weights."""

    noun: ClassVar[str] = "model file"
    if_wrong: ClassVar[str] = HINT
    if_older: ClassVar[str] = "use the segtl that wrote it, or export it again from its work folder"

    version: Literal[2] = 2
    kind: Literal["exported"] = "exported"
    segtl: str = Field(description="version of segtl that wrote it")
    members: tuple[Member, ...] = Field(min_length=1)
    postprocessing: Postprocessing = NOTHING
    card: str = Field(description="text for people: purpose, training data and use")
    weights: str | None = Field(default=None, description="checksum of all weights; null in ONNX files")

    @model_validator(mode="after")
    def _members_fit(self) -> ModelHeader:
        if len({part_hash(member.plan.data) for member in self.members}) > 1:
            raise ValueError("members: their plans differ in the part data, so that they cannot predict together")
        return self

    @property
    def plan(self) -> Plan:
        """Plan of the first member; all members share its part ``data``."""
        return self.members[0].plan


@dataclass(frozen=True)
class ModelFile:
    """A model file with a valid header.

    Attributes:
        path: The file.
        header: Its header.
        shapes: Name in the file -> shape, of every tensor.
    """

    path: Path
    header: ModelHeader
    shapes: dict[str, tuple[int, ...]]

    def of_fold(self, member: int, fold: int) -> dict[str, tuple[int, ...]]:
        """Name in the network -> shape, of one fold's tensors."""
        return self._by_prefix.get(prefix(member, fold), {})

    @cached_property
    def _by_prefix(self) -> dict[str, dict[str, tuple[int, ...]]]:
        grouped: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, shape in self.shapes.items():
            member, fold, inner = (*name.split("/", 2), "", "")[:3]
            grouped.setdefault(f"{member}/{fold}/", {})[inner] = shape
        return grouped


def prefix(member: int, fold: int) -> str:
    """Start of the names of one fold's tensors; both indices start at 0."""
    return f"{member}/{fold}/"


def read_model_file(path: Path) -> ModelFile:
    """Read a model file's header and check every size in it, in memory of a few times the header.

    Raises:
        UserError: If the file is missing, truncated, no model of segtl, of another version, or inconsistent.
    """
    with open_tensor_file(path, MODEL_FILE) as (file, content):
        if content.get("kind") != "exported":
            hint = "export it: `segtl export -o model.segtl`"
            raise UserError(f"contains {content.get('kind')!r} instead of an exported model", where=path, hint=hint)
        header = ModelHeader.from_content(content, where=path)
        shapes = {}
        for name in file.keys():  # noqa: SIM118 - not a dict
            tensor = file.get_slice(name)
            if tensor.get_dtype() not in DTYPES:
                what = f"its tensor {name} has the unsupported type {tensor.get_dtype()}"
                raise UserError(what, where=path, hint=HINT)
            shapes[name] = tuple(tensor.get_shape())
        if sum(len(member.folds) for member in header.members) > len(shapes):
            raise UserError("it lists more folds than it has tensors", where=path, hint=HINT)
        return ModelFile(path, header, shapes)
