"""Writes label maps as DICOM segmentations of the series that `segtl convert` made images of."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seg_transfer.data.dicom import Series, find_series
from seg_transfer.data.formats import stem
from seg_transfer.data.geometry import grid_difference, to_native
from seg_transfer.data.image import read_label
from seg_transfer.data.naming import data_files
from seg_transfer.data.no_image import no_image
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.options.calls import takes
from seg_transfer.options.model_options import DicomSegOptions
from seg_transfer.planning.model_file import read_model_file
from seg_transfer.util.extras import check_extra
from seg_transfer.util.files import check_folder, make_folder
from seg_transfer.util.progress import track
from seg_transfer.workflow.convert import series_name, unpacked
from seg_transfer.workflow.work_folder import WorkFolder


@takes(DicomSegOptions)
def dicom_seg(options: DicomSegOptions) -> list[Path]:
    """Write label maps as DICOM segmentations.

    A label map belongs to the series whose image `segtl convert` gave the same name.

    Returns:
        The files, ``NAME.dcm`` for each label map.

    Raises:
        SomeCasesFailed: If a label map has no series, does not lie on its grid, or has values that the model does not
            know; all others are written.
        UserError: If there is no label map, or a package of the extra `dicom` is missing.
    """
    check_extra("dicom", "writing DICOM segmentations")
    from seg_transfer.exporting.dicom_seg import save_segmentation

    check_folder(options.output)
    if options.model is not None:
        data = read_model_file(options.model).header.plan.data
    else:
        data = WorkFolder(options.work).load_plan().data
    names = {label.name: label.value for label in data.labels if label.value}
    files = [options.labels] if options.labels.is_file() else _label_maps(options.labels)
    failures: dict[str, str] = {}
    written: list[Path] = []
    with unpacked(options.dicom) as folder:
        series = {series_name(one): one for one in find_series(folder)}
        for file in track(files, total=len(files), title="writing DICOM"):
            path = options.output / f"{stem(file)}.dcm"
            try:
                one = _series_of(file, series)
                labels = read_label(file)
                assert one.grid is not None, one.problem
                if difference := grid_difference(one.grid, labels.native):
                    raise UserError(f"does not lie on the grid of its series: {difference}", where=file)
                if unknown := sorted(set(np.unique(labels.array).tolist()) - {0, *names.values()}):
                    raise UserError(f"it has values that the model does not know: {unknown[:5]}", where=file)
                make_folder(options.output)
                save_segmentation(path, to_native(labels.array[0], one.grid), one, names)
            except UserError as error:
                failures[stem(file)] = str(error)
            else:
                written.append(path)
    if failures:
        raise SomeCasesFailed(failures, of=len(files))
    return written


def _label_maps(folder: Path) -> list[Path]:
    files = data_files(folder) if folder.is_dir() else []
    if not files:
        raise no_image(folder, "label map")
    return files


def _series_of(file: Path, series: dict[str, Series]) -> Series:
    found = series.get(stem(file))
    if found is None:
        hint = f"the label map has to be named as its image of `segtl convert`; the series are {', '.join(series)}"
        raise UserError("no series has this name", where=file, hint=hint)
    if found.grid is None:
        raise UserError(f"its series is no volume: {found.problem}", where=file)
    return found
