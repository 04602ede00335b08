"""A pretraining job: its files, its progress and its batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seg_transfer.errors import UserError
from seg_transfer.options.pretrain_options import PretrainOptions
from seg_transfer.pretraining.class_folders import ClassFolders, decode, find_images, hold_out, stamp
from seg_transfer.pretraining.image_augmentation import RANGES, apply, draw
from seg_transfer.util.local_files import check_folder

PEAK_RATE = 0.4
"""Peak learning rate for batches of :data:`PEAK_BATCH` images, scaled with the batch size (Goyal et al., arXiv
1706.02677)."""
PEAK_BATCH = 256


@dataclass(frozen=True)
class Job:
    """The options of a pretraining and its files.

    Raises:
        UserError: If the output would be in the folder of images, or its folder cannot be written to.
    """

    options: PretrainOptions

    def __post_init__(self) -> None:
        for folder in (self.options.images, self.options.val):
            if folder is not None and folder.resolve() in self._output.resolve().parents:
                hint = "choose another folder: files written there would be read as images of a class"
                raise UserError(f"is in the folder of images {folder}", where=self._output, hint=hint)
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
        rate = self.options.rate
        return PEAK_RATE * self.options.batch_size / PEAK_BATCH if rate is None else rate

    def task(self, data: SplitImages) -> dict[str, Any]:
        """Everything that the result depends on, as JSON values."""
        names = ["encoder", "time_budget", "purpose", "side", "batch_size", "seed"]
        if self.options.val is None:
            names.append("held_out")
        return {name: getattr(self.options, name) for name in names} | {"rate": self.peak, "images": data.stamp}

    @property
    def _output(self) -> Path:
        return Path(str(self.options.output).removesuffix(".safetensors"))


@dataclass
class PretrainState:
    """Progress of the training.

    Attributes:
        step: Number of steps done.
        seconds: Time spent on them.
        drawing: Part of that time spent on loading batches.
    """

    step: int = 0
    seconds: float = 0.0
    drawing: float = 0.0

    @classmethod
    def resumed(cls, header: dict[str, Any], task: dict[str, Any], file: Path) -> PretrainState:
        """Read the state from a checkpoint's header.

        Raises:
            UserError: If the checkpoint belongs to another task.
        """
        saved = header["task"]
        names = [name for name in saved | task if saved.get(name) != task.get(name)]
        if names:
            differences = ", ".join(f"{name} {saved.get(name)} (now {task.get(name)})" for name in names)
            hint = "give the same options and images to resume, or --restart to start over"
            raise UserError(f"the training here was started with {differences}", where=file, hint=hint)
        return cls(**header["state"])


@dataclass(frozen=True)
class SplitImages:
    """Decoded images, split into training and validation.

    Attributes:
        folders: Files and classes of the training images.
        pixels: ``(image, 3, side, side)`` uint8; images of ``--val`` come last.
        labels: Class index of each image, ``(image,)``.
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
        """Find, split and decode the images of a job.

        Raises:
            UserError: If images are missing or cannot be read, or the disk is full.
        """
        options = job.options
        folders = find_images(options.images)
        files, labels = folders.files, folders.labels
        if options.val is None:
            train, validation = hold_out(folders, options.held_out, options.seed)
        else:
            others = find_images(options.val, folders.classes)
            train, validation = np.arange(len(files)), len(files) + np.arange(len(others.files))
            files, labels = files + others.files, labels + others.labels
        pixels = decode(files, options.side, job.work)
        return cls(folders, pixels, np.array(labels), train, validation, stamp(files, options.side))

    def batch(self, job: Job, step: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The batch of a step, counted from 0: images ``(n, 3, side, side)`` from 0 to 1, and labels ``(n,)``.

        It depends only on the step, the side and the job, so that a resumed job gets the same batches. An epoch shows
        every image once.
        """
        size, seed, count = job.options.batch_size, job.options.seed, len(self.train)
        positions = range(step * size, (step + 1) * size)
        rows = np.sort([self.train[_permutation(count, seed, i // count)[i % count]] for i in positions])
        generator = torch.Generator().manual_seed(int(np.random.default_rng((seed, step)).integers(2**62)))
        changes = draw(len(rows), RANGES[job.options.purpose], generator).to(device)
        images = torch.from_numpy(self.pixels[rows]).to(device)
        return apply(images, changes, side), torch.from_numpy(self.labels[rows])

    def full_size_batches(self, rows: np.ndarray, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of ``size`` images without augmentation, from 0 to 1 and at full size, with their labels."""
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            yield torch.from_numpy(self.pixels[batch]).float() / 255, torch.from_numpy(self.labels[batch])


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)
