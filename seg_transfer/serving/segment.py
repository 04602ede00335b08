"""Segments what was received: image files into a label map, a DICOM series into DICOM-SEG."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seg_transfer.errors import UserError, printable
from seg_transfer.util.archives import unpack
from seg_transfer.util.extras import check_extra
from seg_transfer.util.texts import first_of

if TYPE_CHECKING:
    from seg_transfer.data.dicom import Series
    from seg_transfer.data.image import Image
    from seg_transfer.inference.predictor import Predictor
    from seg_transfer.planning.data_plan import DataPlan

LARGEST_CONTENT = 8 * 2**30
"""Bytes that an uploaded archive may unpack to: eight times a CT of 1024 x 1024 x 500 voxels."""
UNPACKED = "series"
"""Folder of the content of an archive, in that of the task."""


@dataclass(frozen=True)
class Task:
    """What to segment.

    Attributes:
        inputs: Image files, one per channel; or one .zip or folder of a DICOM series.
        folder: Where the result is written, and nothing else stays.
        ending: Of the label map of image files.
        names: Of the inputs where they come from, for messages, as :func:`~seg_transfer.errors.printable` gives them;
            empty: as they are stored.
    """

    inputs: tuple[Path, ...]
    folder: Path
    ending: str = ".nii.gz"
    names: tuple[str, ...] = ()

    def as_named(self, message: str) -> str:
        """A message with the inputs' own names in place of those by which they are stored, and without paths."""
        said: dict[str, str] = {}
        for path, name in zip(self.inputs, self.names, strict=False):
            said |= {re.escape(printable(str(path))): name, re.escape(path.name): name}
        unpacked = re.escape(printable(str(self.folder / UNPACKED)))
        if self.names:  # unpacked is what one archive holds
            said |= {rf"{unpacked}/[0-9]{{6}}/": f"{self.names[0]}/", unpacked: self.names[0]}
        for folder in {self.folder, *(path.parent for path in self.inputs)}:
            said[rf"{re.escape(printable(str(folder)))}/"] = ""
        patterns = sorted(said, key=len, reverse=True)
        # One pass: a name of a client may be the stored name of another file.
        found = re.compile("|".join(f"({pattern})" for pattern in patterns))
        return found.sub(lambda match: said[patterns[(match.lastindex or 1) - 1]], message)


@dataclass(frozen=True)
class Result:
    """What a task gave.

    Attributes:
        file: The label map, or ``.dcm``.
        warnings: In what the image or its labels' volumes are unlike those of training.
    """

    file: Path
    warnings: tuple[str, ...]


def segment_task(predictor: Predictor, task: Task, *, tta: bool) -> Result:
    """Segment what a task names.

    Raises:
        UserError: If the input is no image, no series, damaged, or does not fit the model.
    """
    first = task.inputs[0]
    if len(task.inputs) == 1 and first.suffix.lower() == ".zip":
        folder = task.folder / UNPACKED
        folder.mkdir()
        unpack(first, folder, most=LARGEST_CONTENT)
        return _segment_series(predictor, folder, task.folder / "result.dcm", tta)
    if first.is_dir():
        return _segment_series(predictor, first, task.folder / "result.dcm", tta)
    from seg_transfer.data.formats import write_volume
    from seg_transfer.data.image import read_image

    image = read_image(task.inputs)
    file = task.folder / f"result{task.ending}"
    labels, warnings = _predict(predictor, image, tta)
    write_volume(file, labels, image.native, predictor.plan.data.written_names)
    return Result(file, warnings)


def check_one_channel(data: DataPlan, *, where: Path | None = None, hint: str | None = None) -> None:
    """Refuse a model that cannot read a DICOM series.

    Raises:
        UserError: If it has several channels.
    """
    if len(data.channels) > 1:
        names = ", ".join(channel.name for channel in data.channels)
        what = f"the model needs {len(data.channels)} channels ({names}), a series is one"
        raise UserError(what, where=where, hint=hint)


def only_series(folder: Path) -> Series:
    """The one series that a folder holds, which is a volume.

    Raises:
        UserError: If it holds none, several, or one that is no volume.
    """
    from seg_transfer.data.dicom import find_series

    found = find_series(folder)
    if len(found) > 1:
        listed = first_of([one.description or one.modality or one.uid for one in found], 5)
        raise UserError(f"it holds {len(found)} series: {listed}", hint="give the files of one series")
    if found[0].problem:
        raise UserError(f"the series is no volume: {found[0].problem}")
    return found[0]


def _segment_series(predictor: Predictor, folder: Path, file: Path, tta: bool) -> Result:
    from seg_transfer.data.dicom import read_series
    from seg_transfer.data.image import image_with_affine
    from seg_transfer.exporting.dicom_seg import save_segmentation
    from seg_transfer.workflow.dicom_seg import check_named

    check_extra("dicom", "writing DICOM segmentations")
    data = predictor.plan.data
    check_one_channel(data, hint="convert the series to NIfTI on one grid, and give one file per channel")
    check_named(data)
    series = only_series(folder)
    array, grid = read_series(series)
    labels, warnings = _predict(predictor, image_with_affine(array, grid.affine), tta)
    save_segmentation(file, labels, series, data.written_names)
    return Result(file, warnings)


def _predict(predictor: Predictor, image: Image, tta: bool) -> tuple:
    """The label map ``(i, j, k)`` in the image's own order, and warnings."""
    transform, prepared = predictor.prepare(image)
    warnings = predictor.unlike_training(image)
    del image
    labels = predictor.labels(transform, prepared, tta=tta)
    return labels, (*warnings, *predictor.unlike_volumes(labels, transform))
