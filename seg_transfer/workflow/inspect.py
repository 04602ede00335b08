"""One case of a data set: its figures and scores among those of the other cases, and an overlay."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import BaseModel

from seg_transfer.data.dataset import Case, Dataset
from seg_transfer.data.fragments import count_fragments
from seg_transfer.data.naming import case_name
from seg_transfer.errors import UserError
from seg_transfer.options.calls import takes
from seg_transfer.options.other_options import InspectOptions
from seg_transfer.planning.case_fingerprint import CaseFingerprint
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.unusual import unusual
from seg_transfer.training.run_folder import PlanFolder, RunFolder
from seg_transfer.workflow.output_files import PNG, check_output
from seg_transfer.workflow.work_folder import WorkFolder

logger = logging.getLogger(__name__)


class Place(BaseModel):
    """One figure of a case among those of all cases that have it.

    ``rank`` is 1 for the lowest figure; equal figures share the best rank.
    """

    what: str
    value: float
    rank: int
    cases: int
    lowest: float
    median: float
    highest: float


class CaseScores(BaseModel):
    """The scores of a case in one run that held it out; ``labels``: label -> metric -> value, null if undefined."""

    plan: str
    current: bool
    fold: int
    mean_dice: Place | None
    labels: dict[str, dict[str, float | None]]
    failure: str | None = None


class CaseReport(BaseModel):
    """What is known about one case."""

    case: str
    files: list[Path]
    fold: int | None
    figures: list[Place]
    fragments: dict[str, int]
    scores: list[CaseScores]
    same_image: list[str]
    warnings: list[str]
    overlay: Path


@takes(InspectOptions)
def inspect(options: InspectOptions) -> CaseReport:
    """Show one case beside the others: spacing, size, intensities, volumes, scores, fold, identical images, an overlay.

    It helps to find out why a case has a low score. The overlay shows its label, and, once its fold is validated, the
    prediction of a model that was not trained on it.

    Returns:
        The report; its warnings say in what the case is unlike the others.

    Raises:
        UserError: If the data set is not planned, has no such case, or the case's files cannot be read.
    """
    work = WorkFolder(options.work)
    plan = work.load_plan()
    dataset, fingerprint = Dataset.load(work.dataset), Fingerprint.load(work.fingerprint)
    name = case_name(options.case)
    case = dataset.select([name]).cases[0]
    measured = next((one for one in fingerprint.cases if one.id == name), None)
    if measured is None:
        raise UserError(f"{name} is not among the measured cases", where=work.fingerprint, hint="plan again")
    overlay = options.output or work.path / "inspect" / f"{name}.png"
    check_output(overlay, PNG)
    if overlay.resolve() in {file.resolve() for each in dataset.cases for file in each.files}:
        what = "this is a file of the data set, which the overlay would replace"
        raise UserError(what, where=overlay, hint="name another file")
    fragments = count_fragments(case, dataset=dataset)
    scored = list(_scores(work, plan, name))
    _draw(overlay, case, plan, [run for run, _ in scored])
    duplicates = [same for same in fingerprint.duplicates() if name in same.cases]
    return CaseReport(
        case=name,
        files=list(case.files),
        fold=next((fold for fold, split in enumerate(plan.recipe.splits) if name in split.validation), None),
        figures=list(_figures(measured, fingerprint)),
        fragments={label.name: one.count for label, one in zip(fingerprint.labels, fragments, strict=True)},
        scores=[scores for _, scores in scored],
        same_image=[other for same in duplicates for other in same.cases if other != name],
        warnings=list(unusual(fingerprint, {}, only=name).get(name, ())),
        overlay=overlay,
    )


def _figures(case: CaseFingerprint, fingerprint: Fingerprint) -> Iterator[Place]:
    """Spacing and size along the axes, intensities per channel, and the volume of each label."""
    cases = tuple(fingerprint.cases)
    for axis, letter in enumerate("xyz"[: fingerprint.dimension]):
        if fingerprint.unit == "mm":
            yield _place(f"spacing {letter} (mm)", case.spacing[axis], [one.spacing[axis] for one in cases])
        yield _place(f"size {letter} (voxels)", case.shape[axis], [one.shape[axis] for one in cases])
    for index, channel in enumerate(fingerprint.channels):
        of_cases = [one.channels[index] for one in cases]
        for figure in ("mean", "std", "minimum", "maximum"):
            value = getattr(case.channels[index], figure)
            yield _place(f"{channel.name}: {figure}", value, [getattr(one, figure) for one in of_cases])
    for index, label in enumerate(fingerprint.labels):
        held = [one.labels[index] for one in cases if one.labels[index].voxels]
        own = case.labels[index]
        if own.voxels:
            unit = "voxels" if own.ml is None else "ml"
            yield _place(f"{label.name}: volume ({unit})", own.volume, [one.volume for one in held])


def _place(what: str, value: float, all_values: Sequence[float]) -> Place:
    return Place(
        what=what,
        value=value,
        rank=1 + sum(other < value for other in all_values),
        cases=len(all_values),
        lowest=min(all_values),
        median=median(all_values),
        highest=max(all_values),
    )


def _scores(work: WorkFolder, plan: Plan, case: str) -> Iterator[tuple[RunFolder, CaseScores]]:
    """The validated runs that held the case out, those of the current plan first."""
    current = work.plan_folder(plan).name
    for folder in sorted(work.plan_folders(), key=lambda folder: folder.name != current):
        for fold, split in enumerate(folder.plan.recipe.splits):
            run = folder.run(fold)
            try:
                if case in split.validation and run.started and run.validated:
                    yield run, _scores_of(folder, run, case, is_current=folder.name == current)
            except UserError as error:
                logger.warning(str(error))


def _scores_of(folder: PlanFolder, run: RunFolder, case: str, *, is_current: bool) -> CaseScores:
    from seg_transfer.evaluation.scores import Scores
    from seg_transfer.util.statistics import none_if_undefined

    assert run.fold != "full"
    of_folds = {fold: Scores.load(folder.run(fold).scores) for fold in folder.validated_folds}
    own = of_folds[run.fold]
    dice = [value for fold in of_folds.values() for one in fold.cases if not math.isnan(value := fold.case_dice(one))]
    place = None
    if case in own.cases and not math.isnan(value := own.case_dice(case)):
        place = _place("mean Dice", value, dice)
    return CaseScores(
        plan=folder.name,
        current=is_current,
        fold=run.fold,
        mean_dice=place,
        labels={
            label: {metric: none_if_undefined(figure) for metric, figure in score.metrics.items()}
            for label, score in own.cases.get(case, {}).items()
        },
        failure=own.failures.get(case),
    )


def _draw(path: Path, case: Case, plan: Plan, runs: Sequence[RunFolder]) -> None:
    """Draw the case with the prediction of the first run that has one."""
    from seg_transfer.data.formats import is_there
    from seg_transfer.evaluation.overlay import CaseFiles, save_case_overlay
    from seg_transfer.evaluation.scores import Scores
    from seg_transfer.inference.outputs import label_file

    assert case.label is not None
    labels = {name: values if len(values) > 1 else values[0] for name, values in plan.data.scored.items()}
    how: dict[str, Any] = {"names": plan.data.names, "instances": plan.data.instances}
    for run in runs:
        predicted, scores = label_file(case, run.validation), Scores.load(run.scores)
        if is_there(predicted) and case.id in scores.cases:
            files = CaseFiles(case.images, case.label, predicted)
            save_case_overlay(path, case.id, files, scores.labels, scores.cases[case.id], **how)
            return
    files = CaseFiles(case.images, case.label, None)
    save_case_overlay(path, case.id, files, labels, None, **how)
