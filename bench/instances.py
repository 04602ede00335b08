"""Are touching objects told apart better by their cores than by connected components of the foreground?

``discs``: made images of 96 x 96 pixels with 12 discs, most of which touch another one (``tests/made_discs.py``).
``cells``: cut-outs of the data set's single cells, at half their size, laid side by side so that they touch, on a
canvas of their background's colour: 9 in 144 x 144 pixels. So texture and outlines are real, arrangements are made.
24 images to train on, 12 to score; cells of both are different ones, of the longest list of training cases. A default
plan is trained for a given time; the network's foreground is the same for both ways, so that only the way to tell
objects apart differs.

    python bench/instances.py --minutes 2 --seeds 3
    python bench/instances.py --images cells --minutes 2 --seeds 3
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from runner import DATA, DATA_HELP, lists_of
from scipy import ndimage

import seg_transfer
from seg_transfer.evaluation.panoptic import panoptic_quality

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from made_discs import describe, write_discs

TRAIN, TEST = 24, 12
SIDE, CELLS = 144, 9
LEAST_VISIBLE = 0.6
"""Share of a cell that those laid over it leave at least."""
MOST_COVERING = 0.15
"""Share of a new cell that lies on others at most."""


def cut_outs(data: Path, cases: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Image ``(row, column, RGB)`` and mask of the cell of each case, at half size, cropped to the mask."""
    found = []
    for case in cases:
        image = Image.open(data / "imagesTr" / f"{case}_0000.png").convert("RGB")
        label = Image.open(data / "labelsTr" / f"{case}.png")
        size = (image.width // 2, image.height // 2)
        pixels = np.asarray(image.resize(size, Image.Resampling.BOX))
        parts, count = ndimage.label(np.asarray(label.resize(size, Image.Resampling.NEAREST)) > 0)
        if not count:
            continue
        largest = parts == 1 + np.argmax(np.bincount(parts.reshape(-1))[1:])
        box = ndimage.find_objects(largest.astype(np.uint8))[0]
        found.append((pixels[box], largest[box]))
    return found


def laid(cells: Sequence[tuple[np.ndarray, np.ndarray]], ground: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
    """Image and object numbers: cells side by side; a later one may cover a rim of an earlier one."""
    draw = np.random.default_rng(seed)
    image = np.clip(ground + draw.normal(0, 4, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    numbers = np.zeros((SIDE, SIDE), np.uint8)
    areas: list[int] = []
    for _ in range(400):
        if len(areas) == CELLS:
            break
        pixels, mask = cells[draw.integers(len(cells))]
        row, column = (int(draw.integers(0, SIDE - size + 1)) for size in mask.shape)
        here = (slice(row, row + mask.shape[0]), slice(column, column + mask.shape[1]))
        beside = ndimage.binary_dilation(numbers[here] > 0)
        if areas and not (beside & mask).any():
            continue
        if np.count_nonzero(numbers[here][mask]) > MOST_COVERING * mask.sum():
            continue
        after = numbers.copy()
        after[here] = np.where(mask, len(areas) + 1, numbers[here])
        visible = np.bincount(after.reshape(-1), minlength=len(areas) + 2)[1:-1]
        if any(visible < LEAST_VISIBLE * np.array(areas)):
            continue
        numbers = after
        image[here] = np.where(mask[..., None], pixels, image[here])
        areas.append(int(mask.sum()))
    return image, numbers


def write_cells(folder: Path, data: Path, cases: Sequence[str], seeds: range) -> Path:
    """A data set in nnU-Net's raw layout of cells that touch."""
    cells = cut_outs(data, cases)
    first = np.asarray(Image.open(data / "imagesTr" / f"{cases[0]}_0000.png").convert("RGB"))
    background = np.asarray(Image.open(data / "labelsTr" / f"{cases[0]}.png")) == 0
    ground = np.median(first[background], axis=0)
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        image, numbers = laid(cells, ground, seed)
        Image.fromarray(image).save(folder / "imagesTr" / f"cells_{seed:05}_0000.png")
        Image.fromarray(numbers).save(folder / "labelsTr" / f"cells_{seed:05}.png")
    names = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "cell": 1}}
    describe(folder, instances=["cell"], **names)
    return folder


def write_images(kind: str, folder: Path, data: Path, seed: int) -> tuple[Path, Path]:
    """The data sets to train on and to score."""
    first = 1000 * seed
    seeds = range(first, first + TRAIN), range(first + TRAIN, first + TRAIN + TEST)
    if kind == "discs":
        return write_discs(folder / "train", seeds[0]), write_discs(folder / "test", seeds[1])
    known = max(lists_of("cells")["few_shot"].values(), key=len)
    half = len(known) // 2
    train = write_cells(folder / "train", data / "cells", known[:half], seeds[0])
    return train, write_cells(folder / "test", data / "cells", known[half:], seeds[1])


def qualities(kind: str, data: Path, folder: Path, minutes: float, seed: int) -> tuple[float, float, float]:
    """Mean PQ over the test images by cores and by connected components, and mean Dice of the foreground."""
    train, test = write_images(kind, folder, data, seed)
    work = folder / "work"
    seg_transfer.plan(train, work=work, time_budget=60 * minutes, seed=seed)
    seg_transfer.train("full", work=work)
    seg_transfer.predict(test / "imagesTr", folder / "out", work=work)
    cores, components, dices = [], [], []
    for path in sorted((test / "labelsTr").iterdir()):
        reference, found = np.asarray(Image.open(path)), np.asarray(Image.open(folder / "out" / path.name))
        cores.append(panoptic_quality(found, reference).quality)
        components.append(panoptic_quality(ndimage.label(found)[0], reference).quality)
        common = np.count_nonzero((found > 0) & (reference > 0))
        dices.append(2 * common / (np.count_nonzero(found) + np.count_nonzero(reference)))
    return statistics.mean(cores), statistics.mean(components), statistics.mean(dices)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", choices=("discs", "cells"), default="discs")
    parser.add_argument("--data", type=Path, default=DATA, help=DATA_HELP)
    parser.add_argument("--minutes", type=float, default=2, help="of training in each run")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    print("| seed | PQ by cores | PQ by connected components | Dice of the foreground |\n|---|---|---|---|")
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as folder:
            row = qualities(given.images, given.data, Path(folder), given.minutes, seed)
        print(f"| {seed} | {' | '.join(f'{value:.3f}' for value in row)} |", flush=True)


if __name__ == "__main__":
    main()
