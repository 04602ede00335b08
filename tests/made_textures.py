"""Pictures of three textures in class folders, and the modules of ``bench/pretrain``, which is no package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

BENCH = Path(__file__).resolve().parents[1] / "bench" / "pretrain"
MODULES = ("augment", "card", "images", "job", "learner", "pretrain", "schedule")
CLASSES = ("checks", "noise", "waves")


@contextmanager
def pretrain_modules() -> Iterator[SimpleNamespace]:
    """The modules by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCH)
        yield SimpleNamespace(**{name: import_module(name) for name in MODULES})


def texture(kind: str, generator: np.random.Generator, side: int) -> np.ndarray:
    """One grey picture ``(side, side)`` uint8; position, contrast and noise differ from picture to picture."""
    rows, columns = np.indices((side, side)) + generator.uniform(0, 16, 2)[:, None, None]
    plain = {
        "checks": np.sign(np.sin(rows * 0.8) * np.sin(columns * 0.8)),
        "noise": generator.normal(size=(side, side)),
        "waves": np.sin((rows + columns) * 0.35),
    }[kind]
    values = 128 + generator.uniform(40, 70) * plain + generator.normal(0, 8, (side, side))
    return values.clip(0, 255).astype(np.uint8)


def make_pictures(folder: Path, *, count: int = 60, side: int = 32, seed: int = 0) -> Path:
    """``count`` pictures of each class."""
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
