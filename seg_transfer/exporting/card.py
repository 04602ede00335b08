"""The card of an exported model: use, training data, scores, failures and licence, as Markdown with YAML front matter.

The front matter is that of model hubs: ``segtl card model.segtl`` prints what a hub takes as the ``README.md`` of a
repository. It names no data set, since the model file does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from seg_transfer.catalogue.encoders import BUNDLED
from seg_transfer.errors import printable
from seg_transfer.evaluation.scores import LabelSummary, Scores
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.model_file import Member, Postprocessing
from seg_transfer.planning.plan import ModelPlan, Plan, Weights
from seg_transfer.transfer.describe import describe
from seg_transfer.util.statistics import mean_interval

NOT_STATED = "not stated: ask the author of this model before you use it or pass it on"


def write_card(
    members: Sequence[Member],
    *,
    name: str,
    dice: Mapping[str, float] | None,
    validated: int,
    chosen: bool,
    postprocessing: Postprocessing,
    scores: Scores | None = None,
    licence: str | None = None,
) -> str:
    """Write the card; it names no case and no path.

    Args:
        members: The exported members, whose plans share the data part.
        name: Name of the model.
        dice: Label -> mean Dice by cross-validation; None if the models are not validated.
        validated: Number of cases that ``dice`` is over.
        chosen: Whether the models or the postprocessing were chosen by ``dice``.
        postprocessing: Postprocessing of label maps.
        scores: The scores that ``dice`` is the mean of, where they are known.
        licence: Licence of the model, as an SPDX identifier; None if the author has not stated it.
    """
    plan = members[0].plan
    data, unit = plan.data, plan.data.unit
    kind = "2D images" if data.dimension == 2 else "volumes"
    axes = ["xyz"[axis] for axis in data.axes]
    spacing = ", ".join(f"{axis} {size:g}" for axis, size in zip(axes, data.spacing, strict=True))
    lines = [
        *_front_matter(licence),
        f"# {name}: a model of segtl",
        "",
        f"- Intended use: research, on {kind} like those it was trained on: segtl warns of others",
        f"- Reads: {kind} of {len(data.channels)} channel(s), in this order: "
        + ", ".join(f"{channel.name} (scaled by {channel.normalization.kind})" for channel in data.channels),
        "- Predicts: " + _predicts(data),
        f"- Resamples to {spacing} ({unit}), and back",
        f"- Trained on: {_trained_on(members)} labelled {kind}",
        *_ranges(plan),
    ]
    lines += [f"- Network: {_network(member)}" for member in members]
    lines += [f"- Label maps: {text}" for text in _postprocessing(plan, postprocessing)]
    if dice is None:
        lines.append("- Dice by cross-validation: not measured for these models")
    else:
        means = ", ".join(_mean(label, mean, scores) for label, mean in dice.items())
        bias = "; slightly optimistic, since the models were chosen by these figures" if chosen else ""
        brackets = "; in brackets the 95 % confidence interval of the mean" if scores and validated > 1 else ""
        lines.append(f"- Dice by cross-validation over {validated} {kind}: {means}{brackets}{bias}")
    lines += [f"- Known failures: {text}" for text in _failures(scores)]
    lines.append(f"- Licence of this model: {licence or NOT_STATED}")
    lines += [f"- Encoder's weights: {text}" for text in weights_terms(members)]
    lines += [
        "",
        "To use it, replace model.segtl with the path of the file:",
        "",
        "    segtl predict -m model.segtl -i IMAGES -o PREDICTIONS",
        "    segtl plan DATASET --from model.segtl",
        "",
        "From Python, with an array (x, y, z) in RAS order:",
        "",
        '    seg_transfer.predict(array, spacing=(1.0, 1.0, 3.0), model="model.segtl")',
        "",
        "Not a medical device. Scores on data like the training data may not hold for other scanners or patients.",
        "",
    ]
    return "\n".join(map(printable, lines))


def _front_matter(licence: str | None) -> list[str]:
    """What hubs list and filter by."""
    terms = [f"license: {licence.lower()}"] if licence else ["license: other", "license_name: not-stated"]
    tags = ["medical-imaging", "image-segmentation", "segtl"]
    return [
        "---",
        *terms,
        "library_name: segtl",
        "pipeline_tag: image-segmentation",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "metrics:",
        "- dice",
        "---",
    ]


def _ranges(plan: Plan) -> list[str]:
    """Spacing and size of the training images."""
    training, unit = plan.training_images, plan.data.unit
    if training is None:
        return []
    texts = [
        ", ".join(f"{axis} {_range(of.lowest, of.highest)}" for axis, of in zip("xyz", spreads, strict=False))
        for spreads in (training.spacing, training.size)
    ]
    return [f"- Training images: spacing {texts[0]}; size {texts[1]} ({unit})"]


def _range(lowest: float, highest: float) -> str:
    low, high = (f"{math.exp(value):.3g}" for value in (lowest, highest))
    return low if low == high else f"{low} to {high}"


def _mean(label: str, mean: float, scores: Scores | None) -> str:
    """A label's mean Dice with its interval."""
    if math.isnan(mean):
        return f"{label} undefined"
    defined = _dice(scores, label)
    if len(defined) < 2:
        return f"{label} {mean:.3f}"
    low, high = mean_interval(defined)
    return f"{label} {mean:.3f} ({max(low, 0):.3f} to {min(high, 1):.3f})"


