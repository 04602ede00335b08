"""Checks of a data set's cases; all problems are reported at once, each with its file and a hint."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from seg_transfer.data.dataset import Case, Dataset
from seg_transfer.data.formats import NIFTI_ENDINGS, is_there, read_header, stem
from seg_transfer.data.geometry import Grid, grid_difference
from seg_transfer.data.image import Image, filled, read_image, read_label
from seg_transfer.data.label_values import distinct
from seg_transfer.data.naming import data_files
from seg_transfer.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """A reason why a case cannot be used.

    Attributes:
        case: Identifier of the case.
        file: The file with the problem.
        what: The problem.
        hint: What the user can do about it.
    """

    case: str
    file: Path
    what: str
    hint: str


@dataclass(frozen=True, eq=False)
class CheckedCase:
    """A case whose files were read to their ends.

    Attributes:
        id: Its identifier.
        problems: Why it cannot be used.
        background_only: Whether its label holds no foreground.
        images: Of each file; complete only without problems.
        classes: Class of each voxel, canonical ``(x, y, z)``; only without problems
            (:meth:`~seg_transfer.data.dataset.Dataset.classes`).
    """

    id: str
    problems: list[Problem]
    background_only: bool
    images: list[Image]
    classes: np.ndarray


def read_checked(case: Case, dataset: Dataset) -> CheckedCase:
    """Read every file of a labelled case to its end, and check it.

    Checked are: that files exist and are complete; the number of channels; that shapes and affines agree across
    channels and label (to :data:`~seg_transfer.data.geometry.GRID_TOLERANCE` voxels at the corners); that image
    values are finite; that label values are whole numbers and declared; that some voxel is annotated. A label without
    foreground is no problem, since healthy cases exist.

    Args:
        case: The case.
        dataset: Its data set; its cases are not used.
    """
    problems: list[Problem] = []
    images: list[Image] = []
    channels = dataset.channel_names
    for path in case.images:
        try:
            image = read_image([path])
        except UserError as error:
            problems.append(_from_error(case, path, error))
            continue
        if image.array.dtype.kind == "f":
            nonfinite = image.array.size - int(np.isfinite(image.array).sum())
            if nonfinite and (not dataset.fill_nan or nonfinite == image.array.size):
                what = f"{nonfinite} of {image.array.size} values are not finite (nan or inf)"
                hint = "replace them, or plan with --nan fill, which takes the least finite value of image and channel"
                problems.append(Problem(case.id, path, what, hint))
            elif nonfinite:
                image = filled(image)
        if not images:
            first = path
        elif difference := grid_difference(images[0].native, image.native):
            hint = "resample the channels of a case to one grid"
            problems.append(Problem(case.id, path, f"does not lie on the grid of {first.name}: {difference}", hint))
        images.append(image)
    count = sum(len(image.array) for image in images)
    if len(images) == len(case.images) and count != len(channels):
        what = f"the case has {count} channel(s), but the data set names {len(channels)}: {', '.join(channels)}"
        hint = "name every channel in dataset.json, or bring the case's files to these channels"
        problems.append(Problem(case.id, case.images[0], what, hint))
    grid = images[0].native if images else None
    label_problems, background_only, classes = _checked_label(case, grid, dataset)
    return CheckedCase(case.id, problems + label_problems, background_only, images, classes)


def all_problems(dataset: Dataset, of_cases: Iterable[Problem]) -> list[Problem]:
    """The problems of the cases and of the data set's unused files, sorted by case and file."""
    of_files = [
        Problem(stem(unused.file), unused.file, unused.what, "correct the name, or move the file away")
        for unused in dataset.unused
    ]
    found = [*of_files, *of_cases]
    claimed = set(dataset.files()) if found else set()
    problems = [_with_similar_file(problem, claimed) for problem in found]
    return sorted(problems, key=lambda problem: (problem.case, str(problem.file)))


