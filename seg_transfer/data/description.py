"""Channels and labels from a ``dataset.json``, of nnU-Net (v1 and v2) or MSD."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from seg_transfer.errors import UserError
from seg_transfer.util.records import Record

SMALLEST_VALUE, LARGEST_VALUE = -(2**31), 2**32 - 1
"""Label values that are read from files: those of int32 and uint32."""
LabelInteger = Annotated[int, Field(ge=SMALLEST_VALUE, le=LARGEST_VALUE)]

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,20}")
BACKGROUND, IGNORE = "background", "ignore"
CORE_CLASS, BORDER_CLASS = 1, 2
"""Label values of objects that are told apart, see :mod:`seg_transfer.data.instances`."""
_HINT = (
    'name each label with one value, or a region with several: "labels": {"background": 0, "tumour": [1, 2], "core": 2}'
)


class Region(Record):
    """Label values that are one output of the network, such as a whole tumour of three parts."""

    name: str
    values: tuple[LabelInteger, ...] = Field(min_length=1, description="values of its labels")
    writes: LabelInteger = Field(description="the one of them that predicted label maps hold where the region is")
    numbered: bool = Field(
        default=False,
        description="label files hold a number for each of its objects, predicted label maps too; values and writes "
        "are those of cores and borders, which are learned",
    )


@dataclass(frozen=True)
class LabelScheme:
    """The meaning of the values in label files.

    Attributes:
        labels: (name, value), background (0) first, then ascending by value; with regions, every value of a region.
        regions: In order of precedence; empty if labels exclude each other.
        ignore: Value of voxels that are not annotated, if there is one.
    """

    labels: tuple[tuple[str, int], ...]
    regions: tuple[Region, ...] = ()
    ignore: int | None = None


def channel_names(content: dict[str, Any], where: Path) -> tuple[str, ...]:
    """Names of the channels in order, from ``channel_names`` (v2) or ``modality`` (v1, MSD): {"0": "CT", ...}."""
    key = "channel_names" if "channel_names" in content else "modality"
    names = content.get(key)
    if not isinstance(names, dict) or sorted(names) != sorted(str(number) for number in range(len(names))) or not names:
        raise UserError(
            f"{key} is {names!r}" if names else "there is no channel_names",
            where=where,
            hint='number the channels from 0: "channel_names": {"0": "CT", "1": "PET"}',
        )
    return tuple(str(names[str(number)]) for number in range(len(names)))


def label_scheme(content: dict[str, Any], where: Path) -> LabelScheme:
    """Read labels, regions and the ignore label.

    Labels are {name: value} (v2), also with values such as "1", or {"value": name} (v1, MSD). As in nnU-Net, if one
    label has a list of values, every label but the background and ``ignore`` is a region; ``regions_class_order`` then
    has the value that each region is written with, in the order of the labels, later ones over earlier ones. Without
    regions it is not read. The label ``ignore`` is the value of voxels that are not annotated; it need not be the
    highest. ``"instances": ["cell"]`` says that label files number the objects of the only label.

    Raises:
        UserError: If ``labels`` has another form, or labels contradict each other.
    """
    entries = content.get("labels")
    if not isinstance(entries, dict) or not entries:
        raise UserError("there is no labels", where=where, hint=_HINT)
    pairs = list(entries.items())
    if all(isinstance(value, str) for value in entries.values()) and all(name.isdecimal() for name in entries):
        pairs = [(name, value) for value, name in pairs]
    named = [(str(name), _values(name, value, where)) for name, value in pairs]
    ignored = [values for name, values in named if name.lower() == IGNORE]
    named = [(name, values) for name, values in named if name.lower() != IGNORE]
    background = [name for name, values in named if values == (0,)]
    if len(background) != 1:
        count = f"{len(background)} labels have" if background else "no label has"
        raise UserError(f"{count} the value 0, which is the background", where=where, hint=_HINT)
    foreground = [(name, values) for name, values in named if values != (0,)]
    if not foreground:
        raise UserError("there is no label besides the background", where=where, hint=_HINT)
    if "instances" in content:
        return _numbered(content["instances"], foreground, bool(ignored), where)
    ignore = _ignore_value(ignored, {value for _, values in named for value in values}, where)
    if any(len(values) > 1 for _, values in foreground):
        regions = _regions(foreground, content.get("regions_class_order"), where)
        names = {values[0]: name for name, values in foreground if len(values) == 1}
        occurring = sorted({value for _, values in foreground for value in values})
        labels = [(background[0], 0), *((names.get(value, f"label_{value}"), value) for value in occurring)]
        return LabelScheme(tuple(labels), regions, ignore)
    labels = sorted(((name, values[0]) for name, values in named), key=lambda pair: (pair[1] != 0, pair[1]))
    numbers = [value for _, value in labels]
    if len(set(numbers)) < len(numbers):
        raise UserError(f"labels share a value: {numbers}", where=where, hint=_HINT)
    return LabelScheme(tuple(labels), (), ignore)


def named_values(labels: Iterable[tuple[str, int]], ignore: int | None) -> dict[str, int]:
    """Name -> value of the background, every label and the ignore label: what segments of 3D Slicer are found by."""
    named = {unicodedata.normalize("NFC", name.strip()): value for name, value in labels}
    return {BACKGROUND: 0, **named, **({} if ignore is None else {IGNORE: ignore})}


def _values(name: object, value: object, where: Path) -> tuple[int, ...]:
    """The values of a label, ascending; a single one unless it is a region."""
    texts = {str(entry) for entry in (value if isinstance(value, list) and value else [value])}
    if not all(_WHOLE_NUMBER.fullmatch(text) for text in texts):
        raise UserError(f"label {name} has the value {repr(value)[:60]}", where=where, hint=_HINT)
    values = tuple(sorted(map(int, texts)))
    for number in values:
        if not SMALLEST_VALUE <= number <= LARGEST_VALUE:
            what = f"label {name} has the value {number}; values from {SMALLEST_VALUE} to {LARGEST_VALUE} are read"
            raise UserError(what, where=where, hint="give the label another value, in dataset.json and in its files")
    return values


def _ignore_value(ignored: list[tuple[int, ...]], taken: set[int], where: Path) -> int | None:
    values = [value for label in ignored for value in label]
    if not values:
        return None
    if len(values) > 1:
        what = f"the ignore label has {len(values)} values: {', '.join(map(str, values))}"
    elif values[0] in taken:
        what = f"the ignore label has the value {values[0]}, which another label has too"
    else:
        return values[0]
    raise UserError(what, where=where, hint=f'give it its own value, such as "ignore": {max(taken) + 1}')


def object_regions(name: str) -> tuple[Region, Region]:
    """The outputs for a label whose objects are told apart: the whole objects, and their cores."""
    return (
        Region(name=name, values=(CORE_CLASS, BORDER_CLASS), writes=BORDER_CLASS, numbered=True),
        Region(name=f"{name} core", values=(CORE_CLASS,), writes=CORE_CLASS),
    )


def _numbered(entry: object, foreground: list[tuple[str, tuple[int, ...]]], ignores: bool, where: Path) -> LabelScheme:
    """The scheme of a data set whose label files number objects."""
    hint = 'name the only label besides the background: "labels": {"background": 0, "cell": 1}, "instances": ["cell"]'
    name = foreground[0][0]
    what = ""
    if len(foreground) > 1 or len(foreground[0][1]) > 1:
        what = f"objects of one label can be told apart, but the labels are {', '.join(name for name, _ in foreground)}"
    elif ignores:
        what, hint = "objects cannot be told apart beside an ignore label", "annotate these images fully"
    elif entry != [name]:
        what = f"instances is {repr(entry)[:60]}, and the label is {name}"
    if what:
        raise UserError(what, where=where, hint=hint)
    labels = ((BACKGROUND, 0), (f"{name} core", CORE_CLASS), (f"{name} border", BORDER_CLASS))
    return LabelScheme(labels, object_regions(name))


def _regions(foreground: list[tuple[str, tuple[int, ...]]], order: object, where: Path) -> tuple[Region, ...]:
    """The labels as regions; refuses regions that no prediction could show."""
    names = ", ".join(name for name, _ in foreground)
    hint = f'"regions_class_order" has one value for each of {names}, in this order; later ones overwrite earlier ones'
    if not isinstance(order, list):
        raise UserError("labels are made of regions, but there is no regions_class_order", where=where, hint=hint)
    if len(order) != len(foreground):
        what = f"regions_class_order has {len(order)} entries for {len(foreground)} labels"
        raise UserError(what, where=where, hint=hint)
    regions: list[Region] = []
    for (name, values), writes in zip(foreground, order, strict=True):
        if 0 in values:
            hint = "leave 0, which is the background, out of the region"
            raise UserError(f"label {name} has the values {list(values)}", where=where, hint=hint)
        if type(writes) is not int or writes not in values:
            what = f"regions_class_order writes {writes!r} for {name}, whose values are {list(values)}"
            raise UserError(what, where=where, hint=f"write {name} with one of its values; {hint}")
        for earlier in regions:
            if earlier.writes == writes:
                what = f"regions_class_order writes {earlier.name} and {name} with the same value {writes}"
                raise UserError(what, where=where, hint=f"give each region another value; {hint}")
            if set(earlier.values) <= set(values):
                what = f"{earlier.name} lies in {name}, which overwrites it"
                hint = "list larger regions first, in labels and in regions_class_order alike"
                raise UserError(what, where=where, hint=hint)
        regions.append(Region(name=name, values=values, writes=writes))
    return tuple(regions)
