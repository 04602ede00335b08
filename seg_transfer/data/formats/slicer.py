"""The segments that 3D Slicer lists in the header of a segmentation (``.seg.nrrd``).

Slicer numbers segments in each file by itself, so that a name and not a value says what a segment shows. Segments that
overlap are in several layers. The file is often cropped to its segments, with an origin of its own.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from seg_transfer.data.formats.header import Segment
from seg_transfer.errors import UserError

_KEY = re.compile(r"Segment([0-9]{1,6})_(\w+)", re.ASCII)
_KINDS = ("Segmentation_SourceRepresentation", "Segmentation_MasterRepresentation")
_BINARY = "Binary labelmap"
_SAVE_AGAIN = "save the segmentation again with a recent 3D Slicer, or export it as a labelmap"


def read_segments(fields: Mapping[str, str], layers: int, path: Path | str) -> tuple[Segment, ...] | None:
    """Find the segments in the header of a file.

    Args:
        fields: The header's own fields.
        layers: Number of the file's layers.
        path: The file, for messages.

    Returns:
        The segments; None if the file is no segmentation of 3D Slicer.

    Raises:
        UserError: If it is one that is not read: fractional, of an old form, or with contradicting segments.
    """
    found: dict[int, dict[str, str]] = defaultdict(dict)
    for key, value in fields.items():
        if match := _KEY.fullmatch(key):
            found[int(match[1])][match[2]] = value
    if not found and not any(key.startswith("Segmentation_") for key in fields):
        return None
    kind = next((fields[key] for key in _KINDS if fields.get(key)), _BINARY)
    if kind != _BINARY:
        hint = "convert it to a binary labelmap in 3D Slicer, and save it again"
        raise UserError(f"the segmentation is stored as {kind!r}, not as {_BINARY!r}", where=path, hint=hint)
    if "Segmentation_Extent" in fields:  # its origin is not that of its voxels
        raise UserError("the segmentation has the form of an old version of 3D Slicer", where=path, hint=_SAVE_AGAIN)
    segments = tuple(_segment(number, found[number], layers, path) for number in sorted(found))
    places: dict[tuple[int, int], str] = {}
    for segment in segments:
        other = places.setdefault((segment.layer, segment.value), segment.name)
        if other != segment.name:
            what = f"the segments {other!r} and {segment.name!r} have the same value {segment.value} in one layer"
            raise UserError(what, where=path, hint=_SAVE_AGAIN)
    return segments


def _segment(number: int, fields: Mapping[str, str], layers: int, path: Path | str) -> Segment:
    name = _text(fields.get("Name", "")) or _text(fields.get("ID", ""))
    # Old files have neither field: each segment is a layer of zeros and ones.
    layer, value = (
        _number(fields.get(key), default)
        for key, default in (("Layer", number if layers > 1 else 0), ("LabelValue", 1))
    )
    if not name or layer is None or value is None or value == 0 or not 0 <= layer < layers:
        what = f"segment {number} of its header has no name, or no valid label value or layer: {dict(fields)}"
        raise UserError(what[:300], where=path, hint=_SAVE_AGAIN)
    return Segment(name, layer, value)


def _text(text: str) -> str:
    """A name; bytes that are not UTF-8 are from old files of a Western Windows."""
    content = text.encode("utf-8", "surrogateescape")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return unicodedata.normalize("NFC", text.strip())


def _number(text: str | None, default: int) -> int | None:
    if text is None:
        return default
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text.strip()) else None
