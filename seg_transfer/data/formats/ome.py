"""The OME-XML of an OME-TIFF file, and ImageJ's description of a stack: which page holds which slice and channel.

Entities and document types are refused before anything is parsed, and no other file is opened.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from seg_transfer.errors import UserError

_MM = {
    **{"m": 1e3, "dm": 1e2, "cm": 10.0, "mm": 1.0, "nm": 1e-6, "pm": 1e-9, "Å": 1e-7, "in": 25.4, "inch": 25.4},
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer"), 1e-3),
}
"""Unit of length -> mm; both characters for micro, and ImageJ's spellings."""
_UNITLESS = ("pixel", "pixels", "reference frame", "")
_LONGEST = 2**24
"""Characters of OME-XML; that of a file of many planes has some hundred thousand."""
_MOST_PLANES = 2**16
_ORDERS = {"XY" + "".join(order) for order in ("ZCT", "ZTC", "CZT", "CTZ", "TZC", "TCZ")}
_ONE_STACK = "export the stack that is to be segmented as a file of its own"


@dataclass(frozen=True)
class Stack:
    """How the pages of a file make up an image.

    Attributes:
        pages: Number of the page of each slice, for each channel; all channels have as many. A page in colours holds
            several channels.
        spacing: Size of a pixel along columns, rows and slices, in mm; None where it is not known.
        channels: Channels with those of pages in colours; None if only the pages tell.
        size: Columns and rows; None if only the pages tell.
    """

    pages: tuple[tuple[int, ...], ...]
    spacing: tuple[float, float, float] | None = None
    channels: int | None = None
    size: tuple[int, int] | None = None


def plain_stack(pages: int) -> Stack:
    """A stack that nothing describes: each page is a slice."""
    return Stack((tuple(range(pages)),))


