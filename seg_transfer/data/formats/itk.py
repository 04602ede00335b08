"""MetaImage and NRRD with SimpleITK, whose world coordinates are LPS+: the first two axes change sign.

SimpleITK is imported where a file is read or written, since few commands need it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seg_transfer.data.formats.header import IN_MEMORY, Header, check_free_memory, working_dtype
from seg_transfer.data.formats.itk_body import check_meta_body, check_nrrd_body, check_unit
from seg_transfer.data.formats.label_table import slicer_fields
from seg_transfer.data.formats.slicer import read_segments
from seg_transfer.data.geometry import Grid
from seg_transfer.errors import UserError

if TYPE_CHECKING:
    import SimpleITK as sitk

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_IO = {".mha": "MetaImageIO", ".mhd": "MetaImageIO", ".nrrd": "NrrdImageIO"}
"""Named, since SimpleITK does not find it by itself for endings in capitals."""
_CHECK = {".mha": check_meta_body, ".mhd": check_meta_body, ".nrrd": check_nrrd_body}


def header(path: Path) -> Header:
    """Read the header only."""
    return _information(path)[1]


def read(path: Path, *, label: bool) -> tuple[np.ndarray, Header]:
    """Read ``(channel, i, j, k)``; vector components or a fourth axis are the channels, or the layers of segments."""
    import SimpleITK as sitk

    reader, described = _information(path)
    check_free_memory(described, working_dtype(described.dtype, label=label), path)
    values = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    _CHECK[path.suffix.lower()](path, values * described.dtype.itemsize)
    array = sitk.GetArrayFromImage(reader.Execute())
    return _by_channel(array, described, reader.GetDimension()), described


def of_image(image: sitk.Image) -> tuple[np.ndarray, Header]:
    """Values ``(channel, i, j, k)``, a copy, and header of an image in memory; components are the channels."""
    import SimpleITK as sitk

    array = sitk.GetArrayFromImage(image)
    described = _header(image, array.dtype, image.GetNumberOfComponentsPerPixel(), IN_MEMORY)
    return _by_channel(array, described, image.GetDimension()), described


def write(path: Path, array: np.ndarray, grid: Grid, names: Mapping[str, int]) -> None:
    """Write compressed; a channel axis becomes vector components.

    ``.mhd`` is written as one file, like ``.mha``. ``.seg.nrrd`` has the labels as segments of 3D Slicer, in a volume.
    """
    import SimpleITK as sitk

    is_segmentation = bool(names) and path.name.lower().endswith(".seg.nrrd")
    image = to_image(array, replace(grid, flat=False) if is_segmentation else grid)
    for key, value in slicer_fields(array, names).items() if is_segmentation else ():
        image.SetMetaData(key, value)
    # Under .mhd, or an ending in capitals, MetaImage would write a pair of files; readers go by the header.
    suffix = path.suffix.lower()
    lower = path.with_suffix(".mha" if suffix == ".mhd" else suffix)
    try:
        sitk.WriteImage(image, str(lower), useCompression=True)
        lower.replace(path)
    except BaseException:
        lower.unlink(missing_ok=True)
        raise


def to_image(array: np.ndarray, grid: Grid) -> sitk.Image:
    """An image of SimpleITK from ``(i, j, k)``, or ``(channel, i, j, k)`` as vector components."""
    import SimpleITK as sitk

    vector = array.ndim == 4
    array = np.moveaxis(array, 0, -1) if vector else array[..., np.newaxis]
    axes = 2 if grid.flat else 3
    array = array.squeeze(2) if grid.flat else array
    array = array.transpose(*range(axes)[::-1], axes)
    image = sitk.GetImageFromArray(array if vector else array[..., 0], isVector=vector)
    matrix = _LPS_TO_RAS @ grid.affine[:3, :3]
    image.SetSpacing(grid.spacing[:axes])
    image.SetDirection((matrix / grid.spacing)[:axes, :axes].ravel().tolist())
    image.SetOrigin((_LPS_TO_RAS @ grid.affine[:3, 3])[:axes].tolist())
    return image


def _information(path: Path) -> tuple[sitk.ImageFileReader, Header]:
    """A reader that has read the header, and the header."""
    import SimpleITK as sitk

    check_unit(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(_IO[path.suffix.lower()])
    reader.ReadImageInformation()
    one_voxel = sitk.GetArrayViewFromImage(sitk.Image([1, 1], reader.GetPixelID()))
    return reader, _header(reader, one_voxel.dtype, reader.GetNumberOfComponents(), path)


def _by_channel(array: np.ndarray, described: Header, axes: int) -> np.ndarray:
    """SimpleITK's array, of an image with so many axes, as ``(channel, i, j, k)``."""
    if axes == 4:
        return array.transpose(0, 3, 2, 1)
    return array.reshape((*described.shape[::-1], described.channels)).transpose(3, 2, 1, 0)


def _header(reader: sitk.ImageFileReader | sitk.Image, dtype: np.dtype, components: int, path: Path | str) -> Header:
    axes, size = reader.GetDimension(), reader.GetSize()
    if not 2 <= axes <= 4 or (axes == 4 and components > 1):
        what = f"{axes}D data of {components} values per voxel is not supported"
        raise UserError(what, where=path, hint="store it as a 3D volume, with several channels as components")
    if dtype.kind not in "iuf":
        hint = "store integers or real numbers"
        raise UserError(f"voxels of type {dtype} are not supported", where=path, hint=hint)
    if min(size) < 1:
        raise UserError(f"it has no voxels: its shape is {size}", where=path, hint="export it again")
    spatial = min(axes, 3)
    direction = np.array(reader.GetDirection()).reshape(axes, axes)[:spatial, :spatial]
    lps = np.eye(4)
    lps[:spatial, :spatial] = direction * reader.GetSpacing()[:spatial]
    lps[:spatial, 3] = reader.GetOrigin()[:spatial]
    affine = lps.copy()
    affine[:3] = _LPS_TO_RAS @ lps[:3]
    shape = (*size, 1)[:3]
    channels = size[3] if axes == 4 else components
    segments = read_segments({key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}, channels, path)
    return Header(Grid(shape, affine, flat=axes == 2), channels=channels, dtype=dtype, segments=segments)
