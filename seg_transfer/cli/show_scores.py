"""Tables of scores on stdout: of training, evaluation, summary, probe and demo, as in :mod:`seg_transfer.cli.show`."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

import seg_transfer as api
from seg_transfer.cli.printing import print_json, print_line, print_table
from seg_transfer.errors import SomeCasesFailed
from seg_transfer.evaluation.metrics import METRICS
from seg_transfer.options.common import STDOUT
from seg_transfer.training.run_folder import fold_name
from seg_transfer.util.statistics import mean_of_defined
from seg_transfer.util.units import seconds_text
from seg_transfer.workflow.work_folder import WorkFolder

if TYPE_CHECKING:
    from seg_transfer.demo import DemoResult
    from seg_transfer.evaluation.largest_component import Trial
    from seg_transfer.evaluation.ranking import Summary
    from seg_transfer.evaluation.scores import Scores
    from seg_transfer.options.common import WorkOption
    from seg_transfer.options.other_options import DemoOptions, EvaluateOptions
    from seg_transfer.options.train_options import TrainOptions
    from seg_transfer.planning.evidence_record import Estimate, ProbeEvidence
    from seg_transfer.workflow.validate import TrainedFold

logger = logging.getLogger(__name__)
_dice = METRICS["dice"].text


def show_train(runs: Sequence[TrainedFold], options: TrainOptions) -> None:
    """Show the folds, with ``--control`` the comparison with their controls, the pictures, and what comes next."""
    show_runs(runs)
    if options.control:
        show_control(runs, options.work)
    for file in (file for run in runs for file in (run.run.progress_plot, run.run.overlay)):
        if file.is_file():
            print_line(f"picture: {file}")
    for command in api.status(work=options.work).next:
        logger.info(f"next: `{command}`")


def end_train(runs: Sequence[TrainedFold], _: TrainOptions) -> None:
    """End the command.

    Raises:
        SomeCasesFailed: If cases could not be validated.
    """
    scored = [fold.scores for run in runs for fold in (run, run.control) if fold and fold.scores]
    failures = {case: cause for scores in scored for case, cause in scores.failures.items()}
    if failures:
        raise SomeCasesFailed(failures, of=len({case for each in scored for case in (*each.cases, *each.failures)}))


def show_runs(runs: Sequence[TrainedFold]) -> None:
    """Show each fold's Dice per label, the mean over the folds, and the run folders."""
    validated = {run.fold: run.scores for run in runs if run.scores is not None}
    if validated:
        names = list(next(iter(validated.values())).labels)
        table = Table("fold", "cases", "mean Dice", *names, title="validation on whole cases", title_justify="left")
        dice = {fold: (scores.mean_dice, *scores.label_dice.values()) for fold, scores in validated.items()}
        for fold, scores in validated.items():
            table.add_row(str(fold), str(len(scores.cases)), *map(_dice, dice[fold]))
        if len(validated) > 1:
            means = map(mean_of_defined, zip(*dice.values(), strict=True))
            cases = sum(len(scores.cases) for scores in validated.values())
            table.add_row("mean", str(cases), *map(_dice, means), style="bold")
        print_table(table)
    for run in runs:
        print_line(f"{fold_name(run.fold)}: {run.folder}")


def show_control(runs: Sequence[TrainedFold], work: Path) -> None:
    """Show the folds and their from-scratch controls, and whether the pretrained start improved Dice."""
    from seg_transfer.workflow.compare import compare_with_controls

    comparison = compare_with_controls(list(runs))
    assert comparison is not None, "every fold has a control"
    dice = comparison.run.dice
    table = Table("start", "strategy", "mean Dice", *dice, title="the same budget", title_justify="left")
    for name, side in (("planned", comparison.run), ("from scratch", comparison.control)):
        table.add_row(name, side.strategy, _dice(side.mean_dice), *map(_dice, side.dice.values()))
    print_table(table)
    start = "start that the races chose" if not all(run.pretrained for run in runs) else "pretrained start"
    difference, interval = comparison.difference_text, comparison.interval_text
    print_line(f"The {start} {comparison.effect}: {difference}, compared with training from scratch ({interval}).")
    if not comparison.improves:
        print_line(f"to start from scratch: `segtl plan DATASET --strategy scratch{WorkFolder(work).option}`")


def show_evaluate(scores: Scores, options: EvaluateOptions) -> None:
    """Show an evaluation per case and per label."""
    from seg_transfer.evaluation.report import cases_table, summary_table

    if options.json_file == STDOUT:
        print_json(scores)
        return
    scored = scores.model_copy(update={"failures": {}})
    print_table(cases_table(scored))
    print_table(summary_table(scored))


