"""The card of an exported model: its input and output, training data, scores and licence, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from seg_transfer.catalogue.encoders import BUNDLED
from seg_transfer.errors import printable
from seg_transfer.planning.model_file import Member, Postprocessing
from seg_transfer.planning.plan import ModelPlan, Plan, Weights
from seg_transfer.transfer.describe import describe


def write_card(
    members: Sequence[Member],
    *,
    name: str,
    dice: Mapping[str, float] | None,
    validated: int,
    chosen: bool,
    postprocessing: Postprocessing,
) -> str:
    """Write the card; it names no case and no path.

    Args:
        members: The exported members, whose plans share the data part.
        name: Name of the model.
        dice: Label -> mean Dice by cross-validation; None if the models are not validated.
        validated: Number of cases that ``dice`` is over.
        chosen: Whether the models or the postprocessing were chosen by ``dice``.
        postprocessing: Postprocessing of label maps.
    """
    plan = members[0].plan
    data, unit = plan.data, plan.data.unit
    kind = "2D images" if data.dimension == 2 else "volumes"
    axes = ["xyz"[axis] for axis in data.axes]
    spacing = ", ".join(f"{axis} {size:g}" for axis, size in zip(axes, data.spacing, strict=True))
    lines = [
        f"# {name}: a model of segtl",
        "",
        f"- Reads: {kind} of {len(data.channels)} channel(s), in this order: "
        + ", ".join(f"{channel.name} (scaled by {channel.normalization.kind})" for channel in data.channels),
        "- Predicts: " + ", ".join(f"{name} {' + '.join(map(str, values))}" for name, values in data.scored.items()),
        f"- Resamples to {spacing} ({unit}), and back",
        f"- Trained on: {_trained_on(members)} labelled {kind}",
    ]
    lines += [f"- Network: {_network(member)}" for member in members]
    lines += [f"- Label maps: {text}" for text in _postprocessing(plan, postprocessing)]
    if dice is None:
        lines.append("- Dice by cross-validation: not measured for these models")
    else:
        means = ", ".join(f"{label} {'undefined' if mean != mean else f'{mean:.3f}'}" for label, mean in dice.items())
        bias = "; slightly optimistic, since the models were chosen by these figures" if chosen else ""
        lines.append(f"- Dice by cross-validation over {validated} {kind}: {means}{bias}")
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


def _origin(plan: Plan) -> str:
    weights, encoder = plan.model.weights, plan.model.encoder
    return f"{encoder}, {weights.source}; licence: {licence(weights, encoder)}"


def _postprocessing(plan: Plan, chosen: Postprocessing) -> list[str]:
    names = {label.value: label.name for label in plan.data.labels}
    lines = ["only the largest component of all labels together is kept"] if chosen.foreground else []
    if chosen.labels:
        lines.append(f"only the largest component is kept of {', '.join(names[value] for value in chosen.labels)}")
    return lines
