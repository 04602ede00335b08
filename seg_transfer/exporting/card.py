"""The card of an exported model: what a person who gets the file should know, in text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from seg_transfer.catalogue.encoders import entry
from seg_transfer.planning.model_file import Member, Postprocessing
from seg_transfer.planning.plan import ModelPlan, Plan, Weights

BUNDLED_LICENCE = "trained on Tiny ImageNet for segtl; made from images for non-commercial research and education"


def write_card(
    members: Sequence[Member],
    *,
    name: str,
    dice: Mapping[str, float] | None,
    validated: int,
    chosen: bool,
    postprocessing: Postprocessing,
) -> str:
    """Put a card together from figures alone: no case, path or remark of the user's goes into it.

    Args:
        members: As exported; the first one's plan speaks for the data.
        name: What the model is called.
        dice: Label -> mean Dice by cross-validation, or None if there is none for these models.
        validated: Cases that ``dice`` is over.
        chosen: Whether configuration or postprocessing were chosen by these very figures.
        postprocessing: What is done to label maps.
    """
    plan = members[0].plan
    data, unit = plan.data, plan.data.unit
    kind = "pictures" if data.dimension == 2 else "volumes"
    axes = ["xyz"[axis] for axis in data.axes]
    spacing = ", ".join(f"{axis} {size:g}" for axis, size in zip(axes, data.spacing, strict=True))
    lines = [
        f"# {name}: a model of segtl",
        "",
        f"- Reads: {kind} of {len(data.channels)} channel(s), in this order: "
        + ", ".join(f"{channel.name} (scaled by {channel.normalization.kind})" for channel in data.channels),
        "- Predicts: " + ", ".join(f"{name} {' + '.join(map(str, values))}" for name, values in data.scored.items()),
        f"- Resamples to {spacing} ({unit}), and back",
        f"- Trained on: {len(data.cases)} labelled {kind}",
    ]
    lines += [f"- Network: {_network(member)}" for member in members]
    lines += [f"- Label maps: {text}" for text in _cleaning(plan, postprocessing)]
    if dice is None:
        lines.append("- Dice by cross-validation: not measured for these models")
    else:
        means = ", ".join(f"{label} {'undefined' if mean != mean else f'{mean:.3f}'}" for label, mean in dice.items())
        flattered = "; the models were chosen by these figures, which therefore flatter a little" if chosen else ""
        lines.append(f"- Dice by cross-validation over {validated} {kind}: {means}{flattered}")
    lines += [f"- Encoder's weights: {text}" for text in dict.fromkeys(_origin(member.plan) for member in members)]
    lines += [
        "",
        "Use it, with the file in place of model.segtl:",
        "",
        "    segtl predict -m model.segtl -i IMAGES -o PREDICTIONS",
        "    segtl plan DATASET --from model.segtl",
        "",
        "From Python, with an array (x, y, z) in RAS order:",
        "",
        '    seg_transfer.predict(array, spacing=(1.0, 1.0, 3.0), model="model.segtl")',
        "",
        "Not a medical device. Scores on data like the training data do not carry over to other scanners or patients.",
        "",
    ]
    return "\n".join(lines)


def licence(weights: Weights, encoder: str) -> str:
    """Terms of the weights that the encoder started from, as far as segtl knows them."""
    if weights.source == "imagenet":
        return f"{entry(encoder).licence} (as the hub records it for {weights.repository})"
    return {
        "bundled": BUNDLED_LICENCE,
        "model": "those of the earlier model that training started from: ask who made this one",
        "file": "a file of the trainer's own: ask who made this model",
        "none": "none needed: trained from random weights",
    }[weights.source]


def _network(member: Member) -> str:
    model: ModelPlan = member.plan.model
    patch = " x ".join(map(str, model.patch))
    folds = "trained on every case" if member.folds == ("full",) else f"mean of {len(member.folds)} fold(s)"
    name, learned = "U-Net", member.plan.strategy_name
    if model.head != "unet":
        name, learned = f"{model.head} classifier of single voxels", "frozen"
    if model.head == "svm":
        learned += " (what it gives as probabilities is the softmax of the SVM's decision values)"
    return f"{model.configuration} {name} on {model.encoder} ({model.stages} stages), patch {patch}, {learned}; {folds}"


def _origin(plan: Plan) -> str:
    weights, encoder = plan.model.weights, plan.model.encoder
    return f"{encoder}, {weights.source}; licence: {licence(weights, encoder)}"


def _cleaning(plan: Plan, chosen: Postprocessing) -> list[str]:
    names = {label.value: label.name for label in plan.data.labels}
    lines = ["only the largest component of all labels together is kept"] if chosen.foreground else []
    if chosen.labels:
        lines.append(f"only the largest component is kept of {', '.join(names[value] for value in chosen.labels)}")
    return lines
