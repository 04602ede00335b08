"""What is asked for, how far it has come, and the batches that both give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from augment import VARIETIES, apply, draw
from images import Pictures, decode, find_pictures, hold_out, stamp
from torch import Tensor

from seg_transfer.errors import UserError
from seg_transfer.util.files import check_folder

PEAK_RATE = 0.4
"""At :data:`BATCH` pictures in a batch; in proportion to it for others (Goyal et al., arXiv 1706.02677)."""
BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for.

    Args:
        data: Folder of class folders.
        output: The result's path without its ending.
        val: Folder of class folders to measure accuracy on; None holds ``held_out`` of each class out.
        held_out: Share of each class, above 0 and below 1.
        arch: Name in the catalogue.
        minutes: Of training; decoding and measuring are not counted.
        purpose: ``scans`` or ``photos``: how pictures are varied.
        side: Pixels of the squares that are learnt from at the end.
        batch: Pictures in a batch.
        rate: Peak of the learning rate; None: :data:`PEAK_RATE` at :data:`BATCH`, in proportion to the batch.
        seed: Of all chance.

    Raises:
        UserError: If a value is out of its range, or the output would lie in the data.
    """

    data: Path
    output: Path
    val: Path | None = None
    held_out: float = 0.1
    arch: str = "resnet18"
    minutes: float = 100.0
    purpose: str = "scans"
    side: int = 64
    batch: int = BATCH
    rate: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise UserError(f"{self.held_out:g} is not between 0 and 1", where="--held-out", hint="give a share")
        for name, least in (("minutes", 0.0), ("side", 31), ("batch", 1), ("rate", 0.0)):
            value = getattr(self, name)
            if value is not None and not value > least:
                raise UserError(f"{value:g} is too small", where=f"--{name}", hint=f"give more than {least:g}")
        for folder in (self.data, self.val):
            if folder is not None and folder.resolve() in self.output.resolve().parents:
                hint = "name another place: what is made there would be taken for pictures of a class"
                raise UserError(f"lies in the folder of pictures {folder}", where=self.output, hint=hint)
        check_folder(self.work)

    @property
    def weights_file(self) -> Path:
        return Path(f"{self.output}.safetensors")

    @property
    def card_file(self) -> Path:
        return Path(f"{self.output}.md")

    @property
    def work(self) -> Path:
        """Folder beside the result for the decoded pictures and what resuming needs."""
        return Path(f"{self.output}.work")

    @property
    def resume_file(self) -> Path:
        return self.work / "resume.safetensors"

    @property
    def peak(self) -> float:
        """Of the learning rate."""
        return PEAK_RATE * self.batch / BATCH if self.rate is None else self.rate

    def task(self, data: Data) -> dict[str, Any]:
        """What decides the result, as JSON keeps it."""
        chosen = ("arch", "minutes", "purpose", "side", "batch", "seed")
        split = {"held_out": self.held_out} if self.val is None else {}
        return {name: getattr(self, name) for name in chosen} | {"rate": self.peak, "pictures": data.stamp, **split}


@dataclass
class State:
    """How far training has come.

    Attributes:
        step: Steps done.
        seconds: Spent on them.
        drawing: Seconds of those spent on making batches.
    """

    step: int = 0
    seconds: float = 0.0
    drawing: float = 0.0

    def header(self, task: dict[str, Any]) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        return {"task": task, "state": asdict(self)}

    @classmethod
    def resumed(cls, header: dict[str, Any], task: dict[str, Any], file: Path) -> State:
        """The state in a checkpoint.

        Raises:
            UserError: If it is of another task.
        """
        former = header["task"]
        names = [name for name in {**former, **task} if former.get(name) != task.get(name)]
        if names:
            was = ", ".join(f"{name} {former.get(name)} (now {task.get(name)})" for name in names)
            hint = "give the same options and pictures to go on, or --restart to start over"
            raise UserError(f"the training here was started with {was}", where=file, hint=hint)
        return cls(**header["state"])


@dataclass(frozen=True)
class Data:
    """Decoded pictures, and which of them are learnt from.

    Attributes:
        pictures: Of ``--data``.
        pixels: ``(picture, 3, side, side)`` uint8; those of ``--val`` follow those of ``--data``.
        labels: ``(picture,)``.
        train: Rows to learn from.
        validation: Rows to measure on.
        stamp: Changes with the files.
    """

    pictures: Pictures
    pixels: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    stamp: str

    @classmethod
    def of(cls, job: Job) -> Data:
        """Find, split and decode; raises UserError as those do."""
        pictures = find_pictures(job.data)
        files, labels = list(pictures.files), list(pictures.labels)
        if job.val is None:
            train, validation = hold_out(pictures, job.held_out, job.seed)
        else:
            others = find_pictures(job.val, pictures.classes)
            train, validation = np.arange(len(files)), len(files) + np.arange(len(others.files))
            files, labels = files + list(others.files), labels + list(others.labels)
        pixels = decode(files, job.side, job.work)
        return cls(pictures, pixels, np.array(labels), train, validation, stamp(files, job.side))

    def batch(self, job: Job, step: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The batch of a step, counted from 0: pictures ``(n, 3, side, side)`` from 0 to 1, and labels ``(n,)``.

        It depends on the step, the side and the job alone, so that resuming goes on with the same batches. Every
        picture is seen once before one is seen twice.
        """
        places = range(step * job.batch, (step + 1) * job.batch)
        count = len(self.train)
        rows = np.sort([self.train[_shuffled(count, job.seed, at // count)[at % count]] for at in places])
        generator = torch.Generator().manual_seed(int(np.random.default_rng((job.seed, step)).integers(2**62)))
        drawn = draw(len(rows), VARIETIES[job.purpose], generator).to(device)
        return apply(self._pictures(rows).to(device), drawn, side), torch.from_numpy(self.labels[rows])

    def plain(self, rows: np.ndarray, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures as they are, from 0 to 1, at full size, with their labels, in batches of ``size``."""
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            yield self._pictures(chosen).float() / 255, torch.from_numpy(self.labels[chosen])

    def _pictures(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self.pixels[rows])


@lru_cache(maxsize=2)
def _shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)
