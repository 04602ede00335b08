"""A pretraining job: its files, how far it has come, and its batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seg_transfer.errors import UserError
from seg_transfer.options.pretrain_options import PretrainOptions
from seg_transfer.pretraining.class_folders import ClassFolders, decode, find_images, hold_out, stamp
from seg_transfer.pretraining.variety import VARIETIES, apply, draw
from seg_transfer.util.files import check_folder

PEAK_RATE = 0.4
"""Peak learning rate at :data:`PEAK_BATCH` images in a batch; in proportion to it for others (Goyal et al., arXiv
1706.02677)."""
PEAK_BATCH = 256


@dataclass(frozen=True)
class Job:
    """The options of a pretraining and the files that belong to it.

    Raises:
        UserError: If the output would lie in the images, or its folder cannot be written to.
    """

    options: PretrainOptions

    def __post_init__(self) -> None:
        for folder in (self.options.images, self.options.val):
            if folder is not None and folder.resolve() in self._output.resolve().parents:
                hint = "choose another place: files made there would be taken for images of a class"
                raise UserError(f"lies in the folder of images {folder}", where=self._output, hint=hint)
        check_folder(self.work)

    @property
    def weights_file(self) -> Path:
        return Path(f"{self._output}.safetensors")

    @property
    def card_file(self) -> Path:
        return Path(f"{self._output}.md")

    @property
    def work(self) -> Path:
        """Folder beside the result for the decoded images and the resume state."""
        return Path(f"{self._output}.work")

    @property
    def resume_file(self) -> Path:
        return self.work / "resume.safetensors"

    @property
    def peak(self) -> float:
        """Peak learning rate."""
        given = self.options.rate
        return PEAK_RATE * self.options.batch_size / PEAK_BATCH if given is None else given

    def task(self, data: SplitImages) -> dict[str, Any]:
        """Everything that decides the result, as JSON keeps it."""
        chosen = ("encoder", "time_budget", "purpose", "side", "batch_size", "seed")
        split = {"held_out": self.options.held_out} if self.options.val is None else {}
        return {
            **{name: getattr(self.options, name) for name in chosen},
            "rate": self.peak,
            "images": data.stamp,
            **split,
        }

    @property
    def _output(self) -> Path:
        return Path(str(self.options.output).removesuffix(".safetensors"))


@dataclass
class PretrainState:
    """Progress of the training.

    Attributes:
        step: Steps done.
        seconds: Spent on them.
        drawing: The part of them spent on making batches.
    """

    step: int = 0
    seconds: float = 0.0
    drawing: float = 0.0

    def header(self, task: dict[str, Any]) -> dict[str, Any]:
        """Header of a checkpoint."""
        return {"task": task, "state": asdict(self)}

    @classmethod
    def resumed(cls, header: dict[str, Any], task: dict[str, Any], file: Path) -> PretrainState:
        """Read the state from a checkpoint's header.

        Raises:
            UserError: If it belongs to another task.
        """
        former = header["task"]
        names = [name for name in {**former, **task} if former.get(name) != task.get(name)]
        if names:
            was = ", ".join(f"{name} {former.get(name)} (now {task.get(name)})" for name in names)
            hint = "give the same options and images to resume, or --restart to start over"
            raise UserError(f"the training here was started with {was}", where=file, hint=hint)
        return cls(**header["state"])


@dataclass(frozen=True)
class SplitImages:
    """Decoded images, split into training and validation.

    Attributes:
        folders: The training images' files and classes.
        pixels: ``(image, 3, side, side)`` uint8; those of ``--val`` come last.
        labels: ``(image,)``.
        train: Rows to train on.
        validation: Rows to measure accuracy on.
        stamp: Hash of the files.
    """

    folders: ClassFolders
    pixels: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    stamp: str

    @classmethod
    def of(cls, job: Job) -> SplitImages:
        """Find, split and decode; raises UserError as those do."""
        options = job.options
        folders = find_images(options.images)
        files, labels = list(folders.files), list(folders.labels)
        if options.val is None:
            train, validation = hold_out(folders, options.held_out, options.seed)
        else:
            others = find_images(options.val, folders.classes)
            train, validation = np.arange(len(files)), len(files) + np.arange(len(others.files))
            files, labels = files + list(others.files), labels + list(others.labels)
        pixels = decode(files, options.side, job.work)
        return cls(folders, pixels, np.array(labels), train, validation, stamp(files, options.side))

    def batch(self, job: Job, step: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The batch of a step, counted from 0: images ``(n, 3, side, side)`` from 0 to 1, and labels ``(n,)``.

        It depends on the step, the side and the job alone, so that a resumed job gets the same batches. Every image is
        seen once before one is seen twice.
        """
        size, seed = job.options.batch_size, job.options.seed
        places = range(step * size, (step + 1) * size)
        count = len(self.train)
        rows = np.sort([self.train[_shuffled(count, seed, at // count)[at % count]] for at in places])
        generator = torch.Generator().manual_seed(int(np.random.default_rng((seed, step)).integers(2**62)))
        drawn = draw(len(rows), VARIETIES[job.options.purpose], generator).to(device)
        return apply(self._images(rows).to(device), drawn, side), torch.from_numpy(self.labels[rows])

    def plain(self, rows: np.ndarray, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """ClassFolders as they are, from 0 to 1, at full size, with their labels, in batches of ``size``."""
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            yield self._images(chosen).float() / 255, torch.from_numpy(self.labels[chosen])

    def _images(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self.pixels[rows])


@lru_cache(maxsize=2)
def _shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)
