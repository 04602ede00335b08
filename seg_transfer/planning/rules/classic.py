"""The textbook's advice on transfer: small or large data set, similar to or different from the source's images.

Four cases, applied as they stand (Stanford's course CS231n, "Transfer Learning"), for users who ask for them. What
segtl chooses by itself is in ``rules/strategy.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from seg_transfer.options.choices import StrategyName
from seg_transfer.planning.plan import ModelPlan
from seg_transfer.planning.rules.strategy import STRATEGIES, with_batchnorm_reason
from seg_transfer.planning.strategy import Strategy

LARGE_CASES = 50
LARGE_SLICES = 1000
"""A data set is large from so many cases on and so many labelled slices or 2D images, both: slices of one case are not
independent, and a 2D image is one slice."""
Size = Literal["small", "large"]
Likeness = Literal["similar", "different"]
ADVICE: dict[tuple[Size, Likeness], tuple[StrategyName, str]] = {
    ("small", "similar"): ("frozen", "freeze the encoder and train the rest"),
    ("small", "different"): ("partial", "take the lower stages alone"),
    ("large", "similar"): ("finetune", "fine-tune all stages"),
    ("large", "different"): ("finetune", "fine-tune all stages"),
}
"""Case -> the strategy that it asks for, in words too. Without pretrained weights everything learns from scratch."""


def classic(
    model: ModelPlan,
    *,
    cases: int,
    labelled_slices: int,
    dimension: int,
    channels: Sequence[str],
    earlier: Sequence[str] | None = None,
) -> tuple[Strategy, str]:
    """Choose the strategy of the textbook's table.

    Args:
        model: The network, and the weights that the encoder may start from.
        cases: Labelled cases that a fold trains on.
        labelled_slices: Their slices or 2D images that hold a label.
        dimension: 2 for 2D images.
        channels: Names of the image channels.
        earlier: Names of the channels of the model that training starts from, if it is one of the user's own.
    """
    how_large, why_large = size(cases, labelled_slices)
    how_similar, why_similar = similarity(dimension, channels, earlier=earlier)
    name, words = ADVICE[how_large, how_similar]
    if model.weights.source == "none":
        name, words = "scratch", "train from scratch, since there are no pretrained weights"
    reason = f"asked for the classic advice; {why_large}; {why_similar}: {words}"
    return with_batchnorm_reason(model, STRATEGIES[name](model), reason)


def size(cases: int, labelled_slices: int) -> tuple[Size, str]:
    """Whether a data set is small or large, for transfer.

    Args:
        cases: Labelled cases that a fold trains on.
        labelled_slices: Their slices or 2D images that hold a label.
    """
    chosen: Size = "large" if cases >= LARGE_CASES and labelled_slices >= LARGE_SLICES else "small"
    return chosen, (
        f"{chosen}: {cases} training cases with {labelled_slices} labelled slices (large from {LARGE_CASES} and "
        f"{LARGE_SLICES} on)"
    )


def similarity(
    dimension: int, channels: Sequence[str], *, earlier: Sequence[str] | None = None
) -> tuple[Likeness, str]:
    """Whether images resemble those the encoder was trained on: a heuristic on their form, not on their content.

    Of an earlier model the names of its channels are known: images are similar if each of their channels was among
    them, such as CT.

    Args:
        dimension: 2 for 2D images.
        channels: Names of the image channels.
        earlier: Names of the channels of the model that training starts from, if it is one of the user's own.
    """
    if earlier is not None:
        known = {name.casefold() for name in earlier}
        new = [name for name in channels if name.casefold() not in known]
        if not new:
            return "similar", f"similar: the earlier model has read {', '.join(channels)} too"
        return "different", f"different: the earlier model has read {', '.join(earlier)}, not {', '.join(new)}"
    if dimension == 2 and len(channels) == 3:
        return "similar", "similar: 2D images of 3 channels, like the encoder's own"
    form = f"{'2D images' if dimension == 2 else 'volumes'} of {len(channels)} channel(s)"
    return "different", f"different: {form}, the encoder was trained on RGB photographs"
