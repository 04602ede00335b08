"""Made 2D images of discs that touch, each with a number in its label map."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 96


def discs(seed: int, *, side: int = SIDE, count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Image and object numbers ``(row, column)``: noisy discs of differing brightness, most of which touch another.

    A new disc is laid beside an earlier one, so that both touch, or anywhere; it may cover a rim of up to 2 pixels.
    """
    draw = np.random.default_rng(seed)
    rows, columns = np.indices((side, side))
    numbers, image = np.zeros((side, side), np.uint8), np.zeros((side, side))
    placed: list[tuple[float, float, float]] = []
    for _ in range(50 * count):
        if len(placed) == count:
            break
        radius = draw.uniform(5, 8)
        row, column = draw.uniform(radius, side - radius, 2)
        if placed and draw.random() < 0.8:
            beside, angle = placed[draw.integers(len(placed))], draw.uniform(0, 2 * np.pi)
            away = beside[2] + radius - draw.uniform(0, 2)
            row, column = beside[0] + away * np.sin(angle), beside[1] + away * np.cos(angle)
        if not radius <= min(row, column) <= max(row, column) <= side - radius:
            continue
        if any(np.hypot(row - r, column - c) < radius + other - 2 for r, c, other in placed):
            continue
        placed.append((row, column, radius))
        inside = (np.hypot(rows - row, columns - column) < radius) & (numbers == 0)
        numbers[inside] = len(placed)
        image[inside] = draw.uniform(90, 120)
    return (60 + image + draw.normal(0, 15, image.shape)).clip(0, 255).astype(np.uint8), numbers


def write_discs(folder: Path, seeds: range, **more: int) -> Path:
    """A data set in nnU-Net's raw layout whose label files number objects."""
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        image, numbers = discs(seed, **more)
        Image.fromarray(image).save(folder / "imagesTr" / f"disc_{seed:03}_0000.png")
        Image.fromarray(numbers).save(folder / "labelsTr" / f"disc_{seed:03}.png")
    describe(folder)
    return folder


def describe(folder: Path, **more: object) -> None:
    """Write ``dataset.json``."""
    labels = {"background": 0, "disc": 1}
    content = {"channel_names": {"0": "grey"}, "labels": labels, "instances": ["disc"], "file_ending": ".png"} | more
    (folder / "dataset.json").write_text(json.dumps(content))
