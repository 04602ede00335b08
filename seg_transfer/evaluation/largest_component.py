"""Choose by cross-validation whether to keep only the largest component of labels.

A step is kept if it improves Dice over the held-out cases significantly: the lower end of the 95 % interval of the mean
difference per case is above 0 (:mod:`seg_transfer.util.statistics`), over at least five cases. The step for all labels
together is tried first and must not lower any label's mean. Then each label is tried by itself, after the first step if
that was kept. (nnU-Net accepts any gain of the mean: Isensee et al., Nature Methods 2021.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from seg_transfer.data.description import named_values
from seg_transfer.data.image import read_label
from seg_transfer.errors import UserError
from seg_transfer.evaluation.scores import Figure, FigurePart
from seg_transfer.inference.postprocess import postprocess
from seg_transfer.planning.model_file import Postprocessing
from seg_transfer.util.environment import case_workers
from seg_transfer.util.parallel import CaseFailure, map_cases
from seg_transfer.util.statistics import dice, mean_interval, mean_of_defined

FEWEST_CASES = 5


class Trial(FigurePart):
    """One step of postprocessing and its effect on the held-out cases."""

    what: str = Field(description="label, or 'foreground' for all labels together")
    before: Figure = Field(description="mean Dice: of this label, or over all labels")
    after: Figure
    lower: Figure = Field(description="lower end of the 95 % interval of the mean difference")
    cases: int = Field(description="cases in which Dice is defined")
    changed: int = Field(description="cases whose Dice it changes")
    kept: bool


@dataclass(frozen=True)
class _HeldOutCase:
    case: str
    prediction: Path
    reference: Path
    scored: tuple[tuple[int, ...], ...]
    values: tuple[int, ...]
    ignore: int | None
    names: dict[str, int]


@dataclass(frozen=True)
class Outcome:
    """The chosen postprocessing, all trials, and the mean Dice of each label or region with the chosen steps."""

    postprocessing: Postprocessing
    trials: tuple[Trial, ...]
    dice: dict[str, float]


def find_postprocessing(
    files: Mapping[str, tuple[Path, Path]],
    *,
    labels: Mapping[str, int],
    scored: Mapping[str, tuple[int, ...]],
    ignore: int | None = None,
    workers: int | None = 0,
) -> Outcome:
    """Try every step on held-out cases and keep those that improve Dice.

    Args:
        files: Case -> predicted and reference label map, on the same grid.
        labels: Name -> value in predicted label maps, without background.
        scored: Label or region to score -> its values.
        ignore: Reference value of voxels without annotation.
        workers: Number of processes; 0 uses this process, None takes what pays.

    Raises:
        UserError: If a label map cannot be read.
    """
    values, names = tuple(labels.values()), named_values(labels.items(), ignore)
    cases = [_HeldOutCase(case, *files[case], tuple(scored.values()), values, ignore, names) for case in sorted(files)]
    tables = []
    for case, table in map_cases(
        _dice_of_steps,
        cases,
        workers=case_workers(workers, chain.from_iterable(files.values())),
        title="postprocessing",
        name=lambda case: case.case,
    ):
        if isinstance(table, CaseFailure):
            raise UserError(table.cause, where=case.prediction, hint="train and validate this fold again")
        tables.append(table)
    # Axes: case, without and with the step on the foreground, step on a label (0: none), scored label or region.
    table = np.stack(tables)
    trials = [_trial("foreground", table[:, 0, 0], table[:, 1, 0])]
    if (_means(table[:, 1, 0]) < _means(table[:, 0, 0])).any():
        trials[0] = trials[0].model_copy(update={"kept": False})
    foreground = trials[0].kept
    table = table[:, int(foreground)]
    kept = []
    final = table[:, 0].copy()
    for step, (name, value) in enumerate(labels.items(), start=1):
        columns = [index for index, members in enumerate(scored.values()) if value in members]
        trials.append(_trial(name, table[:, 0, columns], table[:, step, columns]))
        if trials[-1].kept:
            kept.append(value)
            final[:, columns] = table[:, step, columns]
    chosen = Postprocessing(foreground=foreground, labels=tuple(kept))
    return Outcome(chosen, tuple(trials), dict(zip(scored, _means(final).tolist(), strict=True)))


def _dice_of_steps(case: _HeldOutCase) -> NDArray[np.float64]:
    """Dice ``(without and with the foreground step, no step and each label's, scored)``; nan where undefined."""
    predicted = read_label(case.prediction)
    prediction = predicted.array[0]
    reference = read_label(case.reference, grid=predicted.native, names=case.names).array[0]
    annotated = slice(None) if case.ignore is None else reference != case.ignore
    reference = reference[annotated]
    table = np.empty((2, 1 + len(case.values), len(case.scored)))
    for foreground in (False, True):
        for step, value in enumerate([None, *case.values]):
            chosen = Postprocessing(foreground=foreground, labels=() if value is None else (value,))
            cleaned = postprocess(prediction.copy(), chosen)[annotated]
            table[int(foreground), step] = [_dice(cleaned, reference, members) for members in case.scored]
    return table


def _dice(prediction: NDArray, reference: NDArray, values: tuple[int, ...]) -> float:
    predicted, true = np.isin(prediction, values), np.isin(reference, values)
    return dice(int((predicted & true).sum()), int(predicted.sum()), int(true.sum()))


def _trial(what: str, before: NDArray[np.float64], after: NDArray[np.float64]) -> Trial:
    """Compare Dice ``(case, label)`` without and with a step, by its mean over the labels of each case."""
    first, second = _means(before.T), _means(after.T)
    defined = ~np.isnan(first)
    first, second = first[defined], second[defined]
    gain = second - first
    lower, _ = mean_interval(gain.tolist())
    return Trial(
        what=what,
        before=mean_of_defined(first),
        after=mean_of_defined(second),
        lower=lower,
        cases=len(gain),
        changed=int(np.count_nonzero(gain)),
        kept=bool(len(gain) >= FEWEST_CASES and lower > 0),
    )


def _means(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each column over its defined values; nan if a column has none."""
    return np.array([mean_of_defined(column) for column in table.T])
