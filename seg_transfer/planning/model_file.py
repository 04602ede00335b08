"""``model.segtl``: a trained model in one file that needs no work folder; its format, and a reader that trusts nothing.

The file is in safetensors' format: 8 bytes with the length of a JSON header, the header, the tensors. The header maps
every tensor (``<member>/<fold>/<name in the network>``, each a number but the last) to its type, shape and place; its
metadata hold a :class:`ModelHeader` as JSON. Members are the configurations of an ensemble, mostly one; the folds of a
member share its plan.

Files come from other people. Reading one runs no code, and safetensors checks every size that it claims against the
file's own before anything of that size is allocated. No torch: planning reads a model's header too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from seg_transfer.errors import UserError
from seg_transfer.planning.fields import part_hash
from seg_transfer.planning.plan import Plan
from seg_transfer.util.records import JsonRecord, Part
from seg_transfer.util.tensor_file import TensorFileKind, open_tensor_file

LARGEST_HEADER = 8 * 2**20
"""Bytes; three configurations with ten folds of 700 tensors come to 3 MB."""
LARGEST_PATCH = 2**26
"""Voxels; the planner's largest patch has a quarter of it. Images are padded to the patch, whatever their size."""
DTYPES = {"F32", "I64"}
HINT = "copy it again from where it came, or export it again"
MODEL_FILE = TensorFileKind(
    noun="model file",
    if_missing="give the path of a file that `segtl export` wrote",
    if_foreign="give a file that `segtl export` wrote",
    if_damaged=HINT,
    largest_header=LARGEST_HEADER,
)


class Postprocessing(Part):
    """What is removed from predicted label maps; see :mod:`seg_transfer.inference.postprocess`."""

    foreground: bool = Field(default=False, description="keep only the largest component of all labels together")
    labels: tuple[int, ...] = Field(default=(), description="values of which only the largest component is kept")


NOTHING = Postprocessing()


class Member(Part):
    """Folds of one plan, whose probabilities are averaged."""

    plan: Plan = Field(description="without the names of cases and data set, paths and reasons")
    folds: tuple[str, ...] = Field(min_length=1, description="what each was trained on: 0 … K-1, or full")


class ModelHeader(JsonRecord):
    """Everything in a model file but the weights."""

    noun: ClassVar[str] = "model file"
    if_wrong: ClassVar[str] = HINT
    if_older: ClassVar[str] = "use the segtl that wrote it, or export it again from its work folder"

    version: Literal[2] = 2
    kind: Literal["exported"] = "exported"
    segtl: str = Field(description="version of segtl that wrote it")
    members: tuple[Member, ...] = Field(min_length=1)
    postprocessing: Postprocessing = NOTHING
    card: str = Field(description="for people: what it is, what it was trained on, how to use it")
    weights: str | None = Field(
        default=None, description="checksum of all weights; none in ONNX, which has its own form"
    )

    @model_validator(mode="after")
    def _members_fit(self) -> ModelHeader:
        if len({part_hash(member.plan.data) for member in self.members}) > 1:
            raise ValueError("members: they prepare images differently, so they cannot predict together")
        for index, member in enumerate(self.members):
            if (voxels := math.prod(member.plan.model.patch)) > LARGEST_PATCH:
                raise ValueError(f"members.{index}.plan.model.patch: {voxels} voxels, at most {LARGEST_PATCH} are read")
        return self

    @property
    def plan(self) -> Plan:
        """Plan of the first member, whose part on data is everybody's."""
        return self.members[0].plan


@dataclass(frozen=True)
class ModelFile:
    """A model file whose header was read and whose sizes agree with the file's.

    Attributes:
        path: The file.
        header: What it says.
        shapes: Name in the file -> shape, of every tensor.
    """

    path: Path
    header: ModelHeader
    shapes: dict[str, tuple[int, ...]]

    def of_fold(self, member: int, fold: int) -> dict[str, tuple[int, ...]]:
        """Shapes of one fold's tensors by their name in the network."""
        start = prefix(member, fold)
        return {name.removeprefix(start): shape for name, shape in self.shapes.items() if name.startswith(start)}


def prefix(member: int, fold: int) -> str:
    """Start of the names of one fold's tensors; both are counted from 0."""
    return f"{member}/{fold}/"


def read_model_file(path: Path) -> ModelFile:
    """Read a model file's header and check every size in it; allocates a small multiple of the header's bytes.

    Raises:
        UserError: If the file is missing, cut off, no model of segtl, of another version, or contradicts itself.
    """
    with open_tensor_file(path, MODEL_FILE) as (file, content):
        if content.get("kind") != "exported":
            hint = "export it: `segtl export -o model.segtl`"
            raise UserError(f"holds a state of kind {content.get('kind')!r}, no exported model", where=path, hint=hint)
        header = ModelHeader.from_content(content, where=path)
        shapes = {}
        for name in file.keys():  # noqa: SIM118 - not a dict
            tensor = file.get_slice(name)
            if tensor.get_dtype() not in DTYPES:
                what = f"its tensor {name[:80]} has type {tensor.get_dtype()}, which no network of segtl has"
                raise UserError(what, where=path, hint=HINT)
            shapes[name] = tuple(tensor.get_shape())
        return ModelFile(path, header, shapes)
