"""The textbook's advice on transfer: small or large data set, similar to or different from the source's images.

Four cases, taken literally (Stanford's course CS231n, "Transfer Learning"), for ``--strategy classic``. The default
rule is in ``rules/strategy.py``.
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
"""A data set is large if it reaches both. Slices of one case are not independent; a 2D image is one slice."""
Size = Literal["small", "large"]
Similarity = Literal["similar", "different"]
ADVICE: dict[tuple[Size, Similarity], tuple[StrategyName, str]] = {
    ("small", "similar"): ("frozen", "freeze the encoder and train the rest"),
    ("small", "different"): ("partial", "take only the lower stages"),
    ("large", "similar"): ("finetune", "fine-tune all stages"),
    ("large", "different"): ("finetune", "fine-tune all stages"),
}
"""(size, similarity) -> strategy, and the advice in words. Without pretrained weights it is scratch."""


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
        earlier: Names of the earlier model's channels, if training starts from one.
    """
    how_large, why_large = size(cases, labelled_slices)
    how_similar, why_similar = similarity(dimension, channels, earlier=earlier)
    name, words = ADVICE[how_large, how_similar]
    if model.weights.source == "none":
        name, words = "scratch", "train from scratch, because there are no pretrained weights"
    reason = f"classic was requested; {why_large}; {why_similar}: {words}"
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
) -> tuple[Similarity, str]:
    """Whether images resemble those the encoder was trained on: by dimension and channels, not by content.

    With an earlier model, images are similar if it has a channel of the same name for each of theirs, such as CT.

    Args:
        dimension: 2 for 2D images.
        channels: Names of the image channels.
        earlier: Names of the earlier model's channels, if training starts from one.
    """
    if earlier is not None:
        earlier_names = {name.casefold() for name in earlier}
        new = [name for name in channels if name.casefold() not in earlier_names]
        if not new:
            return "similar", f"similar: the earlier model was trained on {', '.join(channels)} too"
        return "different", f"different: the earlier model was trained on {', '.join(earlier)}, not on {', '.join(new)}"
    if dimension == 2 and len(channels) == 3:
        return "similar", "similar: 2D images of 3 channels, like the encoder's training images"
    form = f"{'2D images' if dimension == 2 else 'volumes'} of {len(channels)} channel(s)"
    return "different", f"different: {form}, the encoder was trained on RGB photographs"
