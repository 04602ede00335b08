"""Score a folder of predictions against a folder of references."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seg_transfer.data.geometry import Unit, grid_difference
from seg_transfer.data.image import is_supported, read_label, stem
from seg_transfer.errors import UserError
from seg_transfer.evaluation.case_scores import score_case
from seg_transfer.evaluation.scores import LabelScore, LabelValue, Scores
from seg_transfer.util.parallel import CaseFailure, map_cases

ABSENT = score_case(np.zeros((1, 1, 1), np.uint8), np.zeros((1, 1, 1), np.uint8), [1], (1, 1, 1))[1]


@dataclass(frozen=True)
class _Pair:
    case: str
    prediction: Path
    reference: Path
    values: tuple[LabelValue, ...] | None
    tolerance: float
    ignore: int | None


def evaluate_folders(
    predictions: Path,
    reference: Path,
    *,
    labels: Mapping[str, int | Sequence[int]] | None = None,
    ignore: int | None = None,
    tolerance: float = 1.0,
    workers: int = 0,
) -> Scores:
    """Score every label map of ``reference`` against the prediction of the same name.

    The two files may have different endings and orientations, but must hold the same grid in world coordinates.

    Args:
        predictions: Folder of predicted label maps, or one file.
        reference: Folder of reference label maps, or one file.
        labels: Name -> value in the files, of a region all of its values; None: every value but 0 that occurs, named
            ``label 3``.
        ignore: Value in the references of voxels that are not annotated and do not count.
        tolerance: Surface distance that NSD accepts, in mm (2D images: pixels).
        workers: Processes; 0 uses this process.

    Returns:
        The scores; references without a prediction and cases that could not be scored are in ``failures``.

    Raises:
        UserError: If a folder is missing or holds no label map, two files share a name, no name occurs in both, or
            2D images and volumes are mixed.
    """
    if tolerance < 0:
        raise UserError(f"the tolerance {tolerance} is negative", hint="give a distance from 0 on")
    predicted, true = find_label_maps(predictions), find_label_maps(reference)
    if predictions.is_file() and reference.is_file():
        predicted = dict(zip(true, predicted.values(), strict=True))
    common = sorted(predicted.keys() & true.keys())
    if not common:
        raise UserError(
            f"no case has both a prediction and a reference: predictions are named {_some(predicted)},"
            f" references {_some(true)}",
            where=predictions,
            hint="give both the same file name, apart from the ending",
        )
    scores = evaluate_files(
        {case: (predicted[case], true[case]) for case in common},
        labels=labels,
        ignore=ignore,
        tolerance=tolerance,
        workers=workers,
        failures={
            case: f"{true[case]}: no prediction of this name in {predictions}" for case in true.keys() - predicted
        },
    )
    return scores.model_copy(update={"without_reference": tuple(sorted(predicted.keys() - true.keys()))})


def evaluate_files(
    files: Mapping[str, tuple[Path, Path]],
    *,
    labels: Mapping[str, int | Sequence[int]] | None = None,
    ignore: int | None = None,
    tolerance: float = 1.0,
    workers: int = 0,
    failures: Mapping[str, str] | None = None,
) -> Scores:
    """Score label maps that are already paired.

    Args:
        files: Case -> predicted and reference label map, on the same grid.
        labels: As for :func:`evaluate_folders`.
        ignore: As for :func:`evaluate_folders`.
        tolerance: As for :func:`evaluate_folders`.
        workers: Processes; 0 uses this process.
        failures: Cases without a prediction -> why; copied into the scores.

    Returns:
        The scores; cases that could not be scored are in ``failures``.

    Raises:
        UserError: If 2D images and volumes are mixed.
    """
    named = None if labels is None else _foreground(labels)
    values = None if named is None else tuple(named.values())
    pairs = [_Pair(case, *files[case], values, tolerance, ignore) for case in sorted(files)]
    failed = dict(failures or {})
    found: dict[str, tuple[Unit, dict[LabelValue, LabelScore]]] = {}
    for pair, result in map_cases(_score_pair, pairs, workers=workers, title="evaluating", name=lambda pair: pair.case):
        if isinstance(result, CaseFailure):
            failed[pair.case] = result.cause
        else:
            found[pair.case] = result
    return _collect(found, failed, named, tolerance)


def find_label_maps(path: Path) -> dict[str, Path]:
    """Case (file name without its ending) -> label map, sorted by name.

    Args:
        path: A folder, or one file.

    Raises:
        UserError: If there is no file of a supported format, or two files have the same name.
    """
    if not path.exists():
        raise UserError("there is no such folder or file", where=path, hint="check the path")
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if not file.name.startswith("."))
    found: dict[str, Path] = {}
    for file in files:
        if not (file.is_file() and is_supported(file)):
            continue
        case = stem(file)
        if case in found:
            raise UserError(f"{found[case].name} and {file.name} are the same case", where=path, hint="remove one")
        found[case] = file
    if not found:
        raise UserError("holds no label map", where=path, hint="name a folder of .nii.gz, .mha, .png, … files")
    return found


def _score_pair(pair: _Pair) -> tuple[Unit, dict[LabelValue, LabelScore]]:
    """Unit of the case's grid, and the scores of each label value."""
    prediction, reference = read_label(pair.prediction), read_label(pair.reference)
    difference = grid_difference(reference.native, prediction.native)
    if difference:
        raise UserError(
            f"does not lie on the grid of {pair.reference}: {difference}",
            where=pair.prediction,
            hint="resample the prediction to the reference's grid, or predict again",
        )
    scores = score_case(
        prediction.array[0],
        reference.array[0],
        pair.values,
        reference.spacing,
        tolerance=pair.tolerance,
        unit=reference.unit,
        ignore=pair.ignore,
    )
    return reference.unit, scores


def _collect(
    found: Mapping[str, tuple[Unit, dict[LabelValue, LabelScore]]],
    failures: Mapping[str, str],
    labels: Mapping[str, LabelValue] | None,
    tolerance: float,
) -> Scores:
    """Sort the cases and give each of them every label."""
    units = {unit for unit, _ in found.values()}
    if len(units) > 1:
        raise UserError("2D images and volumes are mixed", hint="evaluate them one after the other")
    if labels is None:
        occurring = sorted({value for _, scores in found.values() for value in scores})
        labels = {f"label {value}": value for value in occurring}
    return Scores(
        unit=units.pop() if units else "mm",
        tolerance=tolerance,
        labels=dict(labels),
        cases={
            case: {name: found[case][1].get(value, ABSENT) for name, value in labels.items()} for case in sorted(found)
        },
        failures=dict(sorted(failures.items())),
    )


def _foreground(labels: Mapping[str, int | Sequence[int]]) -> dict[str, LabelValue]:
    """Labels and regions without the background; a region of a single value is a label."""
    found: dict[str, LabelValue] = {}
    for name, values in labels.items():
        of_label = (values,) if isinstance(values, int) else tuple(values)
        if of_label != (0,):
            found[name] = of_label if len(of_label) > 1 else of_label[0]
    return found


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (", …" if len(listed) > 3 else "")
