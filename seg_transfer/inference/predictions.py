"""``predictions.json``: which model made each label map of a folder, of which images, and what was unusual about them.

Only what the present model made of the present images is skipped when predicting again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from seg_transfer.data.dataset import Case
from seg_transfer.data.formats import is_there, stored_in
from seg_transfer.errors import UserError
from seg_transfer.inference.outputs import Outputs
from seg_transfer.util.addresses import address_of
from seg_transfer.util.files import file_digest
from seg_transfer.util.locks import is_abandoned, locked
from seg_transfer.util.records import JsonRecord, Record
from seg_transfer.util.remote import look_at_files, remove
from seg_transfer.util.texts import first_of

logger = logging.getLogger(__name__)

PREDICTIONS_FILE = "predictions.json"
SECONDS_BETWEEN_SAVES = 5.0
"""What is not recorded when the process is killed is predicted again."""
TIMES_BETWEEN_SAVES = 20
"""Times longer than writing takes, so that it costs at most a twentieth however many cases are recorded."""


class Prediction(Record):
    """How a label map was made."""

    model: str = Field(description="digest of the models and of what is removed from their label maps")
    tta: bool = Field(description="whether probabilities were averaged over mirrored copies")
    images: tuple[str, ...] = Field(description="SHA-256 of each image file, in the order of the channels")
    label_map: str = Field(description="SHA-256 of the label map's file")
    probabilities: str | None = Field(default=None, description="SHA-256 of the probabilities' file, if it was written")
    entropy: str | None = Field(default=None, description="SHA-256 of the entropy map's file, if it was written")
    confidence: float | None = Field(default=None, description="mean probability within predicted labels")
    warnings: tuple[str, ...] = Field(
        default=(), description="in what the image or its labels' volumes are unlike training"
    )


class Predictions(JsonRecord):
    """The record of a folder of label maps."""

    noun: ClassVar[str] = "record of predictions"
    if_missing: ClassVar[str] = "predict into this folder"
    if_wrong: ClassVar[str] = "delete it, and the label maps of this folder are predicted again"

    version: Literal[2] = 2
    label_maps: dict[str, Prediction] = Field(default={}, description="by the name of the label map's file")

    @classmethod
    def upgrade(cls, content: dict[str, Any], version: int) -> dict[str, Any]:
        """Version 1 knew no uncertainty: its fields stay empty."""
        return content


class PredictionLog:
    """Decides which cases are to be predicted, and records those that are.

    Args:
        outputs: The files of the cases.
        model: Digest of the models.
        tta: Whether probabilities are averaged over mirrored copies.

    Raises:
        UserError: If the folder has a record that is damaged.
    """

    def __init__(self, outputs: Outputs, *, model: str, tta: bool) -> None:
        self.outputs, self.model, self.tta = outputs, model, tta
        self.path = outputs.folder / PREDICTIONS_FILE
        self._recorded = self._load()
        self._changes: dict[str, Prediction | None] = {}
        self._save_next = time.monotonic() + SECONDS_BETWEEN_SAVES

    def pending(self, cases: Sequence[Case], *, keep: bool = False, overwrite: bool = False) -> list[Case]:
        """The cases to predict. What is recorded of them is forgotten, so that an interruption leaves no wrong record.

        Args:
            cases: The cases.
            keep: Skip every case whose files exist, whatever made them.
            overwrite: Skip no case.

        Raises:
            UserError: If a label map would be replaced that was changed since it was predicted.
        """
        if keep:
            pending = [case for case in cases if not self.outputs.exist(case)]
        elif overwrite:
            pending = list(cases)
        else:
            self._refuse_changed(cases)
            pending = [case for case in cases if not self._is_done(case)]
            there = [case for case in pending if is_there(self.outputs.label_map(case))]
            replaced = [case.id for case in there if not self._is_made(case)]
            if replaced:
                logger.warning(
                    f"{self.outputs.folder}: predicted again, since this model did not make them of these images: "
                    + first_of(replaced)
                )
        if len(pending) < len(cases):
            count = f"{len(cases) - len(pending)} of {len(cases)} cases"
            made = "" if keep else ", made by this model of the same images,"
            logger.info(f"{count} are in {self.outputs.folder} already{made} and are skipped")
        self._changes |= {self._name(case): None for case in pending if self._name(case) in self._recorded}
        remote = bool(pending) and address_of(self.path) is not None  # tells at once whether objects may be written
        if self._changes or remote or is_abandoned(self._lock):  # a process killed while it wrote leaves its lock
            self.save()
        return pending

    def add(self, case: Case, made: Prediction) -> None:
        """Record a case whose files are written, of :func:`record_of`."""
        outputs = self.outputs
        before = self._recorded.get(self._name(case))
        if before is not None:  # what was made of the label map that is replaced
            remove(outputs.overlay(case))
            if made.probabilities is None and before.probabilities is not None:
                remove(outputs.probability_maps(case))
            if made.entropy is None and before.entropy is not None:
                remove(outputs.entropy_map(case))
        self._changes[self._name(case)] = made
        if time.monotonic() > self._save_next:
            self.save()

    def save(self) -> None:
        """Write the record; what another process wrote about other cases meanwhile stays."""
        started = time.monotonic()
        with locked(self._lock, f"{self.path} is being written", wait=True):
            label_maps: dict[str, Prediction | None] = {**self._load(), **self._changes}
            kept = {name: entry for name, entry in sorted(label_maps.items()) if entry is not None}
            Predictions(label_maps=kept).save(self.path)
        ended = time.monotonic()
        self._save_next = ended + max(SECONDS_BETWEEN_SAVES, TIMES_BETWEEN_SAVES * (ended - started))

    @property
    def _lock(self) -> Path:
        return self.path.with_name(f".{self.path.name}.lock")

    def _load(self) -> dict[str, Prediction]:
        look_at_files([self.path])
        return Predictions.load(self.path).label_maps if self.path.exists() else {}

    def _name(self, case: Case) -> str:
        return self.outputs.label_map(case).name

    def _is_done(self, case: Case) -> bool:
        entry = self._recorded.get(self._name(case))
        if entry is None or not self.outputs.exist(case):
            return False
        if self.outputs.probabilities and entry.probabilities != file_digest(self.outputs.probability_maps(case)):
            return False
        if self.outputs.uncertainty and entry.entropy != file_digest(self.outputs.entropy_map(case)):
            return False
        return self._is_made(case)

    def _is_made(self, case: Case) -> bool:
        """Whether this model made the label map of the present images."""
        entry = self._recorded.get(self._name(case))
        made = entry is not None and (entry.model, entry.tta) == (self.model, self.tta)
        return made and entry is not None and entry.images == image_digests(case)

    def confidence(self, case: Case) -> float | None:
        """The confidence of a case, predicted now or before; None if it is not known."""
        entry = self._changes.get(self._name(case), self._recorded.get(self._name(case)))
        return None if entry is None else entry.confidence

    def _refuse_changed(self, cases: Sequence[Case]) -> None:
        changed = []
        for case in cases:
            entry, file = self._recorded.get(self._name(case)), self.outputs.label_map(case)
            if entry is not None and is_there(file) and file_digest(file) != entry.label_map:
                changed.append(file.name)
        if changed:
            raise UserError(
                f"changed since it was predicted: {first_of(changed)}",
                where=self.outputs.folder,
                hint="--keep keeps every label map that is there, --overwrite predicts all again",
            )


def record_of(
    case: Case,
    outputs: Outputs,
    *,
    model: str,
    tta: bool,
    images: tuple[str, ...],
    warnings: tuple[str, ...],
    confidence: float | None,
) -> Prediction:
    """How a case was predicted whose files are written, with their digests.

    Args:
        case: The case.
        outputs: Its files.
        model: Digest of the models.
        tta: Whether probabilities were averaged over mirrored copies.
        images: Digests of its images, of :func:`image_digests`.
        warnings: In what it or its labels' volumes are unlike those of training.
        confidence: Of its ``Uncertainty``, if that is written.
    """
    return Prediction(
        model=model,
        tta=tta,
        images=images,
        label_map=file_digest(outputs.label_map(case)),
        probabilities=file_digest(outputs.probability_maps(case)) if outputs.probabilities else None,
        entropy=file_digest(outputs.entropy_map(case)) if outputs.uncertainty else None,
        confidence=confidence,
        warnings=warnings,
    )


def image_digests(case: Case) -> tuple[str, ...]:
    """SHA-256 of each image file that exists; reading the case reports the others."""
    return tuple(file_digest(part) for path in case.images for part in stored_in(path) if is_there(part))
