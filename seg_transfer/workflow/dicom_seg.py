"""Writes label maps as DICOM segmentations or RT structure sets of the series that `segtl convert` made images of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from seg_transfer.data.dicom import Series, find_series
from seg_transfer.data.formats import stem
from seg_transfer.data.geometry import grid_difference, to_native
from seg_transfer.data.image import Image, read_label
from seg_transfer.data.naming import data_files
from seg_transfer.data.no_image import no_image
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.options.calls import takes
from seg_transfer.options.model_options import DicomSegOptions, LabelNamesOptions, RtStructOptions
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.model_file import read_model_file
from seg_transfer.util.extras import check_extra
from seg_transfer.util.local_files import make_folder
from seg_transfer.util.progress import track
from seg_transfer.workflow.convert import series_name, unpacked
from seg_transfer.workflow.output_files import check_output_folder
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

    return _write(options, save_segmentation)


@takes(RtStructOptions)
def rtstruct(options: RtStructOptions) -> list[Path]:
    """Write label maps as DICOM RT structure sets: the contours of each label.

    Label maps and series are those of :func:`dicom_seg`, and it returns and raises the same.
    """
    check_extra("dicom", "writing DICOM structure sets")
    from seg_transfer.exporting.rt_structures import save_structures

    return _write(options, save_structures)


def label_names(options: LabelNamesOptions) -> DataPlan:
    """The data part of the plan that knows the labels' names: the model's, or that of the work folder."""
    if options.model is not None:
        data = read_model_file(options.model).header.plan.data
    else:
        data = WorkFolder(options.work).load_plan().data
    check_named(data)
    return data


def check_named(data: DataPlan) -> None:
    """Refuse label maps whose values are numbers of objects.

    Raises:
        UserError: If they are.
    """
    if data.instances:
        what = f"the model numbers the objects of {data.regions[0].name}, and numbers have no names"
        raise UserError(what, hint="give label maps of a model of labels")


def check_values(labels: Image, names: Mapping[str, int], file: Path) -> None:
    """Refuse values of a label map that have no name.

    Raises:
        UserError: If there are some.
    """
    if unknown := sorted(set(np.unique(labels.array).tolist()) - {0, *names.values()}):
        raise UserError(f"it has values that the model does not know: {unknown[:5]}", where=file)


def _write(options: DicomSegOptions, save: Callable[[Path, np.ndarray, Series, Mapping[str, int]], None]) -> list[Path]:
    check_output_folder(options.output)
    data = label_names(options)
    names = data.written_names
    files = label_maps(options.labels)
    failures: dict[str, str] = {}
    written: list[Path] = []
    with unpacked(options.dicom) as folder:
        series = {series_name(one): one for one in find_series(folder)}
        for file in track(files, total=len(files), title="writing DICOM"):
            path = options.output / f"{stem(file)}.dcm"
            try:
                one = _series_of(file, series)
                labels = read_label(file, grid=one.grid, names=data.names)
                assert one.grid is not None, one.problem
                if difference := grid_difference(one.grid, labels.native):
                    raise UserError(f"does not lie on the grid of its series: {difference}", where=file)
                check_values(labels, names, file)
                make_folder(options.output)
                save(path, to_native(labels.array[0], one.grid), one, names)
            except UserError as error:
                failures[stem(file)] = str(error)
            else:
                written.append(path)
    if failures:
        raise SomeCasesFailed(failures, of=len(files))
    return written


def label_maps(folder: Path) -> list[Path]:
    """The label maps of a folder, or the one file."""
    if folder.is_file():
        return [folder]
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
