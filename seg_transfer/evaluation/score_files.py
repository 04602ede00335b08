"""Score a folder of predictions against a folder of references."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from seg_transfer.data.description import LabelScheme, named_values
from seg_transfer.data.formats import is_supported, is_there, stem
from seg_transfer.data.geometry import Unit, grid_difference
from seg_transfer.data.image import read_label
from seg_transfer.data.label_values import infer_labels
from seg_transfer.data.name_pairs import pair_names
from seg_transfer.data.no_image import no_image
from seg_transfer.data.plain_folders import labels_beside
from seg_transfer.data.segmentation import common_grid, has_segments
from seg_transfer.errors import UserError
from seg_transfer.evaluation.case_scores import score_case
from seg_transfer.evaluation.scores import LabelScore, LabelValue, Scores
from seg_transfer.util.environment import case_workers
from seg_transfer.util.parallel import CaseFailure, map_cases
from seg_transfer.util.remote import fetch
from seg_transfer.util.texts import first_of

logger = logging.getLogger(__name__)

ABSENT = score_case(np.zeros((1, 1, 1), np.uint8), np.zeros((1, 1, 1), np.uint8), [1], (1, 1, 1))[1]
CaseResult = tuple[Unit, dict[LabelValue, LabelScore]]
"""Unit of a case's grid, and the scores of each label value."""


def evaluate_folders(
    predictions: Path,
    reference: Path,
    *,
    labels: Mapping[str, int | Sequence[int]] | None = None,
    names: Mapping[str, int] | None = None,
    ignore: int | None = None,
    tolerance: float = 1.0,
    only_predicted: bool = False,
    instances: bool = False,
    workers: int | None = 0,
) -> Scores:
    """Score every label map of ``reference`` against the prediction of the same name.

    Where no two names are the same, what names of a kind begin or end with is left out, as in data sets.
    The two files may have different endings and orientations, but must have the same grid in world coordinates.

    Args:
        predictions: Folder of predicted label maps, or one file.
        reference: Folder of reference label maps, or one file.
        labels: Name -> value in the files, for a region all of its values; None: every value but 0 that occurs, named
            ``label 3``; of segmentations of 3D Slicer the names of their segments.
        names: Label name -> value, for segmentations of 3D Slicer; None: those of ``labels`` with one value.
        ignore: Reference value of voxels without annotation, which are not scored.
        tolerance: Surface distance that NSD accepts, in mm (2D images: pixels).
        only_predicted: Leave out references without a prediction, which are failures otherwise.
        instances: Whether label maps hold numbers of objects: ``labels`` then names them, and they get the panoptic
            quality beside the scores of all objects together.
        workers: Number of processes; 0 uses this process, None takes what pays.

    Returns:
        The scores; references without a prediction and cases that could not be scored are in ``failures``.

    Raises:
        UserError: If a folder is missing or has no label map, two files have the same name, no name occurs in both, or
            2D images and volumes are mixed.
    """
    if tolerance < 0:
        raise UserError(f"the tolerance {tolerance} is negative", hint="give a distance of at least 0")
    predicted, true = find_label_maps(predictions), find_label_maps(reference)
    if labels_only := {stem(file) for file in labels_beside(list(true.values()))}:  # the others are their images
        true = {name: file for name, file in true.items() if name in labels_only}
    if is_there(predictions) and is_there(reference):
        predicted = dict(zip(true, predicted.values(), strict=True))
    if not predicted.keys() & true.keys():
        true = _renamed(true, predicted)
    common = sorted(predicted.keys() & true.keys())
    if not common:
        raise UserError(
            f"no case has both a prediction and a reference: predictions are named {first_of(sorted(predicted), 3)},"
            f" references {first_of(sorted(true), 3)}",
            where=predictions,
            hint="give both the same file name, apart from the ending",
        )
    missing = [] if only_predicted else sorted(true.keys() - predicted.keys())
    if missing:
        logger.info(f"{len(missing)} of {len(true)} references have no prediction; --only-predicted leaves them out")
    if labels is None and (scheme := _segments([maps[case] for maps in (predicted, true) for case in common], workers)):
        if ignore is not None:
            hint = "name the segment of voxels without annotation 'ignore', or give the work folder"
            raise UserError(f"segments have names, so that no label has the value {ignore} to ignore", hint=hint)
        labels, names, ignore = dict(scheme.labels), named_values(scheme.labels, scheme.ignore), scheme.ignore
    scores = evaluate_files(
        {case: (predicted[case], true[case]) for case in common},
        labels=labels,
        names=names,
        ignore=ignore,
        tolerance=tolerance,
        instances=instances,
        workers=workers,
        failures={case: f"{true[case]}: no prediction of this name in {predictions}" for case in missing},
    )
    return scores.model_copy(update={"without_reference": tuple(sorted(predicted.keys() - true.keys()))})