def end_evaluate(scores: Scores, _: EvaluateOptions) -> None:
    """End the command.

    Raises:
        SomeCasesFailed: If cases could not be scored; it lists them.
    """
    if scores.failures:
        raise SomeCasesFailed(scores.failures, of=len(scores.cases) + len(scores.failures))


def show_summary(summary: Summary, options: WorkOption) -> None:
    """Show the cross-validated Dice of all runs, the chosen run and its lead, and the runs that were left out."""
    names = list(summary.runs[0].dice)
    title = f"{summary.dataset}: mean Dice over held-out cases"
    table = Table("run", "folds", "cases", "mean Dice", "± folds", *names, title=title, title_justify="left")
    for run in summary.runs:
        table.add_row(
            run.name if run.ranked else f"{run.name} (not ranked: other cases)",
            str(len(run.folds)),
            str(run.cases),
            _dice(run.mean_dice),
            _dice(run.fold_std),
            *(_dice(run.dice[name]) for name in names),
        )
    print_table(table)
    for name, cause in summary.left_out.items():
        print_line(f"left out: {name}: {cause}")
    verdict = ""
    if not math.isnan(summary.lead):
        beyond = "more than" if summary.beyond_spread else "not more than"
        folds = f", {beyond} the spread between folds ({_dice(summary.spread)})"
        verdict = f", {_dice(summary.lead)} above the next" + (folds if not math.isnan(summary.spread) else "")
    print_line(f"best: {summary.best}{verdict}")
    for trial in summary.postprocessing:
        show_trial(trial)
    logger.info(f"chosen: {WorkFolder(options.work).choice}; `segtl predict` and `segtl export` use it")


def show_trial(trial: Trial) -> None:
    """Show a step of postprocessing with its effect, and if it is not kept, why."""
    kept = "kept" if trial.kept else f"not kept, since {_why_not(trial)}"
    figures = f"Dice {_dice(trial.before)} -> {_dice(trial.after)}, {trial.changed} of {trial.cases} cases change"
    print_line(f"largest component of {trial.what}: {kept} ({figures})")


def _why_not(trial: Trial) -> str:
    from seg_transfer.evaluation.largest_component import FEWEST_CASES

    if not trial.after > trial.before:
        return "it gains nothing"
    if trial.cases < FEWEST_CASES:
        return f"{FEWEST_CASES} cases are needed to decide"
    return "it worsens a label" if trial.lower > 0 else "the gain may be chance"


def show_probe(evidence: ProbeEvidence, options: WorkOption) -> None:
    """Show the scores of each feature set, and the gain of pretrained over random weights at each stage."""
    encoders = {features.encoder for features in evidence.features if features.encoder}
    of = f" of {min(encoders)}" if len(encoders) == 1 else ""
    title = f"frozen features{of} on {evidence.cases} cases, "
    title += f"{evidence.folds} folds (balanced accuracy ± standard error; log-loss)"
    table = Table("features", "softmax", "log-loss", "SVM", "Bayes", "log-loss", "mean Dice", "gain over random")
    table.title, table.title_justify = title, "left"
    for features in evidence.features:
        encoder = features.encoder if len(encoders) > 1 else None
        stage = "" if features.stage is None else f"stage {features.stage}"
        softmax, svm, bayes = (features.scores[name] for name in ("softmax", "svm", "bayes"))
        table.add_row(
            " ".join(part for part in (features.source, encoder, stage) if part),
            softmax.balanced_accuracy.text(),
            _loss(softmax.log_loss),
            svm.balanced_accuracy.text(),
            bayes.balanced_accuracy.text(),
            _loss(bayes.log_loss),
            _dice(features.mean_dice),
            features.gain.text(signed=True) if features.gain is not None else "",
        )
    print_table(table)
    print_line(f"evidence: {WorkFolder(options.work).evidence}, {WorkFolder(options.work).probe_plot}")
    logger.info(f"took {seconds_text(evidence.seconds)}; Dice is on {evidence.held_out} held-out case(s)")


def show_demo(result: DemoResult, _: DemoOptions) -> None:
    """Show the demo's Dice beside that of intensity thresholds, and the paths of its files."""
    table = Table("label", "Dice", "by thresholds on intensity", title="held-out cases", title_justify="left")
    baseline = result.baseline.label_dice
    for name, dice in result.scores.label_dice.items():
        table.add_row(name, _dice(dice), _dice(baseline[name]))
    table.add_row("mean", _dice(result.scores.mean_dice), _dice(result.baseline.mean_dice), style="bold")
    print_table(table)
    print_line(f"data set: {result.data}")
    print_line(f"label maps: {result.predictions}")
    print_line(f"overlay: {result.overlay}")
    option = WorkFolder(result.work).option
    logger.info(f"took {seconds_text(result.seconds)}; see also `segtl status{option}`")


def _loss(value: Estimate | None) -> str:
    return "–" if value is None else f"{value.mean:.3f}"
