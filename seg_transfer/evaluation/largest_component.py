"""Whether keeping only the largest component improves Dice, by cross-validation.

A step is kept if it improves Dice over the held-out cases significantly: the lower end of the 95 % interval of the
mean difference per case is above 0 (:mod:`seg_transfer.util.statistics`), over at least five cases. The step for all
labels together is tried first, and must not lower any label's mean. Then each label is tried by itself, after the
first step if that was kept. (nnU-Net takes any gain of the mean: Isensee et al., Nature Methods 2021.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from seg_transfer.data.image import read_label
from seg_transfer.errors import UserError
from seg_transfer.evaluation.scores import Figure, FigurePart
from seg_transfer.inference.postprocess import postprocess
from seg_transfer.planning.model_file import Postprocessing
from seg_transfer.util.parallel import CaseFailure, map_cases
from seg_transfer.util.statistics import dice, mean_interval, mean_of_defined

FEWEST_CASES = 5


class Trial(FigurePart):
    """One step of postprocessing and its effect on the held-out cases."""

    what: str = Field(description="label, or 'foreground' for all labels together")
    before: Figure = Field(description="mean Dice: of this label, or over all labels")
    after: Figure
    lower: Figure = Field(description="lower end of the 95 % interval of the mean difference")
    cases: int = Field(description="in which Dice is defined")
    changed: int = Field(description="cases whose Dice it changes")
    kept: bool


@dataclass(frozen=True)
class Pair:
    """One held-out case: its predicted and its reference label map."""

    case: str
    prediction: Path
    reference: Path
    scored: tuple[tuple[int, ...], ...]
    values: tuple[int, ...]
    ignore: int | None


@dataclass(frozen=True)
class Outcome:
    """The chosen postprocessing, the trials, and Dice with it."""

    postprocessing: Postprocessing
    trials: tuple[Trial, ...]
    dice: dict[str, float]


def find_postprocessing(
    files: Mapping[str, tuple[Path, Path]],
    *,
    labels: Mapping[str, int],
    scored: Mapping[str, tuple[int, ...]],
    ignore: int | None = None,
    workers: int = 0,
) -> Outcome:
    """Try every step on held-out cases and keep those that improve Dice.

    Args:
        files: Case -> predicted and reference label map, on the same grid.
        labels: Name -> value in predicted label maps, without background.
        scored: Label or region -> its values, for which Dice is measured.
        ignore: Value in the references of voxels that are not annotated and do not count.
        workers: Processes; 0 uses this process.

    Raises:
        UserError: If a label map cannot be read.
    """
    values = tuple(labels.values())
    pairs = [Pair(case, *files[case], tuple(scored.values()), values, ignore) for case in sorted(files)]
    tables = []
    for pair, table in map_cases(
        _dice_of_steps, pairs, workers=workers, title="postprocessing", name=lambda pair: pair.case
    ):
        if isinstance(table, CaseFailure):
            raise UserError(table.cause, where=pair.prediction, hint="train and validate this fold again")
        tables.append(table)
    found = np.stack(tables)  # case, whether the foreground was cleaned, step (0: none), what is scored
    every = list(range(len(scored)))
    trials = [_trial("foreground", found[:, 0, 0], found[:, 1, 0], every)]
    if (_means(found[:, 1, 0]) < _means(found[:, 0, 0])).any():
        trials[0] = trials[0].model_copy(update={"kept": False})
    start = int(trials[0].kept)
    kept = []
    final = found[:, start, 0].copy()
    for step, (name, value) in enumerate(labels.items(), start=1):
        mine = [index for index, parts in enumerate(scored.values()) if value in parts]
        trials.append(_trial(name, found[:, start, 0], found[:, start, step], mine))
        if trials[-1].kept:
            kept.append(value)
            final[:, mine] = found[:, start, step][:, mine]
    chosen = Postprocessing(foreground=bool(start), labels=tuple(kept))
    return Outcome(chosen, tuple(trials), dict(zip(scored, _means(final).tolist(), strict=True)))


def _dice_of_steps(pair: Pair) -> NDArray[np.float64]:
    """Dice ``(without and with the foreground cleaned, no step and each label's, what is scored)``; nan: undefined."""
    prediction, reference = read_label(pair.prediction).array[0], read_label(pair.reference).array[0]
    known = slice(None) if pair.ignore is None else reference != pair.ignore
    result = np.empty((2, 1 + len(pair.values), len(pair.scored)))
    for foreground in (False, True):
        for step, value in enumerate([None, *pair.values]):
            chosen = Postprocessing(foreground=foreground, labels=() if value is None else (value,))
            cleaned = postprocess(prediction.copy(), chosen)[known]
            result[int(foreground), step] = [_dice(cleaned, reference[known], parts) for parts in pair.scored]
    return result


def _dice(prediction: NDArray, reference: NDArray, values: tuple[int, ...]) -> float:
    predicted, true = np.isin(prediction, values), np.isin(reference, values)
    return dice(int((predicted & true).sum()), int(predicted.sum()), int(true.sum()))


def _trial(
    what: str,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    columns: Sequence[int],
) -> Trial:
    """Compare Dice ``(case, what is scored)`` over some columns."""
    first, second = _means(before[:, columns].T), _means(after[:, columns].T)
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
