"""Is a volume that is larger than memory segmented within a limit of memory, and rightly?

Made balls in noise, as OME-Zarr. A model is planned and trained on small volumes whose voxels are four times as long;
then `segtl predict` segments one large volume in a process of its own. Its peak of resident memory, seconds and Dice,
which is computed chunk by chunk, are printed. The default needs 10 GB of disk.

    python bench/huge.py --shape 2048 2048 1024 --memory 3G
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr

import seg_transfer
from seg_transfer.data.formats import ome_zarr_writer, write_volume
from seg_transfer.data.geometry import Grid
from seg_transfer.util.environment import machine_text
from seg_transfer.util.units import bytes_text

COARSE, FINE = 0.004, 0.001
"""Spacing in mm of the training volumes and of the large one."""
TRAINING, SMALL = 6, (72, 72, 56)
RADII = (0.03, 0.06)
DISTANCE = 0.2
"""Between centres of neighbouring balls, in mm, before each is moved at random."""


def balls(seed: int, size: tuple[float, ...]) -> list[tuple[np.ndarray, float]]:
    """Centres and radii of balls in a box of this size, in mm."""
    generator = np.random.default_rng(seed)
    corners = itertools.product(*(np.arange(DISTANCE / 2, edge, DISTANCE) for edge in size))
    return [(np.array(c) + generator.uniform(-0.03, 0.03, 3), generator.uniform(*RADII)) for c in corners]


def part(
    made: list[tuple[np.ndarray, float]], start: tuple[int, ...], stop: tuple[int, ...], spacing: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Image and label ``(x, y, z)`` of a box of voxels."""
    shape = [b - a for a, b in zip(start, stop, strict=True)]
    axes = [np.arange(a, b) * spacing for a, b in zip(start, stop, strict=True)]
    label = np.zeros(shape, np.uint8)
    for centre, radius in made:
        spans = [np.flatnonzero(abs(axis - c) <= radius) for axis, c in zip(axes, centre, strict=True)]
        if all(map(len, spans)):
            box = tuple(slice(span[0], span[-1] + 1) for span in spans)
            x, y, z = ((axis[span] - c) ** 2 for axis, span, c in zip(axes, spans, centre, strict=True))
            label[box] |= (x[:, None, None] + y[:, None] + z <= radius**2).astype(np.uint8)
    noise = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return 100 + noise.astype(np.uint16) + 100 * label, label


def make_model(folder: Path, seconds: float) -> Path:
    """A model, planned and trained on small volumes."""
    for case in range(TRAINING):
        made = balls(case, tuple(size * COARSE for size in SMALL))
        image, label = part(made, (0, 0, 0), SMALL, COARSE, case)
        grid = Grid(SMALL, np.diag([COARSE] * 3 + [1.0]))
        write_volume(folder / f"data/images/case_{case}.ome.zarr", image, grid)
        write_volume(folder / f"data/labels/case_{case}.ome.zarr", label, grid)
    seg_transfer.plan(folder / "data", work=folder / "work", config="3d", time_budget=seconds, workers=0)
    seg_transfer.train("full", work=folder / "work", workers=0)
    (model,) = seg_transfer.export(folder / "model.segtl", work=folder / "work")
    return model


def corners(shape: tuple[int, int, int]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """First and last voxels of the chunks of a volume."""
    chunk = ome_zarr_writer.CHUNK
    starts = itertools.product(*(range(0, size, chunk) for size in shape))
    return [(at, tuple(min(a + chunk, n) for a, n in zip(at, shape, strict=True))) for at in starts]


def make_volume(path: Path, shape: tuple[int, int, int], made: list[tuple[np.ndarray, float]]) -> None:
    """The large image, chunk by chunk."""
    grid = Grid(shape, np.diag([FINE] * 3 + [1.0]))
    array = ome_zarr_writer.created(path, grid, np.dtype(np.uint16))
    for number, (start, stop) in enumerate(corners(shape)):
        x, y, z = map(slice, start, stop)
        array[z, y, x] = part(made, start, stop, FINE, number)[0].T
    ome_zarr_writer.finish(path, grid, {})


def dice(path: Path, shape: tuple[int, int, int], made: list[tuple[np.ndarray, float]]) -> float:
    """Dice of the large label map, chunk by chunk."""
    array = zarr.open_array(path / "0", mode="r")
    common = total = 0
    for number, (start, stop) in enumerate(corners(shape)):
        x, y, z = map(slice, start, stop)
        found, true = np.asarray(array[z, y, x]).T != 0, part(made, start, stop, FINE, number)[1] != 0
        common += int((found & true).sum())
        total += int(found.sum()) + int(true.sum())
    return 2 * common / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(2048, 2048, 1024), metavar=("X", "Y", "Z"))
    parser.add_argument("--memory", default="3G", help="option of `segtl predict`")
    parser.add_argument("--seconds", type=float, default=60, help="of training")
    parser.add_argument("--folder", type=Path, help="keep the files here; default: a temporary folder")
    options = parser.parse_args()
    shape = tuple(options.shape)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        model = (
            make_model(folder, options.seconds) if not (folder / "model.segtl").is_file() else folder / "model.segtl"
        )
        made = balls(100, tuple(size * FINE for size in shape))
        image, output = folder / "large.ome.zarr", folder / "labels.ome.zarr"
        if not image.is_dir():
            make_volume(image, shape, made)
        command = [sys.executable, "-m", "seg_transfer", "predict", "-i", image, "-o", output, "-m", model]
        started, before = time.perf_counter(), os.times()
        subprocess.run([*map(str, command), "--memory", options.memory, "--overwrite"], check=True)
        wall, after = time.perf_counter() - started, os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        values = bytes_text(2 * int(np.prod(shape)))
        print(f"{' x '.join(map(str, shape))} voxels ({values} of values), --memory {options.memory}: at most")
        print(f"{bytes_text(peak)} of memory, {wall:.0f} s, {cpu:.0f} s of them on the CPU; ", end="")
        print(f"Dice {dice(output, shape, made):.3f}; {machine_text()}")


if __name__ == "__main__":
    main()
