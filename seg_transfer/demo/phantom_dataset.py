"""A small anisotropic MR-like data set in nnU-Net layout, made of :mod:`seg_transfer.demo.phantom`.

Cases differ in grid, orientation and intensity scale as those of several scanners do; a third of them is oblique.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from seg_transfer.data.image import Grid, write_volume
from seg_transfer.demo.phantom import LABELS, sample_abdomen
from seg_transfer.errors import UserError
from seg_transfer.util.files import write_text

TRAINING, HELD_OUT = 12, 4
NAME = "demo_abdomen"

_ORIENTATIONS = ("RAS", "LPS", "LAS", "PIR", "RSA", "LPI")
_DIRECTIONS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
_FIELD_OF_VIEW = np.array([328.0, 236.0, 150.0])
_TILT_DEGREES = 8.0


def make_dataset(folder: Path, *, seed: int = 0) -> Path:
    """Write the demo's data set: ``imagesTr``, ``labelsTr``, held-out ``imagesTs``, ``labelsTs``, ``dataset.json``.

    The same seed gives the same files. A finished data set of the same seed is left as it is.

    Args:
        folder: Where it goes; made if need be.
        seed: Decides on every case.

    Returns:
        The folder.

    Raises:
        UserError: If the folder holds a data set of another seed.
    """
    description = folder / "dataset.json"
    if description.is_file():
        if json.loads(description.read_text(encoding="utf-8")).get("seed") != seed:
            raise UserError(f"holds a data set of another seed than {seed}", where=folder, hint="name another folder")
        return folder
    for number, random_seed in enumerate(np.random.SeedSequence(seed).spawn(TRAINING + HELD_OUT)):
        part = "Tr" if number < TRAINING else "Ts"
        image, labels, grid = make_case(number, np.random.default_rng(random_seed))
        name = f"abdomen_{number + 1:02d}"
        write_volume(folder / f"images{part}" / f"{name}_0000.nii.gz", image, grid)
        write_volume(folder / f"labels{part}" / f"{name}.nii.gz", labels, grid)
    facts = {
        "name": NAME,
        "description": "Made-up abdomens; see seg_transfer/demo",
        "seed": seed,
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **LABELS},
        "numTraining": TRAINING,
        "file_ending": ".nii.gz",
    }
    # Written last: its presence says that the data set is complete.
    write_text(description, json.dumps(facts, indent=2) + "\n")
    return folder


def make_case(number: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Grid]:
    """Make one case.

    Args:
        number: Chooses the orientation in which it is stored and whether it is oblique.
        random: Decides on everything else.

    Returns:
        Image int16 and labels uint8, both ``(i, j, k)`` in the order of the grid, and the grid.
    """
    grid = _make_grid(_ORIENTATIONS[number % len(_ORIENTATIONS)], random, oblique=number % 3 == 2)
    indices = np.indices(grid.shape).reshape(3, -1)
    points = (grid.affine[:3, :3] @ indices + grid.affine[:3, 3:]).reshape(3, *grid.shape)
    image, labels = sample_abdomen(points, random)
    return np.minimum(image, np.iinfo(np.int16).max).astype(np.int16), labels, grid


def _make_grid(orientation: str, random: np.random.Generator, *, oblique: bool) -> Grid:
    """A grid about the origin, stored as ``orientation`` says (such as "LPS")."""
    inplane = random.uniform(3.7, 4.3)
    spacing = np.array([inplane, inplane, random.uniform(8.5, 10)])
    size = np.round(_FIELD_OF_VIEW * random.uniform(0.97, 1.03, size=3) / spacing).astype(int)
    angles = np.radians(random.uniform(-_TILT_DEGREES, _TILT_DEGREES, size=2)) * oblique
    rotation = _rotation(1, 2, angles[0]) @ _rotation(0, 1, angles[1])
    axes, signs = zip(*(_DIRECTIONS[letter] for letter in orientation), strict=True)
    shape = tuple(int(size[axis]) for axis in axes)
    affine = np.eye(4)
    affine[:3, :3] = rotation[:, axes] * spacing[list(axes)] * np.array(signs)
    centre = random.uniform(-6, 6, size=3)
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid((shape[0], shape[1], shape[2]), affine)


def _rotation(first: int, second: int, angle: float) -> np.ndarray:
    """Turn from one axis towards another."""
    matrix = np.eye(3)
    matrix[[first, first, second, second], [first, second, first, second]] = (
        np.cos(angle),
        -np.sin(angle),
        np.sin(angle),
        np.cos(angle),
    )
    return matrix
