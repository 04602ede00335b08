"""Small data sets with nested regions, or annotated in some slices only."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np

REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "nucleus": 3}
AFFINE = np.diag([-1.0, -1.0, 3.0, 1.0])


def nested_balls(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and label values of three balls within each other, each brighter than the one around it, off the centre."""
    draw = np.random.default_rng(seed)
    shape = (28, 24, 12)
    centre = np.array(shape) / 2 + draw.uniform(-2, 2, 3) * (1, 1, 0.3)
    distance = np.sqrt(
        sum(((axis - c) * step) ** 2 for axis, c, step in zip(np.indices(shape), centre, (1, 1, 3), strict=True))
    )
    values = sum((distance < radius).astype(np.uint8) for radius in (10, 7, 4))
    return (60.0 * values + draw.normal(50, 12, shape)).astype(np.float32), values


def write_case(folder: Path, name: str, image: np.ndarray, values: np.ndarray) -> None:
    for kind, array in (("imagesTr", image), ("labelsTr", values)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        ending = "_0000.nii.gz" if kind == "imagesTr" else ".nii.gz"
        nibabel.save(nibabel.Nifti1Image(array, AFFINE), folder / kind / f"{name}{ending}")


def describe(folder: Path, labels: dict, **more: object) -> None:
    description = {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz", **more}
    (folder / "dataset.json").write_text(json.dumps(description))


def values_of(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    total = one.sum() + other.sum()
    return float(2 * (one & other).sum() / total) if total else float("nan")
