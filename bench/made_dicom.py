"""DICOM series as a scanner writes them, by pydicom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

Change = Callable[[Dataset, int], None]


def write_series(
    folder: Path,
    volume: np.ndarray,
    affine: np.ndarray,
    *,
    change: Change | None = None,
    description: str = "Thorax 1.0",
    number: int = 3,
    study: str = "1.2.826.0.1.3680043.8.498.1",
) -> str:
    """Write a CT series in shuffled order of names; returns its identifier.

    Args:
        folder: Created if it is missing.
        volume: Hounsfield units ``(column, row, slice)``; stored with an intercept of -1024.
        affine: Voxel -> world (RAS+), in mm, without shear.
        change: Changes the data set of a slice, of which it also gets the index, before it is written.
        description: Of the series.
        number: Of the series.
        study: Identifier of the study.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    uid = generate_uid()
    names = np.random.default_rng(0).permutation(volume.shape[2])
    for index in range(volume.shape[2]):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, generate_uid()
        one.file_meta.MediaStorageSOPClassUID = CTImageStorage
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        one.PatientName, one.PatientID = "Miller^Anna", "12345"
        one.StudyInstanceUID, one.SeriesInstanceUID = study, uid
        one.PatientBirthDate, one.PatientSex, one.AccessionNumber, one.ReferringPhysicianName = "", "F", "", ""
        one.StudyID, one.StudyDate, one.StudyTime = "7", "20261129", "120000"
        one.FrameOfReferenceUID, one.InstanceNumber, one.SliceThickness = f"{study}.1", index + 1, f"{spacing[2]:.6f}"
        one.Modality, one.SeriesDescription, one.SeriesNumber = "CT", description, number
        one.Rows, one.Columns = volume.shape[1], volume.shape[0]
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
        one.RescaleSlope, one.RescaleIntercept = 1, -1024
        one.PixelSpacing = [f"{spacing[1]:.6f}", f"{spacing[0]:.6f}"]
        cosines = lps[:3, :2] / spacing[:2]
        one.ImageOrientationPatient = [f"{value:.8f}" for value in cosines.T.ravel()]
        one.ImagePositionPatient = [f"{value:.6f}" for value in (lps @ [0, 0, index, 1])[:3]]
        one.PixelData = (volume[..., index].T + 1024).astype(np.uint16).tobytes()
        if change is not None:
            change(one, index)
        one.save_as(folder / f"IM{names[index]:04d}", enforce_file_format=True)
    return uid
