"""The report's sections, from the records of a work folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from seg_transfer.data.image import Image
from seg_transfer.evaluation.comparison import Comparison
from seg_transfer.evaluation.metrics import METRICS, Metric
from seg_transfer.evaluation.scores import Scores
from seg_transfer.planning.brief import brief
from seg_transfer.planning.evidence_record import Evidence
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.plan import Plan
from seg_transfer.reporting import figures
from seg_transfer.reporting.page import Cells, Drawing, Part
from seg_transfer.util.statistics import mean_interval, mean_of_defined

DICE = METRICS["dice"].text


def data_part(fingerprint: Fingerprint, plan: Plan) -> Part:
    """What the data set holds."""
    ml = "ml" if fingerprint.unit == "mm" else "pixels"
    labels = [
        [
            label.name,
            str(label.value),
            f"{label.cases} of {len(fingerprint.cases)}",
            "" if label.median_ml is None else f"{label.median_ml:.4g}",
        ]
        for label in fingerprint.labels
    ]
    channels = [
        [channel.name, ", ".join(channel.dtypes), f"{channel.minimum:.4g} to {channel.maximum:.4g}", f"{ratio:.3g}"]
        for channel in fingerprint.channels
        for ratio in [channel.outlier_ratio]
    ]
    return Part(
        "data",
        "Data set",
        texts=[f"{len(fingerprint.cases)} cases; the median case has {fingerprint.median_text()}."],
        tables=[
            Cells("Labels", ("label", "value", "cases", f"median {ml}" if ml == "ml" else ""), labels),
            Cells("Channels", ("channel", "stored as", "values", "range over that of the inner 99 %"), channels),
        ],
        figures=[
            Drawing(
                figures.as_svg(figures.volumes(fingerprint)),
                "Box plot of the size of each label in all cases",
                f"{'Volume' if fingerprint.unit == 'mm' else 'Area'} of each label in the cases that hold it",
            )
        ],
    )


def plan_part(plan: Plan, median: tuple[str, Image] | None) -> Part:
    """The decisions with their reasons; ``median`` is the name and the image of the case that is drawn."""
    rows = [[row.decision, row.choice, row.why] for row in brief(plan)]
    reasons = [[reason.field, reason.choice, reason.reason] for reason in plan.reasons]
    drawn = []
    if median is not None:
        drawn.append(
            Drawing(
                figures.as_svg(figures.patch(median[1], plan)),
                f"Middle slice of {median[0]} with a patch, and histograms of its intensities",
                f"{median[0]} on the network's grid, with a patch; its intensities before and after normalization",
            )
        )
    drawn.append(
        Drawing(
            figures.as_svg(figures.stages(plan)),
            "Bars: share of the training in which each stage of the encoder learns",
            "When the stages of the encoder learn (coloured), the finest first",
        )
    )
    return Part(
        "plan",
        "Plan",
        tables=[Cells("The decisions that matter", ("decision", "choice", "why"), rows)],
        figures=drawn,
        details=Cells("Every decision with its reason", ("field", "choice", "reason"), reasons),
    )


def training_part(
    logs: Mapping[str, Path], scored: Mapping[str, float], states: Sequence[Sequence[str]], missing: str
) -> Part:
    """The folds and their curves.

    Args:
        logs: Name of a fold -> its log.
        scored: Name of a fold -> mean Dice of its held-out cases.
        states: Rows of the table: fold, state, mean Dice, and what is to be said.
        missing: What to run next; empty if every fold is done.
    """
    drawn = figures.curves(logs, scored)
    return Part(
        "training",
        "Training",
        texts=[missing] if missing else [],
        tables=[Cells("Folds", ("fold", "state", "mean Dice", "remark"), states)] if states else [],
        figures=[]
        if drawn is None
        else [
            Drawing(
                figures.as_svg(drawn),
                "Curves of loss, Dice and seconds per step over the minutes of training, one per fold",
                "Loss, mean Dice of random patches of held-out cases, at the end that of whole cases, and speed",
            )
        ],
    )


def scores_part(scores: Scores, folds: Mapping[str, str]) -> Part:
    """The scores of the held-out cases; ``folds`` has the fold of each."""
    names, metrics = list(scores.labels), scores.columns
    rows = [
        [
            case,
            folds[case],
            DICE(scores.case_dice(case)),
            *(DICE(of_label[name].metrics["dice"]) for name in names),
            *(_mean(scores, case, key) for key in metrics if key != "dice"),
        ]
        for case, of_label in sorted(scores.cases.items(), key=lambda item: _rank(scores.case_dice(item[0])))
    ]
    others = [f"mean {metric.title(scores.unit, scores.tolerance)}" for key, metric in metrics.items() if key != "dice"]
    summary = [
        [name, *(_spread(label.metrics[key].mean, label.metrics[key].std, metric) for key, metric in metrics.items())]
        for name, label in scores.summary.items()
    ]
    titles = [metric.title(scores.unit, scores.tolerance) for metric in metrics.values()]
    failed = [f"Not scored: {case}: {cause}" for case, cause in scores.failures.items()]
    return Part(
        "scores",
        "Scores of held-out cases",
        texts=[
            "Every case was predicted by a model that had not seen it. Means leave out labels that a case lacks. "
            "HD95 is the 95th percentile of the distances between both surfaces, NSD the share of them within the "
            "tolerance, ± the predicted minus the true size.",
            *failed,
        ],
        tables=[
            Cells("Per label: mean ± standard deviation over the cases", ("label", *titles), summary),
            Cells(
                "Per case, the worst first; a head sorts by its column",
                ("case", "fold", "mean Dice", *names, *others),
                rows,
                sortable=True,
            ),
        ],
        figures=[
            Drawing(
                figures.as_svg(figures.dice_boxes(scores)),
                "Box plot of the Dice of each label in all held-out cases",
                "Dice of each label; a point is a case",
            )
        ],
    )


def evidence_part(evidence: Evidence, controls: Mapping[str, Comparison], option: str) -> Part:
    """What was measured about transfer, in words.

    Args:
        evidence: Of the work folder.
        controls: Name of a fold -> its comparison with its control.
        option: The option that selects the work folder.
    """
    texts = []
    if not controls:
        texts.append(
            "Whether the pretrained start pays on these data has not been measured: "
            f"`segtl train 0 --control{option}` trains a fold from scratch too, under the same budget."
        )
    texts += [f"{fold}: {verdict(control)}" for fold, control in controls.items()]
    tables = []
    if (transfer := evidence.transfer) is not None:
        best = max(range(len(transfer.gain)), key=lambda stage: transfer.gain[stage].mean)
        texts.append(
            f"Before any training, a linear classifier was fitted to the frozen encoder's features of "
            f"{transfer.cases} cases. Pretrained weights beat random ones by at most "
            f"{transfer.gain[best].text(signed=True)} of balanced accuracy, at stage {best}."
        )
        rows = [
            [str(stage), pretrained.text(), random.text(), gain.text(signed=True)]
            for stage, (pretrained, random, gain) in enumerate(
                zip(transfer.pretrained, transfer.random, transfer.gain, strict=True)
            )
        ]
        tables.append(Cells("Balanced accuracy of frozen features", ("stage", "pretrained", "random", "gain"), rows))
    return Part("evidence", "Evidence about transfer", texts=texts, tables=tables)


def verdict(control: Comparison) -> str:
    """Whether the run is better than its control, in a sentence."""
    return (
        f"The start of {control.run.strategy} {control.effect} compared with {control.control.strategy}: "
        f"{control.difference_text} ({control.interval_text})."
    )


def comparison_part(own: Scores, other: Scores, names: tuple[str, str]) -> Part:
    """Paired differences between two work folders on the cases that both have scored.

    The test is Wilcoxon's signed-rank test (Biometrics Bulletin 1:80, 1945), two-sided, over the cases.
    """
    from scipy.stats import wilcoxon

    cases = sorted(own.cases.keys() & other.cases.keys())
    found = {case: own.case_dice(case) - other.case_dice(case) for case in cases}
    defined = {case: value for case, value in found.items() if not math.isnan(value)}
    if not defined:
        return Part("comparison", "Comparison", texts=[f"{names[0]} and {names[1]} have no scored case in common."])
    lower, upper = mean_interval(list(defined.values()))
    nonzero = [value for value in defined.values() if value]
    chance = wilcoxon(nonzero).pvalue if nonzero else 1.0
    rows = [
        [case, DICE(own.case_dice(case)), DICE(other.case_dice(case)), f"{value:+.3f}"]
        for case, value in sorted(defined.items(), key=lambda item: item[1])
    ]
    interval = "" if math.isnan(lower) else f", 95 % interval {lower:+.3f} to {upper:+.3f}"
    drawn = []
    if not math.isnan(lower):
        drawn.append(
            Drawing(
                figures.as_svg(figures.differences(defined, lower, upper)),
                "Differences of mean Dice of all cases, sorted",
                f"{names[0]} minus {names[1]}",
            )
        )
    return Part(
        "comparison",
        "Comparison",
        texts=[
            f"{names[0]} minus {names[1]}: {mean_of_defined(defined.values()):+.3f} mean Dice over {len(defined)} "
            f"cases that both have scored{interval}; Wilcoxon's signed-rank test: p = {chance:.3g}."
        ],
        tables=[
            Cells("Per case", ("case", names[0], names[1], "difference"), rows, sortable=True),
        ],
        figures=drawn,
    )


def _mean(scores: Scores, case: str, key: str) -> str:
    return scores.columns[key].text(mean_of_defined(label.metrics[key] for label in scores.cases[case].values()))


def _spread(mean: float, std: float, metric: Metric) -> str:
    text = metric.text
    return text(mean) + ("" if math.isnan(std) or not metric.has_spread else f"\u00a0±\u00a0{text(std)}")


def _rank(value: float) -> tuple[bool, float]:
    return math.isnan(value), value
