"""Files of predicted label maps and probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seg_transfer.data.dataset import Case
from seg_transfer.data.formats import LOSSY_ENDINGS, ending, is_raster, stem

PROBABILITIES = "probabilities"


@dataclass(frozen=True)
class Outputs:
    """Where the label maps of cases are written, and probabilities if they are wanted.

    ``<folder>/<case><ending of the input>`` is the label map (``.png`` for JPEG, which would change labels).
    ``<folder>/probabilities/<case>.nii.gz`` has one map per output along the fourth axis; for 2D images it is ``.npz``
    with ``probabilities`` ``(output, row, column)``.

    Attributes:
        folder: The folder.
        probabilities: Whether probabilities are written.
        file: The label map of the only case; by default its name is that of the case.
    """

    folder: Path
    probabilities: bool = False
    file: Path | None = None

    def label_map(self, case: Case) -> Path:
        """Path of a case's label map."""
        return label_file(case, self.folder) if self.file is None else self.file

    def probability_maps(self, case: Case) -> Path:
        """Path of a case's probabilities."""
        name = case.id if self.file is None else stem(self.file)
        return self.folder / PROBABILITIES / f"{name}{'.npz' if is_raster(case.images[0]) else '.nii.gz'}"

    def exist(self, case: Case) -> bool:
        """Whether all files of a case exist."""
        return self.label_map(case).is_file() and (not self.probabilities or self.probability_maps(case).is_file())


def label_file(case: Case, folder: Path) -> Path:
    """Path of a case's label map in a folder."""
    suffix = ending(case.images[0])
    return folder / f"{case.id}{'.png' if suffix in LOSSY_ENDINGS else suffix}"
