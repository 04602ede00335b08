"""Writes one HTML page about a work folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from seg_transfer.data.dataset import Case, Dataset
from seg_transfer.errors import UserError
from seg_transfer.inference.outputs import label_file
from seg_transfer.options.calls import takes
from seg_transfer.options.model_options import ReportOptions
from seg_transfer.planning.evidence_record import Evidence
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.plan import Plan
from seg_transfer.training.run_folder import PlanFolder, RunFolder, fold_name
from seg_transfer.util.environment import case_workers
from seg_transfer.util.files import write_text
from seg_transfer.util.parallel import CaseFailure, map_cases
from seg_transfer.version import VERSION
from seg_transfer.workflow.output_files import PAGE, check_output
from seg_transfer.workflow.status import RunStatus, status
from seg_transfer.workflow.work_folder import WorkFolder

if TYPE_CHECKING:
    from seg_transfer.data.image import Image
    from seg_transfer.evaluation.scores import Scores
    from seg_transfer.reporting.page import CaseDrawing, CaseVolumes

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"
SECONDS_TO_DRAW = 0.7
"""Of a case in three planes, on one core."""


@takes(ReportOptions)
def report(options: ReportOptions) -> Path:
    """Write one HTML page about the current plan of a work folder: data, plan, training, scores and held-out cases.

    The page holds everything that it shows, and loads nothing. Sections of what is not done yet are left out, with the
    command that does it.

    Returns:
        The page.

    Raises:
        UserError: If there is no plan, or ``compare`` has no scores.
    """
    work = WorkFolder(options.work)
    plan = work.load_plan()
    output = work.path / REPORT_FILE if options.output is None else options.output
    check_output(output, PAGE)
    dataset, fingerprint = Dataset.load(work.dataset), Fingerprint.load(work.fingerprint)
    compared = None if options.compare is None else _scores_to_compare(WorkFolder(options.compare))
    state = status(work=work.path)
    folder = work.plan_folder(plan)
    scored = _scored(folder)
    if compared is not None and scored is None:
        hint = f"run `segtl train 0{work.option}`"
        raise UserError("no fold is validated, so that nothing can be compared", where=folder.path, hint=hint)
    from seg_transfer.evaluation.comparison import Comparison
    from seg_transfer.reporting import sections
    from seg_transfer.reporting.page import Page, Part, render

    runs = [run for run in folder.runs if run.started]
    controls = {fold_name(run.fold): Comparison.load(run.control) for run in runs if run.control.is_file()}
    logs = {fold_name(run.fold): run.log for run in runs if run.log.is_file()}
    current = [run for run in state.runs if run.current]
    page = Page(
        title=f"segtl: {plan.data.dataset}",
        subtitle=f"{folder.name}, {len(plan.data.cases)} cases",
        headline="" if scored is None else _headline(scored, len(plan.data.cases)),
        footer=f"Written by segtl {VERSION}. Not a medical device. The viewer is NiiVue (BSD 2-Clause licence).",
    )
    page.parts.append(sections.data_part(fingerprint, plan))
    page.parts.append(sections.plan_part(plan, _median_case(dataset, fingerprint)))
    means = {fold_name(run.fold): run.mean_dice for run in current if run.mean_dice is not None}
    page.parts.append(sections.training_part(logs, means, [_state(run) for run in current], _missing(state.next)))
    if scored is not None:
        page.parts.append(sections.scores_part(scored.scores, scored.folds))
        drawn = _draw(scored, dataset, plan, options.workers)
        if drawn:
            page.cases.extend(drawn)
            texts = ["The worst come first. Lines are the reference, areas the prediction."]
            page.parts.append(Part("cases", "Held-out cases", texts=texts))
        page.volumes.extend(_volumes(scored, dataset, plan))
        if page.volumes:
            texts = ["The worst and the median case as a whole, with their labels."]
            page.parts.append(Part("viewer", "Viewer", texts=texts))
    page.parts.append(sections.evidence_part(Evidence.load(work.evidence), controls, work.option))
    if scored is not None and compared is not None and options.compare is not None:
        names = (str(work.path), str(options.compare))
        page.parts.append(sections.comparison_part(scored.scores, compared, names))
    write_text(output, render(page))
    return output


@dataclass(frozen=True)
class _Scored:
    """Held-out cases of all validated folds.

    Attributes:
        scores: Their scores.
        folds: Case -> name of the fold that held it out.
        files: Case -> folder of its predicted label map.
    """

    scores: Scores
    folds: Mapping[str, str]
    files: Mapping[str, Path]


def _scored(folder: PlanFolder) -> _Scored | None:
    runs = [folder.run(fold) for fold in folder.validated_folds]
    if not runs:
        return None
    from seg_transfer.evaluation.ranking import pooled
    from seg_transfer.evaluation.scores import Scores

    loaded: list[tuple[RunFolder, Scores]] = [(run, Scores.load(run.scores)) for run in runs]
    folds = {case: fold_name(run.fold) for run, scores in loaded for case in scores.cases}
    files = {case: run.validation for run, scores in loaded for case in scores.cases}
    return _Scored(pooled([scores for _, scores in loaded]), folds, files)


def _scores_to_compare(work: WorkFolder) -> Scores:
    folder = work.plan_folder(work.load_plan())
    found = _scored(folder)
    if found is None:
        hint = f"run `segtl train 0{work.option}`"
        raise UserError("no fold of this work folder's plan is validated", where=folder.path, hint=hint)
    return found.scores


def _headline(scored: _Scored, cases: int) -> str:
    from seg_transfer.evaluation.metrics import METRICS

    dice = METRICS["dice"].text
    labels = ", ".join(f"{name} {dice(value)}" for name, value in scored.scores.label_dice.items())
    of = f"{len(scored.scores.cases)} of {cases} cases held out so far"
    return f"Mean Dice {dice(scored.scores.mean_dice)} ({labels}), {of}"


def _state(run: RunStatus) -> list[str]:
    from seg_transfer.evaluation.metrics import METRICS

    dice = "" if run.mean_dice is None else METRICS["dice"].text(run.mean_dice)
    return [fold_name(run.fold), run.state, dice, run.problem or run.shortfall or ""]


def _missing(commands: list[str]) -> str:
    return f"Next: `{commands[-1]}`" if commands else ""


def _median_case(dataset: Dataset, fingerprint: Fingerprint) -> tuple[str, Image] | None:
    """The case whose number of voxels is the median; None if its files are gone."""
    from seg_transfer.data.image import filled, read_image

    ranked = sorted(fingerprint.cases, key=lambda case: (case.shape[0] * case.shape[1] * case.shape[2], case.id))
    name = ranked[len(ranked) // 2].id
    with suppress(UserError):
        (case,) = dataset.select([name]).cases
        return name, filled(read_image(case.images))
    logger.warning(f"{name} cannot be read: the page shows no patch")
    return None


def _draw(scored: _Scored, dataset: Dataset, plan: Plan, requested: int | None) -> list[CaseDrawing]:
    """Overlays of all held-out cases, the worst first; cases that cannot be read are left out with a warning."""
    from seg_transfer.evaluation.metrics import METRICS
    from seg_transfer.reporting.page import CaseDrawing

    cases = dataset.select(sorted(scored.files)).cases
    workers = case_workers(requested, [case.images[0] for case in cases], seconds_each=SECONDS_TO_DRAW)
    function = partial(_overlay, scored=scored, plan=plan)
    drawn: dict[str, str] = {}
    for case, address in map_cases(function, cases, workers=workers, title="drawing", name=lambda case: case.id):
        if isinstance(address, CaseFailure):
            logger.warning(f"{case.id} is not drawn: {address.cause}")
        else:
            drawn[case.id] = address
    ranked = _from_worst(scored.scores)
    return [
        CaseDrawing(
            caption=f"{case}, {scored.folds[case]}: mean Dice {METRICS['dice'].text(scored.scores.case_dice(case))}",
            address=drawn[case],
            alt=f"Slices of {case} with reference and predicted labels",
        )
        for case in ranked
        if case in drawn
    ]


def _overlay(case: Case, *, scored: _Scored, plan: Plan) -> str:
    from seg_transfer.evaluation.overlay import CaseFiles, case_overlay
    from seg_transfer.reporting.figures import as_jpeg

    assert case.label is not None, "it was scored"
    files = CaseFiles(case.images, case.label, label_file(case, scored.files[case.id]))
    data, scores = plan.data, scored.scores
    drawn = case_overlay(
        case.id, files, scores.labels, scores.cases[case.id], names=data.names, instances=data.instances
    )
    return as_jpeg(drawn)


def _from_worst(scores: Scores) -> list[str]:
    """The cases, the lowest mean Dice first, those without any label last."""
    from math import isnan

    return sorted(scores.cases, key=lambda case: (isnan(scores.case_dice(case)), scores.case_dice(case), case))


def _volumes(scored: _Scored, dataset: Dataset, plan: Plan) -> list[CaseVolumes]:
    """The worst and the median case for the viewer; those that cannot be read are left out with a warning."""
    ranked = _from_worst(scored.scores)
    chosen = dict.fromkeys([("worst", ranked[0]), ("median", ranked[len(ranked) // 2])] if ranked else [])
    made = []
    for kind, name in {name: (kind, name) for kind, name in chosen}.values():
        (case,) = dataset.select([name]).cases
        try:
            made.append(_case_volumes(kind, case, scored, plan))
        except UserError as error:
            logger.warning(f"{name} is not in the viewer: {error}")
    return made


def _case_volumes(kind: str, case: Case, scored: _Scored, plan: Plan) -> CaseVolumes:
    from seg_transfer.data.image import filled, read_image, read_label
    from seg_transfer.data.instances import as_foreground
    from seg_transfer.evaluation.metrics import METRICS
    from seg_transfer.reporting import volume_files
    from seg_transfer.reporting.page import CaseVolumes

    assert case.label is not None, "it was scored"
    image = filled(read_image(case.images))
    steps = volume_files.thinning(image.array.shape[1:], image.spacing)
    values = plan.data.written_names
    files = {"image": volume_files.image_file(image, steps)}
    for name, path in (("reference", case.label), ("prediction", label_file(case, scored.files[case.id]))):
        labels = read_label(path, grid=image.native, names=plan.data.names).array[0]
        if plan.data.instances:
            labels = as_foreground(labels)
        files[name] = volume_files.label_file(labels, volume_files.shown_affine(image), values, steps)
    thinned = "" if steps == (1, 1, 1) else f" Every {' x '.join(map(str, steps))} voxels one is shown."
    return CaseVolumes(
        title=f"{case.id} ({kind}), mean Dice {METRICS['dice'].text(scored.scores.case_dice(case.id))}",
        note=thinned.strip(),
        files=files,
        colours=volume_files.colours(list(values)),
        crosshair=volume_files.crosshair(image),
        plane=volume_files.plane_of(image),
    )