def evaluate_files(
    files: Mapping[str, tuple[Path, Path]],
    *,
    labels: Mapping[str, int | Sequence[int]] | None = None,
    names: Mapping[str, int] | None = None,
    ignore: int | None = None,
    tolerance: float = 1.0,
    instances: bool = False,
    workers: int | None = 0,
    failures: Mapping[str, str] | None = None,
) -> Scores:
    """Score label maps that are already paired.

    Args:
        files: Case -> predicted and reference label map, on the same grid.
        labels: See :func:`evaluate_folders`.
        names: See :func:`evaluate_folders`.
        ignore: See :func:`evaluate_folders`.
        tolerance: See :func:`evaluate_folders`.
        instances: See :func:`evaluate_folders`.
        workers: Number of processes; 0 uses this process, None takes what pays.
        failures: Cases without a prediction -> why; added to those of the scores.

    Returns:
        The scores; cases that could not be scored are in ``failures``.

    Raises:
        UserError: If 2D images and volumes are mixed.
    """
    scored = None if labels is None else _foreground(labels)
    values = None if scored is None else tuple(scored.values())
    if names is None and scored is not None:
        names = named_values(((name, value) for name, value in scored.items() if isinstance(value, int)), ignore)
    failures = dict(failures or {})
    results: dict[str, CaseResult] = {}
    fetch(chain.from_iterable(files.values()))
    for (case, _), result in map_cases(
        partial(_score_files, values=values, names=names, ignore=ignore, tolerance=tolerance, instances=instances),
        sorted(files.items()),
        workers=case_workers(workers, chain.from_iterable(files.values())),
        title="evaluating",
        name=lambda item: item[0],
    ):
        if isinstance(result, CaseFailure):
            failures[case] = result.cause
        else:
            results[case] = result
    units = {unit for unit, _ in results.values()}
    if len(units) > 1:
        raise UserError("2D images and volumes are mixed", hint="evaluate them one after the other")
    if scored is None:
        occurring = sorted({value for _, scores in results.values() for value in scores})
        scored = {f"label {value}": value for value in occurring}
    return Scores(
        unit=units.pop() if units else "mm",
        tolerance=tolerance,
        labels=scored,
        cases={
            case: {name: scores.get(value, ABSENT) for name, value in scored.items()}
            for case, (_, scores) in sorted(results.items())
        },
        failures=dict(sorted(failures.items())),
    )


def _renamed(true: dict[str, Path], predicted: Mapping[str, Path]) -> dict[str, Path]:
    """References under the names of their predictions, where each kind begins or ends alike, else under their own."""
    pairs = pair_names(true, predicted) or {label: name for name, label in pair_names(predicted, true).items()}
    for label, name in sorted(pairs.items())[:1]:
        logger.info(f"references belong to predictions by what names share, such as {true[label].name} to {name}")
    return {pairs.get(label, label): path for label, path in true.items()}


def find_label_maps(path: Path) -> dict[str, Path]:
    """Case (file name without its ending) -> label map, sorted by name.

    Args:
        path: A folder, or one file.

    Raises:
        UserError: If there is no file of a supported format, or two files have the same name.
    """
    if not path.exists():
        raise no_image(path, "label map")
    files = [path] if is_there(path) else sorted(file for file in path.iterdir() if not file.name.startswith("."))
    label_maps: dict[str, Path] = {}
    for file in files:
        if not (is_there(file) and is_supported(file)):
            continue
        case = stem(file)
        if case in label_maps:
            raise UserError(f"{label_maps[case].name} and {file.name} are the same case", where=path, hint="remove one")
        label_maps[case] = file
    if not label_maps:
        raise no_image(path, "label map")
    return label_maps


def _score_files(
    item: tuple[str, tuple[Path, Path]],
    *,
    values: tuple[LabelValue, ...] | None,
    names: Mapping[str, int] | None,
    ignore: int | None,
    tolerance: float,
    instances: bool,
) -> CaseResult:
    prediction_file, reference_file = item[1]
    grid = common_grid(reference_file, prediction_file)
    prediction, reference = (read_label(file, grid=grid, names=names) for file in (prediction_file, reference_file))
    difference = grid_difference(reference.native, prediction.native)
    if difference:
        raise UserError(
            f"does not lie on the grid of {reference_file}: {difference}",
            where=prediction_file,
            hint="resample the prediction to the reference's grid, or predict again",
        )
    scores = score_case(
        prediction.array[0],
        reference.array[0],
        values,
        reference.spacing,
        tolerance=tolerance,
        unit=reference.unit,
        ignore=ignore,
        instances=instances,
    )
    return reference.unit, scores


def _foreground(labels: Mapping[str, int | Sequence[int]]) -> dict[str, LabelValue]:
    """Labels and regions without the background; a region of a single value is a label."""
    foreground: dict[str, LabelValue] = {}
    for name, values in labels.items():
        members = (values,) if isinstance(values, int) else tuple(values)
        if members != (0,):
            foreground[name] = members if len(members) > 1 else members[0]
    return foreground


def _segments(files: Sequence[Path], workers: int | None) -> LabelScheme | None:
    """The names of segments in segmentations of 3D Slicer, numbered; None if there is no segmentation."""
    return infer_labels(files, files[0].parent, workers=workers) if any(map(has_segments, files)) else None
