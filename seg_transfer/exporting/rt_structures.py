"""Label maps as DICOM RT structure sets (RTSTRUCT): closed contours of each label in the slices of its series.

Contours run half-way between voxels of a label and others, so that the pixel centres within them are its voxels. Holes
are contours of their own: where an odd number of contours lies around a point, it is inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from seg_transfer.data.dicom import Series
from seg_transfer.data.formats.label_table import colour
from seg_transfer.errors import UserError
from seg_transfer.util.files import whole_file
from seg_transfer.version import VERSION

_RT_STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
_STUDY = "1.2.840.10008.3.1.2.3.1"
_OF_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_OF_STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")


def save_structures(path: Path, labels: np.ndarray, series: Series, names: Mapping[str, int]) -> None:
    """Write a label map as RTSTRUCT, which refers to the files of its series.

    Args:
        path: The file.
        labels: ``(i, j, k)`` along columns, rows and slices of the series.
        series: The series, whose files hold patient and study.
        names: Label -> its value, without background.

    Raises:
        UserError: If the series has no frame of reference.
    """
    import pydicom
    from pydicom.uid import generate_uid

    sources = [pydicom.dcmread(one.path, stop_before_pixels=True) for one in series.slices]
    first = sources[0]
    frame = first.get("FrameOfReferenceUID")
    if not frame:
        hint = "files that were stripped of identifiers may lack what DICOM requires"
        raise UserError("its series has no frame of reference", where=series.slices[0].path, hint=hint)
    assert series.grid is not None
    made = _blank(first)
    images = [
        _item(ReferencedSOPClassUID=one.SOPClassUID, ReferencedSOPInstanceUID=one.SOPInstanceUID) for one in sources
    ]
    of_series = _item(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=images)
    of_study = _item(
        ReferencedSOPClassUID=_STUDY,
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[of_series],
    )
    made.ReferencedFrameOfReferenceSequence = [_item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[of_study])]
    made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = [], [], []
    for number, (name, value) in enumerate(names.items(), start=1):
        roi = _item(ROINumber=number, ReferencedFrameOfReferenceUID=frame)
        roi.ROIName, roi.ROIGenerationAlgorithm = name[:64], "AUTOMATIC"
        made.StructureSetROISequence.append(roi)
        contours = [
            _item(
                ContourImageSequence=[images[k]] if len(images) == labels.shape[2] else images[:1],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(points),
                ContourData=[f"{each:.4f}" for each in points.ravel()],
            )
            for k, points in contours_of(labels == value, series.grid.affine)
        ]
        of_label = _item(ReferencedROINumber=number, ROIDisplayColor=[round(255 * each) for each in colour(number - 1)])
        if contours:
            of_label.ContourSequence = contours
        made.ROIContourSequence.append(of_label)
        made.RTROIObservationsSequence.append(
            _item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="", ROIInterpreter="")
        )
    made.SeriesNumber = int(series.number or 0) % 100 + 2000
    made.SeriesInstanceUID, made.SOPInstanceUID = generate_uid(), generate_uid()
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    with whole_file(path, needed=labels.size) as temporary:
        made.save_as(temporary, enforce_file_format=True)


def contours_of(mask: np.ndarray, affine: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The contours of a mask, slice by slice.

    Args:
        mask: ``(i, j, k)``.
        affine: Voxel -> world (RAS+), in mm.

    Yields:
        Slice, and the points ``(point, 3)`` of a closed contour in DICOM's coordinates (LPS+); the first one is not
        repeated at the end.
    """
    from contourpy import contour_generator

    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    for k in np.flatnonzero(mask.any((0, 1))).tolist():
        plane = np.pad(mask[..., k], 1).astype(np.float64)
        for line in contour_generator(z=plane).lines(0.5):
            rows_first = np.asarray(line)[:-1]  # contourpy's x is the second axis
            points = np.column_stack([rows_first[:, ::-1] - 1, np.full(len(rows_first), k), np.ones(len(rows_first))])
            yield k, (points @ to_lps.T)[:, :3]


def _blank(source: Any) -> Any:
    """A structure set of the patient and study of a file, without structures."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    made, now = Dataset(), datetime.now()
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = UID(_RT_STRUCTURES)
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for name in (*_OF_PATIENT, *_OF_STUDY):
        setattr(made, name, source.get(name, ""))
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID, made.Modality = _RT_STRUCTURES, "RTSTRUCT"
    made.Manufacturer = made.ManufacturerModelName = "segtl"
    made.SoftwareVersions, made.OperatorsName = VERSION, ""
    made.SeriesDescription, made.StructureSetLabel = "Contours by segtl", "segtl"
    made.StructureSetDate, made.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.ApprovalStatus = "UNAPPROVED"
    return made


def _item(**fields: Any) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    for name, value in fields.items():
        setattr(item, name, value)
    return item
