"""Images of three textures in class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("checks", "noise", "waves")


def texture(kind: str, generator: np.random.Generator, side: int) -> np.ndarray:
    """One grey image ``(side, side)`` uint8; position, contrast and noise differ from image to image."""
    rows, columns = np.indices((side, side)) + generator.uniform(0, 16, 2)[:, None, None]
    plain = {
        "checks": np.sign(np.sin(rows * 0.8) * np.sin(columns * 0.8)),
        "noise": generator.normal(size=(side, side)),
        "waves": np.sin((rows + columns) * 0.35),
    }[kind]
    values = 128 + generator.uniform(40, 70) * plain + generator.normal(0, 8, (side, side))
    return values.clip(0, 255).astype(np.uint8)


def make_images(folder: Path, *, count: int = 60, side: int = 32, seed: int = 0) -> Path:
    """``count`` images of each class."""
    generator = np.random.default_rng(seed)
    for kind in CLASSES:
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(texture(kind, generator, side)).save(folder / kind / f"{number:03}.png")
    return folder


class Clock:
    """A clock that moves on by ``tick`` seconds whenever it is read: a step, which reads it thrice, takes two ticks."""

    def __init__(self, tick: float = 1.0) -> None:
        self.tick, self.reads = tick, 0

    def __call__(self) -> float:
        self.reads += 1
        return self.tick * self.reads
