"""Volumes whose labels differ in texture alone, so that features tell them apart and intensities do not."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np


def make_stripes(folder: Path, *, cases: int) -> Path:
    """Squares of upright stripes on lying ones: no intensity and no filter without a direction tells them apart."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    x, y = np.indices((48, 40))
    for number in range(cases):
        draw = np.random.default_rng(number)
        image, label = np.empty((48, 40, 3), np.float32), np.zeros((48, 40, 3), np.uint8)
        for z in range(3):
            left, top = draw.integers(4, 20), draw.integers(4, 14)
            label[left : left + 22, top : top + 20, z] = 1
            phase = draw.uniform(0, 6, 2)
            stripes = [np.sin(2 * np.pi * (axis + shift) / 6) for axis, shift in zip((x, y), phase, strict=True)]
            image[..., z] = np.where(label[..., z] == 1, *stripes) + draw.normal(0, 0.1, (48, 40))
        affine = np.diag([1.0, 1.0, 4.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(image, affine), folder / "imagesTr" / f"s{number}_0000.nii.gz")
        nibabel.save(nibabel.Nifti1Image(label, affine), folder / "labelsTr" / f"s{number}.nii.gz")
    description = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "square": 1}}
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder
