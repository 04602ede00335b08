"""The card of pretrained weights: network, training and measured accuracy, as Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from seg_transfer.catalogue.encoders import EncoderEntry
from seg_transfer.pretraining.image_augmentation import RANGES
from seg_transfer.pretraining.job import Job, PretrainState, SplitImages
from seg_transfer.pretraining.learner import LABEL_SMOOTHING, MOMENTUM, TOP, WEIGHT_DECAY
from seg_transfer.pretraining.time_schedule import GROWTH, WARMUP, side_at
from seg_transfer.util.units import seconds_text

MOST_LISTED = 10
"""Names of classes on the card."""


@dataclass(frozen=True)
class Facts:
    """The figures on the card.

    Attributes:
        encoder: Catalogue entry of the network.
        state: Steps and seconds of the training.
        parameters: Number of parameters, with the classifier.
        statistics: Number of training images that BatchNorm was recalibrated on; 0 without BatchNorm.
        top1: Top-1 accuracy on the validation images.
        top5: Top-5 accuracy on the validation images.
        chance: Share of the most frequent class among validation images.
        precision: ``bfloat16`` or ``float32``.
        machine: Cores, processor and GPU.
        versions: Versions of torch and segtl.
        date: Date as YYYY-MM-DD.
    """

    encoder: EncoderEntry
    state: PretrainState
    parameters: int
    statistics: int
    top1: float
    top5: float
    chance: float
    precision: str
    machine: str
    versions: str
    date: str


def metadata(job: Job, data: SplitImages, facts: Facts) -> dict[str, str]:
    """Header of the weights file, with the fields of the bundled weights; it has no paths."""
    return {
        "architecture": f"{facts.encoder.library_name} (timm)",
        "data": f"{job.options.images.resolve().name} ({_counts(data)}, {job.options.side}x{job.options.side})",
        "dtype": "float16",
        "mean": ",".join(map(str, facts.encoder.mean)),
        "std": ",".join(map(str, facts.encoder.std)),
        "val_top1": f"{facts.top1:.4f}",
        "val_top5": f"{facts.top5:.4f}",
        "date": facts.date,
    }


def text(job: Job, data: SplitImages, facts: Facts) -> str:
    """The card as Markdown."""
    name, classes, side = job.weights_file.name, data.folders.classes, job.options.side
    listed = ", ".join(classes[:MOST_LISTED]) + (", …" if len(classes) > MOST_LISTED else "")
    rows = {
        "network": f"`{facts.encoder.library_name}` as timm builds it; state-dict keys as in timm; float16, loaded as "
        f"float32; {facts.parameters / 1e6:.1f} M parameters with its {len(classes)}-class classifier, which segtl "
        "does not use",
        "trained on": f"`{job.options.images.resolve().name}`: {_counts(data)} ({listed}), as squares of {side} "
        "pixels; from random weights",
        "training": _training(job, data, facts),
        "accuracy": _accuracy(job, data, facts),
        "input": f"RGB in [0, 1], scaled with mean {facts.encoder.mean} and std {facts.encoder.std}; grey images in "
        "all three channels",
        "limits": f"Trained on images of {side} pixels: a stage of stride 32 was trained on maps of "
        f"{-(-side // 32)}x{-(-side // 32)}. Not validated for clinical use",
        "made by": f"`segtl pretrain` on {facts.date}; {facts.machine}; {facts.versions}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    use = f"segtl plan DATASET --encoder {facts.encoder.name} --weights {name}"
    return f"""# Card of `{name}`

Encoder weights for segtl: `{use}`.

| | |
|---|---|
{table}

## Terms
The rights in the images remain with their owners. State here where the images come from and what their terms allow, for
anyone who passes these weights on.
"""


def _training(job: Job, data: SplitImages, facts: Facts) -> str:
    options, state, train = job.options, facts.state, len(data.train)
    seen = state.step * options.batch_size
    sides = ", then ".join(str(side_at(start, options.side)) for start, _ in GROWTH)
    ended = (
        f"BatchNorm recalibrated at the end on {facts.statistics:,} training images at {options.side}"
        if facts.statistics
        else "no BatchNorm"
    )
    return (
        f"{seen / train:.1f} epochs: {state.step:,} steps in {seconds_text(state.seconds)} "
        f"({seen / state.seconds:.0f} images a second, {state.drawing / state.seconds:.0%} of the time to load them); "
        f"{facts.precision}; SGD with Nesterov momentum {MOMENTUM}, batch {options.batch_size}, peak rate {job.peak:g} "
        f"with {WARMUP:.0%} warm-up and cosine decay by elapsed time, weight decay {WEIGHT_DECAY:g} on convolutions, "
        f"label smoothing {LABEL_SMOOTHING}; for {options.purpose}: {RANGES[options.purpose]}; side {sides}; "
        f"{ended}; seed {options.seed}"
    )


def _accuracy(job: Job, data: SplitImages, facts: Facts) -> str:
    top5 = f", top-5 {facts.top5:.3f}" if len(data.folders.classes) > TOP else ""
    side = job.options.side
    source = f"of `{job.options.val.resolve().name}`" if job.options.val else "held out at random, class by class,"
    return (
        f"top-1 {facts.top1:.3f}{top5} on {len(data.validation):,} images {source} at {side}x{side} "
        f"(always guessing the most frequent class: {facts.chance:.3f})"
    )


def _counts(data: SplitImages) -> str:
    return f"{len(data.train):,} images of {len(data.folders.classes)} classes"
