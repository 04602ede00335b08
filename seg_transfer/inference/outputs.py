"""Files of predicted label maps and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seg_transfer.data.dataset import Case
from seg_transfer.data.formats import READ_ONLY_ENDINGS, SEGMENTATION_ENDING, ending, is_raster, is_there, stem

PROBABILITIES, UNCERTAINTY, OVERLAYS = "probabilities", "uncertainty", "overlays"


@dataclass(frozen=True)
class Outputs:
    """Where the label maps of cases are written, and what else is wanted.

    ``<folder>/<case><ending of the input>`` is the label map (``.png`` for JPEG and GIF), or that with
    the ending ``suffix``.
    ``<folder>/probabilities/<case>.nii.gz`` has one map per output along the fourth axis; for 2D images it is ``.npz``
    with ``probabilities`` ``(output, row, column)``. ``<folder>/uncertainty/<name of the label map>`` is the entropy
    map (``.nrrd`` beside ``.seg.nrrd``, which holds labels only), ``<folder>/overlays/<case>.png`` an overlay.

    Attributes:
        folder: The folder.
        probabilities: Whether probabilities are written.
        file: The label map of the only case; by default its name is that of the case.
        uncertainty: Whether entropy maps are written.
        overlays: Whether overlays are drawn.
        suffix: Ending of label maps in a folder.
    """

    folder: Path
    probabilities: bool = False
    file: Path | None = None
    uncertainty: bool = False
    overlays: bool = False
    suffix: str | None = None

    def label_map(self, case: Case) -> Path:
        """Path of a case's label map."""
        if self.file is not None:
            return self.file
        return label_file(case, self.folder) if self.suffix is None else self.folder / f"{case.id}{self.suffix}"

    def probability_maps(self, case: Case) -> Path:
        """Path of a case's probabilities."""
        return self.folder / PROBABILITIES / f"{self._name(case)}{'.npz' if is_raster(case.images[0]) else '.nii.gz'}"

    def entropy_map(self, case: Case) -> Path:
        """Path of a case's entropy map."""
        name = self.label_map(case).name
        if name.lower().endswith(SEGMENTATION_ENDING):
            name = f"{name[: -len(SEGMENTATION_ENDING)]}.nrrd"
        return self.folder / UNCERTAINTY / name

    def overlay(self, case: Case) -> Path:
        """Path of a case's overlay."""
        return self.folder / OVERLAYS / f"{self._name(case)}.png"

    def exist(self, case: Case) -> bool:
        """Whether all files of a case exist that are made of its probabilities, which overlays are not."""
        return all(is_there(path) for path in self.files(case) if path != self.overlay(case))

    def files(self, case: Case) -> list[Path]:
        """All files of a case that are wanted, the label map first."""
        others = [
            (self.probabilities, self.probability_maps),
            (self.uncertainty, self.entropy_map),
            (self.overlays, self.overlay),
        ]
        return [self.label_map(case), *(path(case) for wanted, path in others if wanted)]

    def _name(self, case: Case) -> str:
        return case.id if self.file is None else stem(self.file)


def label_file(case: Case, folder: Path) -> Path:
    """Path of a case's label map in a folder."""
    suffix = ending(case.images[0])
    return folder / f"{case.id}{'.png' if suffix in READ_ONLY_ENDINGS else suffix}"


def label_maps(cases: Sequence[Case], folder: Path) -> dict[str, tuple[Path, Path]]:
    """Case -> predicted label map in ``folder`` and reference label map."""
    return {case.id: (label_file(case, folder), case.label) for case in cases if case.label is not None}
