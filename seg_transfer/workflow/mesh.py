"""Writes the surface of each label of label maps as a mesh."""

from __future__ import annotations

import re
from pathlib import Path

from seg_transfer.data.formats import stem
from seg_transfer.data.geometry import to_native
from seg_transfer.data.image import read_label
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.options.calls import takes
from seg_transfer.options.model_options import MeshOptions
from seg_transfer.util.extras import check_extra
from seg_transfer.util.local_files import make_folder
from seg_transfer.util.progress import track
from seg_transfer.workflow.dicom_seg import check_values, label_maps, label_names
from seg_transfer.workflow.output_files import check_output_folder


@takes(MeshOptions)
def mesh(options: MeshOptions) -> list[Path]:
    """Write the surface of each label as ``OUTPUT/CASE/LABEL.stl`` or ``.ply``, in mm (LPS+).

    Labels without voxels have no file.

    Returns:
        The files.

    Raises:
        SomeCasesFailed: If a label map cannot be read, is a 2D image, or has values that the model does not know; all
            others are written.
        UserError: If there is no label map, or scikit-image is not installed.
    """
    check_extra("mesh", "writing meshes")
    from seg_transfer.exporting.mesh import save_mesh, surface

    check_output_folder(options.output)
    data = label_names(options)
    files = label_maps(options.labels)
    failures: dict[str, str] = {}
    written: list[Path] = []
    for file in track(files, total=len(files), title="writing meshes"):
        try:
            labels = read_label(file, names=data.names)
            check_values(labels, data.written_names, file)
            if 1 in labels.array.shape[1:]:
                hint = "a mesh is the surface of a volume"
                raise UserError("it has one slice, and so no surface", where=file, hint=hint)
            array = to_native(labels.array[0], labels.native)
            folder = options.output / stem(file)
            for name, value in data.written_names.items():
                if (mask := array == value).any():
                    make_folder(folder)
                    path = folder / f"{_file_name(name, value)}.{options.format}"
                    save_mesh(path, *surface(mask, labels.native.affine))
                    written.append(path)
        except UserError as error:
            failures[stem(file)] = str(error)
    if failures:
        raise SomeCasesFailed(failures, of=len(files))
    return written


def _file_name(name: str, value: int) -> str:
    """The label's name where it can be that of a file, with its value where letters had to be replaced."""
    safe = re.sub(r"[^\w .-]+", "_", name).strip(" .")[:80]
    return safe if safe == name else f"{safe or 'label'}_{value}"