def ome_stack(text: str, pages: int, path: Path) -> Stack:
    """Read OME-XML.

    Args:
        text: The description of the first page.
        pages: Pages of the file.
        path: The file, for messages.

    Raises:
        UserError: If it describes several images, time points or files.
        ValueError: If it is no OME-XML, or contradicts the file.
    """
    if len(text) > _LONGEST or re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise ValueError("its OME-XML is too long, or has a document type, which is not read")
    root = ElementTree.fromstring(text.encode())
    images = root.findall("{*}Image")
    if len(images) != 1:
        raise UserError(f"it holds {len(images)} images (series), not one", where=path, hint=_ONE_STACK)
    found = images[0].find("{*}Pixels")
    if found is None:
        raise ValueError("its OME-XML has no Pixels")
    sizes = {axis: _count(found.get(f"Size{axis}"), axis) for axis in "XYZCT"}
    if sizes["T"] != 1:
        raise UserError(f"it has {sizes['T']} time points, not one", where=path, hint=_ONE_STACK)
    samples = max((_count(each.get("SamplesPerPixel", "1"), "C") for each in found.findall("{*}Channel")), default=1)
    planes = {"Z": sizes["Z"], "C": sizes["C"] // samples, "T": 1}
    order = found.get("DimensionOrder", "XYCZT")
    if order not in _ORDERS or sizes["C"] % samples or planes["Z"] * planes["C"] > min(pages, _MOST_PLANES):
        raise ValueError(f"its OME-XML claims {sizes['Z']} slices of {sizes['C']} channels; it has {pages} pages")
    place = _places(root, found, order[2:], planes, path)
    numbers = tuple(tuple(place.get((z, c), pages) for z in range(planes["Z"])) for c in range(planes["C"]))
    if max(map(max, numbers)) >= pages:
        raise ValueError("its OME-XML lists pages that it does not have")
    return Stack(numbers, _physical(found, path), sizes["C"], (sizes["X"], sizes["Y"]))


def _places(
    root: ElementTree.Element, found: ElementTree.Element, order: str, planes: dict[str, int], path: Path
) -> dict[tuple[int, int], int]:
    """(slice, channel) -> page."""
    files = {each.text for each in found.findall("{*}TiffData/{*}UUID")}
    if len(files) > 1 or (files and root.get("UUID") not in (None, *files)):
        raise UserError("its planes are in several files", where=path, hint=_ONE_STACK)
    count = math.prod(planes.values())
    blocks = found.findall("{*}TiffData") or [ElementTree.Element("TiffData")]
    place: dict[tuple[int, int], int] = {}
    for block in blocks:
        at = {axis: _number(block.get(f"First{axis}", "0")) for axis in "ZCT"}
        first, step = 0, 1
        for axis in order:
            first += at[axis] * step
            step *= planes[axis]
        given = block.get("PlaneCount")
        several = 1 if "IFD" in block.attrib else count - first
        for offset in range(min(_number(given) if given is not None else several, count)):
            index, rest = {}, first + offset
            for axis in order:
                rest, index[axis] = divmod(rest, planes[axis])
            place[index["Z"], index["C"]] = _number(block.get("IFD", "0")) + offset
    return place


def imagej_stack(text: str, pages: int, resolution: tuple[float, float], path: Path) -> Stack:
    """Read the description that ImageJ writes.

    Args:
        text: The description of the first page.
        pages: Pages of the file.
        resolution: Pixels per unit of length along columns and rows; 0 where it is not known.
        path: The file, for messages.

    Raises:
        UserError: If it has several time points.
        ValueError: If it contradicts the file.
    """
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    channels, slices, frames = (_count(fields.get(name, "1"), name) for name in ("channels", "slices", "frames"))
    if frames != 1:
        hint = f"{_ONE_STACK}; if these are slices, say so in Image > Properties of ImageJ"
        raise UserError(f"it has {frames} time points, not one", where=path, hint=hint)
    listed = _count(fields.get("images", "1"), "images")
    slices = listed // channels if "slices" not in fields else slices
    if channels * slices != pages or listed != pages:
        raise ValueError(f"ImageJ's description claims {listed} images, but it has {pages} pages")
    factor = _factor(fields.get("unit", "").strip().replace("\\u00B5", "µ"), path)
    sizes = [factor / each if each > 0 else 0.0 for each in resolution]
    sizes.append(factor * _real(fields.get("spacing", "0")) if slices > 1 else 1.0)
    numbers = tuple(tuple(z * channels + c for z in range(slices)) for c in range(channels))
    return Stack(numbers, _known(sizes))


def ome_xml(shape: tuple[int, int, int], channels: int, kind: str, spacing: tuple[float, float, float] | None) -> str:
    """OME-XML of an image ``(columns, rows, slices)`` whose pages are the slices of the first channel, then the next.

    Args:
        shape: Columns, rows and slices.
        channels: Number of channels.
        kind: OME's name of the values' type, such as ``uint8``.
        spacing: In mm; None if it is not known.
    """
    sizes = "".join(
        f' PhysicalSize{axis}="{size:.9g}" PhysicalSize{axis}Unit="mm"'
        for axis, size in zip("XYZ", spacing or (), strict=False)
    )
    x, y, z = shape
    parts = "".join(f'<Channel ID="Channel:0:{number}" SamplesPerPixel="1"/>' for number in range(channels))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="{kind}" SizeX="{x}" SizeY="{y}" SizeZ="{z}" '
        f'SizeC="{channels}" SizeT="1"{sizes}>{parts}<TiffData/></Pixels></Image></OME>'
    )


def _physical(found: ElementTree.Element, path: Path) -> tuple[float, float, float] | None:
    sizes = []
    for axis in "XYZ":
        text = found.get(f"PhysicalSize{axis}")
        if text is None and axis == "Z" and found.get("SizeZ") == "1":
            sizes.append(1.0)
        else:
            sizes.append(_real(text or "0") * _factor(found.get(f"PhysicalSize{axis}Unit", "µm"), path))
    return _known(sizes)


def _known(sizes: list[float]) -> tuple[float, float, float] | None:
    """The sizes, if all of them are; writers put 0 where they know none."""
    x, y, z = sizes
    return (x, y, z) if all(math.isfinite(size) and size > 0 for size in sizes) else None


def _factor(unit: str, path: Path) -> float:
    """Millimetres of a unit of length; 0 for pixels."""
    if unit.lower() in _UNITLESS:
        return 0.0
    if unit not in _MM:
        hint = f"write the pixel size in one of {', '.join(_MM)}"
        raise UserError(f"its pixel size has the unit {unit[:30]!r}, which is not read", where=path, hint=hint)
    return _MM[unit]


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text.strip(), re.ASCII):
        raise ValueError(f"its description has the number {text[:30]!r}")
    return int(text)


def _count(text: str | None, axis: str) -> int:
    number = _number(text or "")
    if number < 1:
        raise ValueError(f"its description claims {number} along {axis}")
    return number


def _real(text: str) -> float:
    """A number; nan if it is none."""
    try:
        return float(text[:40])
    except ValueError:
        return math.nan