@dataclass
class FormsApart:
    """NIfTI files whose headers place the image in two ways.

    Attributes:
        files: Number of NIfTI files that could be read.
        distances: File -> distance in mm of the two places; only where they differ.
    """

    files: int = 0
    distances: dict[Path, float] = field(default_factory=dict)

    @classmethod
    def of(cls, paths: Iterable[Path]) -> FormsApart:
        """Read the headers; files of other formats, and those that cannot be read, are left out."""
        apart: dict[Path, float] = {}
        for path in paths:
            if path.name.lower().endswith(NIFTI_ENDINGS):
                with suppress(UserError):
                    apart[path] = read_header(path).apart
        return cls(len(apart), {path: distance for path, distance in apart.items() if distance})

    def add(self, other: FormsApart) -> None:
        """Count other files too."""
        self.files += other.files
        self.distances.update(other.distances)

    def warn(self) -> None:
        """Log a warning if there are any: other programs may use the other place."""
        if self.distances:
            found = sorted(self.distances)
            names = ", ".join(path.name for path in found[:5]) + (", ..." if len(found) > 5 else "")
            logger.warning(
                f"the sform and the qform (pixdim, without a qform) place the image up to "
                f"{max(self.distances.values()):.3g} mm apart in {len(found)} of {self.files} NIfTI file(s); the sform "
                f"is used: {names}"
            )


def raise_problems(problems: Sequence[Problem]) -> None:
    """Raise all problems as one error.

    Raises:
        UserError: Listing every problem with its file and hint.
    """
    lines = [f"  {problem.file}: {problem.what}\n    hint: {problem.hint}" for problem in problems]
    cases = len({problem.case for problem in problems})
    raise UserError(
        f"{len(problems)} problem(s) in {cases} case(s):\n" + "\n".join(lines),
        hint="fix these files, or leave their cases out with --skip-broken",
    )


def _checked_label(case: Case, grid: Grid | None, dataset: Dataset) -> tuple[list[Problem], bool, np.ndarray]:
    """Problems of the label, whether it holds background only, and its classes."""
    assert case.label is not None, "every case of a data set has a label path"
    path = case.label
    nothing = np.empty((0, 0, 0), np.uint8)
    try:
        label = read_label(path, grid=grid, names=dataset.names)
    except UserError as error:
        return [_from_error(case, path, error)], False, nothing
    problems = []
    if grid is not None and (difference := grid_difference(grid, label.native)):
        hint = (
            "if its voxels correspond to the image's, give it the image's affine; otherwise resample it to the image's "
            "grid with nearest neighbour interpolation"
        )
        what = f"does not lie on the grid of {case.images[0].name}: {difference}"
        problems.append(Problem(case.id, path, what, hint))
    try:
        classes = dataset.classes(label)
    except UserError as error:
        return [*problems, _from_error(case, path, error)], False, nothing
    if dataset.ignore is None:
        return problems, not classes.any(), classes
    annotated = distinct(classes) - {len(dataset.labels)}
    if not annotated:
        what = f"no voxel is annotated: all have the ignore label's value {dataset.ignore}"
        problems.append(Problem(case.id, path, what, "annotate some of it, or leave the case out"))
    return problems, annotated == {0}, classes


def _from_error(case: Case, path: Path, error: UserError) -> Problem:
    file = error.where if isinstance(error.where, Path) else path  # one mask of several
    return Problem(case.id, file, error.what, error.hint or "put it there")


def _with_similar_file(problem: Problem, claimed: Collection[Path]) -> Problem:
    """If the file is missing, suggest a file with a similar name that belongs to no case."""
    path = problem.file
    if is_there(path) or not path.parent.is_dir():
        return problem
    unclaimed = [file.name for file in data_files(path.parent) if file not in claimed]
    similar = difflib.get_close_matches(path.name, unclaimed, n=1, cutoff=0.8)
    return replace(problem, hint=f"put it there; is {similar[0]} meant?") if similar else problem
