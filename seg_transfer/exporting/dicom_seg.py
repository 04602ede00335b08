"""Label maps as DICOM segmentations (DICOM-SEG) of the series they were predicted on, written by highdicom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seg_transfer.data.dicom import Series
from seg_transfer.errors import UserError, cause_of
from seg_transfer.util.files import whole_file
from seg_transfer.version import VERSION

OWN_SCHEME = "99SEGTL"
"""Coding scheme of labels that SNOMED CT has no code for, by the name alone."""


def save_segmentation(path: Path, labels: np.ndarray, series: Series, names: Mapping[str, int]) -> None:
    """Write a label map as DICOM-SEG, which refers to the files of its series.

    Args:
        path: The file.
        labels: ``(i, j, k)`` along columns, rows and slices of the series.
        series: The series, whose files hold patient and study.
        names: Label -> its value, without background.

    Raises:
        UserError: If the series lacks what a segmentation has to repeat.
    """
    import highdicom
    import pydicom

    numbered = np.zeros(labels.shape, np.uint8 if len(names) < 256 else np.uint16)
    for number, value in enumerate(names.values(), start=1):
        numbered[labels == value] = number
    sources = [pydicom.dcmread(one.path, stop_before_pixels=True) for one in series.slices]
    try:
        made = highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=np.ascontiguousarray(numbered.transpose(2, 1, 0)),
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=_segments(list(names)),
            series_instance_uid=highdicom.UID(),
            series_number=int(series.number or 0) % 100 + 1000,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="segtl",
            manufacturer_model_name="segtl",
            software_versions=VERSION,
            device_serial_number="none",
            omit_empty_frames=bool(numbered.any()),
            series_description="Segmentation by segtl",
        )
    except (AttributeError, ValueError, TypeError, KeyError) as error:
        cause = cause_of(error)
        hint = "files that were stripped of identifiers may lack what DICOM requires"
        raise UserError(f"cannot be referred to: {cause}", where=series.slices[0].path, hint=hint) from None
    with whole_file(path, needed=numbered.size // 8) as temporary:
        made.save_as(temporary)


def _segments(names: Sequence[str]) -> list[Any]:
    import highdicom
    from pydicom.sr.codedict import codes

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="segtl", version=VERSION, family=codes.DCM.ArtificialIntelligence
    )
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name[:64],
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=_code(name),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, name in enumerate(names, start=1)
    ]


def _code(name: str) -> Any:
    """SNOMED CT's code of a label such as liver or ``lung upper lobe``; one of an own scheme where it has none."""
    import highdicom
    from pydicom.sr.codedict import codes

    keyword = "".join(word.capitalize() for word in name.replace("_", " ").replace("-", " ").split())
    try:
        return getattr(codes.SCT, keyword)
    except AttributeError:
        value = "".join(letter for letter in name if letter.isascii() and letter.isalnum())[:16] or "label"
        return highdicom.sr.CodedConcept(value=value, scheme_designator=OWN_SCHEME, meaning=name[:64])