def _failures(scores: Scores | None) -> list[str]:
    """Labels that cross-validation did not find, or found where there are none, and the lowest Dice."""
    if scores is None:
        return []
    lines = [text for label, summary in scores.summary.items() for text in _errors(label, summary)]
    lowest = [f"{label} {min(defined):.3f}" for label in scores.labels if (defined := _dice(scores, label))]
    return lines + ([f"lowest Dice of a case: {', '.join(lowest)}"] if lowest else [])


def _errors(label: str, summary: LabelSummary) -> list[str]:
    counts = {"is not found": summary.prediction_empty, "is predicted where there is none": summary.reference_empty}
    return [f"{label} {what}, in {count} case(s)" for what, count in counts.items() if count]


def _dice(scores: Scores | None, label: str) -> list[float]:
    """Dice of the cases in which it is defined."""
    if scores is None:
        return []
    values = [case[label].metrics["dice"] for case in scores.cases.values()]
    return [value for value in values if not math.isnan(value)]


def _trained_on(members: Sequence[Member]) -> int:
    """Number of cases that any of the folds was trained on."""
    cases: set[str] = set()
    for member in members:
        for fold in member.folds:
            cases.update(member.plan.data.cases if fold == "full" else member.plan.recipe.splits[int(fold)].train)
    return len(cases)


def licence(weights: Weights, encoder: str) -> str:
    """Licence of the encoder's pretrained weights, if segtl knows it."""
    if weights.source == "imagenet":
        return f"{describe(encoder).licence} (as recorded by the hub for {weights.repository})"
    if weights.source == "bundled":
        return BUNDLED[encoder].licence
    return {
        "model": "that of the earlier model that training started from: ask the author of this model",
        "file": "unknown, a local file: ask the author of this model",
        "none": "none needed: trained from random weights",
    }[weights.source]


def weights_terms(members: Sequence[Member]) -> list[str]:
    """The encoders of all members, the sources of their weights and the licences of these."""
    return list(dict.fromkeys(_origin(member.plan) for member in members))


def _network(member: Member) -> str:
    model: ModelPlan = member.plan.model
    patch = " x ".join(map(str, model.patch))
    folds = "trained on all cases" if member.folds == ("full",) else f"mean of {len(member.folds)} fold(s)"
    name, strategy = "U-Net", member.plan.strategy_name
    if model.head != "unet":
        name, strategy = f"{model.head} classifier of single voxels", "frozen"
    if model.head == "svm":
        strategy += " (its probabilities are the softmax of the SVM's decision values)"
    return (
        f"{model.configuration} {name} on {model.encoder} ({model.stages} stages), patch {patch}, {strategy}; {folds}"
    )


def _predicts(data: DataPlan) -> str:
    if data.instances:
        return f"objects of {data.regions[0].name}, numbered from 1 in each image"
    return ", ".join(f"{name} {' + '.join(map(str, values))}" for name, values in data.scored.items())


def _origin(plan: Plan) -> str:
    weights, encoder = plan.model.weights, plan.model.encoder
    return f"{encoder}, {weights.source}; licence: {licence(weights, encoder)}"


def _postprocessing(plan: Plan, chosen: Postprocessing) -> list[str]:
    names = {label.value: label.name for label in plan.data.labels}
    lines = ["only the largest component of all labels together is kept"] if chosen.foreground else []
    if chosen.labels:
        lines.append(f"only the largest component is kept of {', '.join(names[value] for value in chosen.labels)}")
    return lines
