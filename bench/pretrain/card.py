"""The card of weights: what they are and how they were made, every figure as measured in this run."""

from __future__ import annotations

from dataclasses import dataclass

from augment import VARIETIES
from job import Data, Job, State
from learner import LABEL_SMOOTHING, MOMENTUM, TOP, WEIGHT_DECAY
from schedule import GROWTH, WARMUP, side_at

from seg_transfer.catalogue.encoders import EncoderEntry
from seg_transfer.util.units import seconds_text

NAMED = 10


@dataclass(frozen=True)
class Facts:
    """What was measured and is written down.

    Attributes:
        known: The network.
        state: How far training came.
        parameters: Of the network with its head.
        statistics: Training pictures that BatchNorm's statistics were estimated from; 0 without BatchNorm.
        top1: Share of validation pictures whose class is the first guess.
        top5: The same among the first five.
        chance: Share of the most frequent class among validation pictures.
        precision: ``bfloat16`` or ``float32``.
        machine: In words.
        versions: Of the code and of torch.
        date: As YYYY-MM-DD.
    """

    known: EncoderEntry
    state: State
    parameters: int
    statistics: int
    top1: float
    top5: float
    chance: float
    precision: str
    machine: str
    versions: str
    date: str


def metadata(job: Job, data: Data, facts: Facts) -> dict[str, str]:
    """What the header of the weights says, as the bundled ones do; no paths."""
    return {
        "architecture": f"{facts.known.library_name} (timm)",
        "data": f"{job.data.resolve().name} ({_counts(data)}, {job.side}x{job.side})",
        "dtype": "float16",
        "mean": ",".join(map(str, facts.known.mean)),
        "std": ",".join(map(str, facts.known.std)),
        "val_top1": f"{facts.top1:.4f}",
        "val_top5": f"{facts.top5:.4f}",
        "date": facts.date,
    }


def text(job: Job, data: Data, facts: Facts) -> str:
    """The card as Markdown."""
    name, classes = job.weights_file.name, data.pictures.classes
    rows = {
        "network": f"`{facts.known.library_name}` as timm builds it; state-dict keys as in timm; float16, loaded as "
        f"float32; with its {len(classes)}-class head {facts.parameters / 1e6:.1f} M parameters, of which segtl uses "
        "the stages that the plan names and never the head",
        "trained on": f"`{job.data.resolve().name}`: {_counts(data)} ({_some(classes)}), as squares of {job.side} "
        "pixels; from random weights",
        "training": _training(job, data, facts),
        "accuracy": _accuracy(job, data, facts),
        "input": f"RGB in [0, 1], scaled with mean {facts.known.mean} and std {facts.known.std}; grey pictures in "
        "all three channels",
        "limits": f"Knows pictures of {job.side} pixels: a stage of stride 32 has only seen maps of "
        f"{-(-job.side // 32)}x{-(-job.side // 32)}. Not validated for clinical use",
        "made by": f"`bench/pretrain/pretrain.py` on {facts.date}; {facts.machine}; {facts.versions}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    use = f"segtl plan DATASET --encoder {facts.known.name} --weights {name}"
    return f"""# Card of `{name}`

Encoder weights for segtl: `{use}`.

| | |
|---|---|
{table}

## Terms
The pictures' rights remain with their owners. State here where the pictures come from and what their terms allow:
whoever passes these weights on has to be able to judge that.
"""


def _training(job: Job, data: Data, facts: Facts) -> str:
    state, train = facts.state, len(data.train)
    seen = state.step * job.batch
    sides = ", then ".join(str(side_at(start, job.side)) for start, _ in GROWTH)
    ended = (
        f"BatchNorm statistics re-estimated at the end on {facts.statistics:,} training images at {job.side}"
        if facts.statistics
        else "no BatchNorm"
    )
    return (
        f"{seen / train:.1f} epochs: {state.step:,} steps in {seconds_text(state.seconds)} "
        f"({seen / state.seconds:.0f} images a second, {state.drawing / state.seconds:.0%} of the time to draw them); "
        f"{facts.precision}; SGD with Nesterov momentum {MOMENTUM}, batch {job.batch}, peak rate {job.peak:g} with "
        f"{WARMUP:.0%} warm-up and cosine decay by elapsed time, weight decay {WEIGHT_DECAY:g} on convolutions, label "
        f"smoothing {LABEL_SMOOTHING}; for {job.purpose}: {VARIETIES[job.purpose]}; side {sides}; {ended}; seed "
        f"{job.seed}"
    )


def _accuracy(job: Job, data: Data, facts: Facts) -> str:
    top5 = f", top-5 {facts.top5:.3f}" if len(data.pictures.classes) > TOP else ""
    source = f"of `{job.val.resolve().name}`" if job.val else "held out at random, class by class,"
    return (
        f"top-1 {facts.top1:.3f}{top5} on {len(data.validation):,} images {source} at {job.side}x{job.side} "
        f"(always guessing the most frequent class: {facts.chance:.3f})"
    )


def _counts(data: Data) -> str:
    return f"{len(data.train):,} images of {len(data.pictures.classes)} classes"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
