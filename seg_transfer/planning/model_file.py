"""``model.segtl``: a trained model in one file that needs no work folder; its format, and a reader that trusts nothing.

The file is in safetensors' format: 8 bytes with the length of a JSON header, the header, the tensors. The header maps
every tensor (``<member>/<fold>/<name in the network>``, each a number but the last) to its type, shape and place; its
metadata hold a :class:`ModelHeader` as JSON. Members are the configurations of an ensemble, mostly one; the folds of a
member share its plan.

Files come from other people. Reading one runs no code, and every size that it claims is checked against the file's own
before anything of that size is allocated. No torch: planning reads a model's header too.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from seg_transfer.errors import UserError
from seg_transfer.planning.fields import part_hash
from seg_transfer.planning.plan import Plan
from seg_transfer.util.records import HEADER_KEY, JsonRecord, Part, parse_object

LARGEST_HEADER = 8 * 2**20
"""Bytes; three configurations with ten folds of 700 tensors come to 3 MB."""
LARGEST_PATCH = 2**26
"""Voxels; the planner's largest patch has a quarter of it. Images are padded to the patch, whatever their size."""
BYTES = {"F32": 4, "I64": 8}
_SMALLEST = 8
HINT = "copy it again from where it came, or export it again"


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
    if not path.is_file():
        hint = "give the path of a file that `segtl export` wrote"
        raise UserError("there is no model file here", where=path, hint=hint)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_SMALLEST), "little")
        if size <= _SMALLEST or length > size - _SMALLEST:
            what = f"no model of segtl, or cut off: its header claims {length} bytes, the file has {size}"
            raise UserError(what, where=path, hint=HINT)
        if length > LARGEST_HEADER:
            what = f"no model of segtl: its header has {length} bytes, at most {LARGEST_HEADER} are read"
            raise UserError(what, where=path, hint=HINT)
        text = file.read(length)
    content = parse_object(text, ModelHeader.noun, where=path, hint=HINT)
    metadata = content.pop("__metadata__", None)
    header = _header(metadata.get(HEADER_KEY) if isinstance(metadata, dict) else None, path)
    return ModelFile(path, header, _shapes(content, size - _SMALLEST - length, path))


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _header(text: object, path: Path) -> ModelHeader:
    if not isinstance(text, str):
        hint = "give a file that `segtl export` wrote"
        raise UserError("no model of segtl: its header does not say what it is", where=path, hint=hint)
    content = parse_object(text, ModelHeader.noun, where=path, hint=HINT)
    if content.get("kind") != "exported":
        hint = "export it: `segtl export -o model.segtl`"
        raise UserError(f"holds a state of kind {content.get('kind')!r}, no exported model", where=path, hint=hint)
    return ModelHeader.from_content(content, where=path)


def _shapes(entries: dict[str, Any], payload: int, path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors, which fill the bytes after the header without a gap or overlap."""
    shapes, places = {}, []
    for name, entry in entries.items():
        shape, begin, end, width = _entry(entry)
        if width is None or math.prod(shape) * width != end - begin:
            raise UserError(f"its header is damaged: tensor {name[:80]}", where=path, hint=HINT)
        shapes[name] = shape
        places.append((begin, end))
    reached = 0
    for begin, end in sorted(places):
        if begin != reached:
            raise UserError("its header is damaged: its tensors overlap or leave gaps", where=path, hint=HINT)
        reached = end
    if reached != payload:
        what = f"cut off or damaged: its tensors claim {reached} bytes, {payload} are there"
        raise UserError(what, where=path, hint=HINT)
    return shapes


def _entry(entry: object) -> tuple[tuple[int, ...], int, int, int | None]:
    """Shape, first byte, byte after the last and bytes per element; no bytes per element if it is no such entry."""
    wrong = ((), 0, 0, None)
    if not isinstance(entry, dict) or entry.get("dtype") not in BYTES:
        return wrong
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
            return wrong
    assert isinstance(shape, list) and isinstance(offsets, list)
    if len(offsets) != 2:
        return wrong
    return tuple(shape), offsets[0], offsets[1], BYTES[entry["dtype"]]
