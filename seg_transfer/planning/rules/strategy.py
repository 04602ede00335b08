"""What of the encoder learns, how fast and when.

The classic advice knows four cases, small or large data set x similar to or different from the encoder's pictures.
Where all strategies were tried (``bench/regret.py``, docs/transfer.md), ``gradual`` was never far from the best, and no
rule did better: it is chosen for all, and the advice stands beside it in words. What decides is whether the encoder
knows anything of this data at all, and that is measured on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from seg_transfer.planning.evidence_record import TransferEvidence
from seg_transfer.planning.plan import Weights
from seg_transfer.planning.strategy import Candidate, Strategy

Kind = Literal["scratch", "frozen", "partial", "gradual", "finetune"]
BatchNorm = Literal["source", "recalibrated", "trained"]

LARGE_CASES = 50
LARGE_SLICES = 1000
"""A data set is large from so many cases on and so many labelled slices or pictures, both: slices of one case are not
independent, and a picture is one slice."""
Size = Literal["small", "large"]
Likeness = Literal["similar", "different"]
ADVICE: dict[tuple[Size, Likeness], str] = {
    ("small", "similar"): "freeze the encoder and train the rest",
    ("small", "different"): "take the lower stages alone",
    ("large", "similar"): "tune all stages",
    ("large", "different"): "tune all stages, or train from scratch",
}
CHOSEN: Kind = "gradual"
ENCODER_RATE, STAGE_DECAY = 0.3, 0.9
"""The encoder's rate over the decoder's, and what each stage below the top takes of the rate of the stage above. For
pictures like the source's a third of that rate, and the source's BatchNorm with it, did worse (``bench/recipe.py``,
``minmax-similar`` against ``minmax``)."""
LOWER_STAGES = 2
"""What partial takes and freezes; those above learn from random weights, at the decoder's rate."""
UNFREEZE_FROM, UNFREEZE_TO = 0.1, 0.3
"""Progress at which the top and the lowest stage start to learn in gradual."""
SCRATCH = Strategy(kind="scratch", encoder_lr_ratio=1.0, batchnorm="trained")
ON_RANDOM_WEIGHTS = "the encoder's weights are random, so that nothing is transferred; that is a control experiment"
ERRORS = 2.0
"""Standard errors by which random weights have to tell more than pretrained ones, so that these are not used. In doubt
they are, since they helped or did not matter on every data set that was measured."""


def size(cases: int, labelled_slices: int) -> tuple[Size, str]:
    """Whether a data set is small or large, for transfer.

    Args:
        cases: Labelled cases that a fold trains on.
        labelled_slices: Their slices or pictures that hold a label.
    """
    chosen: Size = "large" if cases >= LARGE_CASES and labelled_slices >= LARGE_SLICES else "small"
    return chosen, (
        f"{chosen}: {cases} training cases with {labelled_slices} labelled slices (large from {LARGE_CASES} and "
        f"{LARGE_SLICES} on)"
    )


def similarity(
    dimension: int,
    channels: int,
    *,
    names: Sequence[str] = (),
    earlier: Sequence[str] | None = None,
) -> tuple[Likeness, str]:
    """Whether images resemble those the encoder was trained on: a heuristic on their form, not on their content.

    Of an earlier model the names of its channels are known: images are similar if each of their channels was among
    them, such as CT.

    Args:
        dimension: 2 for pictures.
        channels: Image channels.
        names: Of the channels.
        earlier: Names of the channels of the model that training starts from, if it is one of the user's own.
    """
    if earlier is not None:
        before = {name.casefold() for name in earlier}
        new = [name for name in names if name.casefold() not in before]
        if not new:
            return "similar", f"similar: the earlier model has read {', '.join(names)} too"
        return "different", f"different: the earlier model has read {', '.join(earlier)}, not {', '.join(new)}"
    if dimension == 2 and channels == 3:
        return "similar", "similar: pictures of 3 channels, like the encoder's own"
    form = f"{'pictures' if dimension == 2 else 'volumes'} of {channels} channel(s)"
    return "different", f"different: {form}, the encoder was trained on RGB pictures of things"


def strategy(
    *,
    cases: int,
    labelled_slices: int,
    dimension: int,
    channels: int,
    weights: Weights,
    stages: int,
    has_batchnorm: bool,
    evidence: TransferEvidence | None = None,
    requested: Kind | None = None,
    names: Sequence[str] = (),
    earlier: Sequence[str] | None = None,
) -> tuple[Candidate, str]:
    """Choose the transfer strategy, and which stages start pretrained.

    Args:
        cases: Labelled cases that a fold trains on.
        labelled_slices: Their slices or pictures that hold a label.
        dimension: 2 for pictures.
        channels: Image channels.
        weights: The encoder's.
        stages: Encoder stages in use.
        has_batchnorm: Whether the encoder has BatchNorm.
        evidence: What the frozen encoder knows of this data, if that was measured.
        requested: The user's choice, if any.
        names: Of the channels.
        earlier: Names of the channels of an earlier model that training starts from, if any.
    """
    how_large, why_large = size(cases, labelled_slices)
    how_similar, why_similar = similarity(dimension, channels, names=names, earlier=earlier)
    why_case = f"{why_large}; {why_similar} (the classic advice: {ADVICE[how_large, how_similar]})"
    pretrained = weights.source != "none"
    tells, why_told = worth(evidence)
    kind: Kind = requested or (CHOSEN if pretrained and tells else "scratch")
    if requested is not None and requested != "scratch" and not pretrained:
        reason = f"asked for {requested}: {ON_RANDOM_WEIGHTS}; the data set is {why_case}"
    elif requested is not None:
        reason = f"asked for {requested}; the data set is {why_case}"
    elif not pretrained:
        reason = "no pretrained weights: everything learns from the start"
    elif not tells:
        reason = f"{why_told}: everything learns from the start"
    else:
        reason = f"{why_told}; {why_case}: {kind}, which is never far from the best strategy where all were measured"
    if kind == "scratch":
        return Candidate(strategy=SCRATCH), reason
    lower = min(LOWER_STAGES, stages - 1) if kind == "partial" else 0
    taken = lower if lower and weights.source not in ("none", "model") else None
    random = not pretrained or taken is not None
    norm, why_norm = batchnorm(exists=has_batchnorm, random_learn=random and kind != "frozen")
    chosen = Strategy(
        kind=kind,
        frozen_stages=lower,
        encoder_lr_ratio={"frozen": 0.0, "partial": 1.0}.get(kind, ENCODER_RATE),
        layer_decay=STAGE_DECAY if kind in ("gradual", "finetune") else 1.0,
        unfreeze_at=unfreeze_fractions(stages) if kind == "gradual" else (),
        batchnorm=norm,
    )
    return Candidate(strategy=chosen, pretrained_stages=taken), f"{reason}; {why_norm}"


def worth(evidence: TransferEvidence | None) -> tuple[bool, str]:
    """Whether to start pretrained: unless random weights tell more of this data at every stage, by more than chance.

    All stages together would be too strict: in one draw of cells they refused weights that do no harm (docs/log.md).

    Args:
        evidence: What was measured, if anything.
    """
    if evidence is None:
        return True, "the encoder was not tried on this data"
    bounds = [gain.mean + ERRORS * (gain.error or 0) for gain in evidence.gain]
    best = max(range(len(bounds)), key=lambda stage: evidence.gain[stage].mean)
    told = (
        f"frozen features of stage {best}, where pretraining shows most, tell labels apart with a balanced accuracy of "
        f"{evidence.pretrained[best].mean:.3f}, those of random weights {evidence.random[best].mean:.3f} "
        f"({evidence.gain[best].text(signed=True)} on {evidence.cases} cases)"
    )
    return max(bounds) >= 0, told


def batchnorm(*, exists: bool, random_learn: bool) -> tuple[BatchNorm, str]:
    """Choose what becomes of the encoder's BatchNorm.

    The source's statistics do not fit inflated kernels, which average along the slice axis and so lower every variance
    below what is stored. Neither keeping them nor training them was better beyond chance where it was tried
    (``bench/recipe.py``, ``bench/batchnorm.py``), so that one way does for all pretrained stages. Statistics of random
    weights are worth nothing once these have learned.

    Args:
        exists: Whether the encoder has BatchNorm.
        random_learn: Whether stages learn that start from random weights.
    """
    if not exists:
        return "source", "the encoder has no BatchNorm"
    if random_learn:
        return "trained", "BatchNorm is trained in stages that start from random weights"
    return "recalibrated", "BatchNorm is re-estimated once on training patches and then kept"


def unfreeze_fractions(stages: int) -> tuple[float, ...]:
    """Progress at which each stage starts to learn, from the top down, evenly between 0.1 and 0.3."""
    step = (UNFREEZE_TO - UNFREEZE_FROM) / max(1, stages - 1)
    return tuple(round(UNFREEZE_FROM + step * index, 3) for index in range(stages))
