"""A tiny data set of balls with a core, and options with which the whole way takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np

LABELS = {"background": 0, "ball": 1, "core": 4}
QUICK = {"config": "2d", "encoder": "resnet18", "weights": "none", "time_budget": 2.0, "folds": 2, "memory": 10**9}
LOCAL = {"device": "cpu", "workers": 0}


def make_case(folder: Path, name: str, *, seed: int, label: bool = True) -> None:
    """A bright ball with a brighter core, in an oblique, left-handed, anisotropic grid."""
    generator = np.random.default_rng(seed)
    shape = (20 + seed, 24, 8)
    centre = np.array(shape) / 2 + generator.uniform(-2, 2, 3) * (1, 1, 0.3)
    distance = np.sqrt(
        sum(((axis - c) * s) ** 2 for axis, c, s in zip(np.indices(shape), centre, (1, 1, 2.5), strict=True))
    )
    classes = np.where(distance < 3, 4, np.where(distance < 7, 1, 0)).astype(np.uint8)
    image = 100.0 * (classes > 0) + 80.0 * (classes == 4) + generator.normal(50, 10, shape)
    turn = np.deg2rad(10)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]) @ np.diag(
        [-1.0, 1.0, 2.5]
    )
    affine[:3, 3] = 10, -20, 30 + seed
    (folder / "imagesTr").mkdir(parents=True, exist_ok=True)
    (folder / "labelsTr").mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(image.astype(np.float32), affine), folder / "imagesTr" / f"{name}_0000.nii.gz")
    if label:
        nibabel.save(nibabel.Nifti1Image(classes, affine), folder / "labelsTr" / f"{name}.nii.gz")


def make_dataset(folder: Path, *, cases: int = 4) -> Path:
    for seed in range(cases):
        make_case(folder, f"case_{seed}", seed=seed)
    description = {"channel_names": {"0": "MRI"}, "labels": LABELS, "numTraining": cases, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder
