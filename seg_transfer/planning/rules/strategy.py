"""How the encoder learns: one function per strategy, and the rule that chooses between them.

Where all strategies were measured (``bench/regret.py``, docs/transfer.md), ``gradual`` was never far from the best, and
no rule did better, so that it is the default. The exception: random weights that are better on this data, as measured
before planning. The textbook's table of four cases is in ``rules/classic.py``.

A new strategy is a function here with its entry in ``STRATEGIES``, and its name in options/choices.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from seg_transfer.catalogue.encoders import entry
from seg_transfer.options.choices import StrategyName
from seg_transfer.planning.evidence_record import TransferEvidence
from seg_transfer.planning.plan import ModelPlan
from seg_transfer.planning.strategy import Strategy

BatchNorm = Literal["source", "recalibrated", "trained"]

ENCODER_RATE, STAGE_DECAY = 0.3, 0.9
"""The encoder's rate over the decoder's, and each stage's rate over that of the next deeper one. For images similar to
the source's, a third of that rate with the source's BatchNorm did worse (``bench/recipe.py``,
``minmax-similar`` against ``minmax``)."""
LOWER_STAGES = 2
"""Stages that partial keeps pretrained and frozen; the others learn from random weights, at the decoder's rate."""
UNFREEZE_FROM, UNFREEZE_TO = 0.1, 0.3
"""Share of the budget at which the deepest and the finest stage start to learn in gradual."""
ON_RANDOM_WEIGHTS = "the encoder's weights are random, so that nothing is transferred: a control experiment"
STANDARD_ERRORS = 2.0
"""Pretrained weights are not used if random ones are better by more than this. In doubt they are used: they helped or
did not matter on every data set that was measured."""


def scratch(model: ModelPlan) -> Strategy:
    """All stages start from random weights and learn at the decoder's rate."""
    stages = model.stages
    return Strategy(
        name="scratch", start=(0.0,) * stages, rate=(1.0,) * stages, batchnorm="trained", pretrained_stages=0
    )


def frozen(model: ModelPlan) -> Strategy:
    """No stage ever learns."""
    return _from_pretrained("frozen", model, (None,) * model.stages)


def partial(model: ModelPlan) -> Strategy:
    """The finest stages are frozen; the others learn from random weights, at the decoder's rate.

    Features are reused mostly in the lowest layers (Raghu et al., Transfusion, arXiv 1902.07208). An earlier model's
    weights are always taken for all stages, and so are those of a single stage.
    """
    lower = min(LOWER_STAGES, model.stages - 1)
    pretrained = lower if lower and model.weights.source not in ("none", "model") else _stages_with_weights(model)
    return Strategy(
        name="partial",
        start=tuple(None if stage < lower else 0.0 for stage in range(model.stages)),
        rate=tuple(0.0 if stage < lower else 1.0 for stage in range(model.stages)),
        batchnorm=batchnorm(model, random_learn=pretrained < model.stages)[0],
        pretrained_stages=pretrained,
    )


def gradual(model: ModelPlan) -> Strategy:
    """Stages start to learn one after another, the deepest first, evenly between 0.1 and 0.3 of the budget."""
    step = (UNFREEZE_TO - UNFREEZE_FROM) / max(1, model.stages - 1)
    deepest_first = [round(UNFREEZE_FROM + step * index, 3) for index in range(model.stages)]
    return _from_pretrained("gradual", model, tuple(deepest_first[::-1]))


def finetune(model: ModelPlan) -> Strategy:
    """All stages learn from the start."""
    return _from_pretrained("finetune", model, (0.0,) * model.stages)


STRATEGIES: dict[StrategyName, Callable[[ModelPlan], Strategy]] = {
    "frozen": frozen,
    "partial": partial,
    "gradual": gradual,
    "finetune": finetune,
    "scratch": scratch,
}


def strategy(
    model: ModelPlan, *, evidence: TransferEvidence | None = None, requested: StrategyName | None = None
) -> tuple[Strategy, str]:
    """Choose the transfer strategy.

    Args:
        model: The network, and the weights that the encoder may start from.
        evidence: Accuracy of the frozen encoder's features on this data, if measured.
        requested: The user's choice out of ``STRATEGIES``, if any.
    """
    pretrained = model.weights.source != "none"
    helps, why_helps = pretraining_helps(evidence)
    if requested is not None:
        control = requested != "scratch" and not pretrained
        reason = f"{requested} was requested{f'; {ON_RANDOM_WEIGHTS}' if control else ''}"
        return with_batchnorm_reason(model, STRATEGIES[requested](model), reason)
    if not pretrained:
        return scratch(model), "there are no pretrained weights"
    if not helps:
        return scratch(model), f"random weights know more of this data than the pretrained ones; {why_helps}"
    reason = f"never far from the best where all were measured; {why_helps}"
    return with_batchnorm_reason(model, gradual(model), reason)


def with_batchnorm_reason(model: ModelPlan, chosen: Strategy, reason: str) -> tuple[Strategy, str]:
    """A strategy, and the reason for it with that for its BatchNorm; scratch needs none for the latter.

    Args:
        model: The network.
        chosen: The strategy.
        reason: Why it was chosen.
    """
    if chosen == scratch(model):
        return chosen, reason
    return chosen, f"{reason}; {batchnorm(model, random_learn=chosen.batchnorm == 'trained')[1]}"


def pretraining_helps(evidence: TransferEvidence | None) -> tuple[bool, str]:
    """Whether to start pretrained: yes, unless random weights are significantly better at every stage.

    Pooling the stages would be too strict: in one draw of cells it refused weights that do no harm (docs/log.md).
    """
    if evidence is None:
        return True, "the encoder was not measured on this data"
    bounds = [gain.mean + STANDARD_ERRORS * (gain.error or 0) for gain in evidence.gain]
    best = max(range(len(bounds)), key=lambda stage: evidence.gain[stage].mean)
    figures = (
        f"frozen features of stage {best}, where pretraining helps most, separate labels with a balanced accuracy of "
        f"{evidence.pretrained[best].mean:.3f}, those of random weights {evidence.random[best].mean:.3f} "
        f"({evidence.gain[best].text(signed=True)} on {evidence.cases} cases)"
    )
    return max(bounds) >= 0, figures


def batchnorm(model: ModelPlan, *, random_learn: bool) -> tuple[BatchNorm, str]:
    """Choose how the encoder's BatchNorm is treated.

    Neither keeping the source's statistics nor training them was significantly better (``bench/recipe.py``,
    ``bench/batchnorm.py``), so that all pretrained stages are treated alike. Statistics of random weights become
    invalid as these learn.

    Args:
        model: The network.
        random_learn: Whether stages that start from random weights learn.
    """
    if not entry(model.encoder).batchnorm:
        return "source", "the encoder has no BatchNorm"
    if random_learn:
        return "trained", "BatchNorm is trained in stages that start from random weights"
    return "recalibrated", "BatchNorm is re-estimated once on training patches and then frozen"


def _from_pretrained(name: str, model: ModelPlan, start: tuple[float | None, ...]) -> Strategy:
    """All stages start from the available weights; finer ones learn more slowly."""
    learns = start[-1] is not None
    rates = tuple(ENCODER_RATE * STAGE_DECAY**step if learns else 0.0 for step in reversed(range(model.stages)))
    return Strategy(
        name=name,
        start=start,
        rate=rates,
        batchnorm=batchnorm(model, random_learn=learns and model.weights.source == "none")[0],
        pretrained_stages=_stages_with_weights(model),
    )


def _stages_with_weights(model: ModelPlan) -> int:
    """Number of stages for which there are pretrained weights."""
    return 0 if model.weights.source == "none" else model.stages
