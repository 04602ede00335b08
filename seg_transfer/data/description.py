"""Channels and labels from a ``dataset.json``, of nnU-Net (v1 and v2) or MSD."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seg_transfer.errors import UserError


def channel_names(content: dict[str, Any], where: Path) -> tuple[str, ...]:
    """Names of the channels in order, from ``channel_names`` (v2) or ``modality`` (v1, MSD): {"0": "CT", ...}."""
    key = "channel_names" if "channel_names" in content else "modality"
    names = content.get(key)
    if not isinstance(names, dict) or sorted(names) != sorted(str(number) for number in range(len(names))) or not names:
        raise UserError(
            f"{key} is {names!r}" if names else "there is no channel_names",
            where=where,
            mend='number the channels from 0: "channel_names": {"0": "CT", "1": "PET"}',
        )
    return tuple(str(names[str(number)]) for number in range(len(names)))


def labels(content: dict[str, Any], where: Path) -> tuple[tuple[str, int], ...]:
    """Labels as (name, value), by value, background first.

    They come as {name: value} (v2) or {"value": name} (v1, MSD).

    Raises:
        UserError: If they are neither, or use regions or the ignore label.
    """
    given = content.get("labels")
    mend = 'name each label with one value: "labels": {"background": 0, "liver": 1}'
    if not isinstance(given, dict) or not given:
        raise UserError("there is no labels", where=where, mend=mend)
    if "regions_class_order" in content or any(isinstance(value, list) for value in given.values()):
        raise UserError("labels made of regions are not supported", where=where, mend=mend)
    pairs = [(name, value) for name, value in given.items()]
    if all(isinstance(value, str) for value in given.values()):
        pairs = [(name, value) for value, name in given.items()]
    if any(str(name).lower() == "ignore" for name, _ in pairs):
        raise UserError(
            "the ignore label is not supported",
            where=where,
            mend="label these voxels, and remove the label",
        )
    for name, value in pairs:
        if isinstance(value, bool) or not str(value).isdecimal():
            raise UserError(f"label {name} has the value {value!r}", where=where, mend=mend)
    found = sorted(((str(name), int(value)) for name, value in pairs), key=lambda pair: pair[1])
    values = [value for _, value in found]
    if values[0] != 0:
        raise UserError("no label has the value 0, which is the background", where=where, mend=mend)
    if len(found) < 2:
        raise UserError("there is no label besides the background", where=where, mend=mend)
    if len(set(values)) < len(values):
        raise UserError(f"labels share a value: {values}", where=where, mend=mend)
    return tuple(found)
