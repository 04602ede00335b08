"""Shows an image and label maps in the browser."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from seg_transfer.errors import UserError, printable
from seg_transfer.options.other_options import ViewOptions

if TYPE_CHECKING:
    from seg_transfer.reporting.server import PageServer


def view(options: ViewOptions) -> PageServer:
    """Read an image and label maps, and make a server for them, which answers once it is told to serve.

    Raises:
        UserError: If a file cannot be read, a label map does not lie on the image's grid, or has more than 255 values.
    """
    import numpy as np

    from seg_transfer.data.geometry import grid_difference
    from seg_transfer.data.image import filled, read_image, read_label
    from seg_transfer.reporting import volume_files
    from seg_transfer.reporting.page import CaseVolumes, render_viewer
    from seg_transfer.reporting.server import PageServer

    image = filled(read_image([options.image]))
    files = {"image": volume_files.exact_file(image)}
    values: set[int] = set()
    arrays: dict[str, np.ndarray] = {}
    for path in options.labels:
        label = read_label(path, grid=image.native)
        if difference := grid_difference(image.native, label.native):
            what = f"does not lie on the image's grid: {difference}"
            raise UserError(what, where=path, hint=f"give a label map of {options.image}")
        array = label.array[0]
        arrays[_name(path, taken=arrays)] = array
        values |= set(np.unique(array).tolist()) - {0}
    numbered = {f"label {value}": value for value in sorted(values)}
    for name, array in arrays.items():
        files[name] = volume_files.label_file(array, volume_files.shown_affine(image), numbered)
    shown = CaseVolumes(
        title=options.image.name,
        note=f"{' x '.join(map(str, image.array.shape[1:]))} voxels.",
        files=files,
        colours=volume_files.colours(list(numbered)),
        crosshair=volume_files.crosshair(image),
        plane=volume_files.plane_of(image),
    )
    addresses = {name: f"{index}.nii" + (".gz" if index else "") for index, name in enumerate(files)}
    page = render_viewer(printable(options.image.name), shown, addresses).encode()
    contents = {addresses[name]: ("application/octet-stream", content) for name, content in files.items()}
    return PageServer({"": ("text/html; charset=utf-8", page), **contents})


def _name(path: Path, *, taken: Collection[str]) -> str:
    """What a label map is called in the viewer: its file, with its folder where two have the same name."""
    return path.name if path.name not in taken and path.name != "image" else str(path)
