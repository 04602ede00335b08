"""How the encoder learns: one function per strategy, and the rule that chooses between them.

Where all strategies were tried (``bench/regret.py``, docs/transfer.md), ``gradual`` was never far from the best, and no
rule did better: it is chosen for all. Only one thing overrules it: random weights that are better on this data, as
measured before planning. The textbook's table of four cases is in ``rules/classic.py``.

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
"""The encoder's rate over the decoder's, and what each stage below the top takes of the rate of the stage above. For
images like the source's a third of that rate, and the source's BatchNorm with it, did worse (``bench/recipe.py``,
``minmax-similar`` against ``minmax``)."""
LOWER_STAGES = 2
"""Stages that partial takes and freezes; those above learn from random weights, at the decoder's rate."""
UNFREEZE_FROM, UNFREEZE_TO = 0.1, 0.3
"""Progress at which the top and the lowest stage start to learn in gradual."""
ON_RANDOM_WEIGHTS = "the encoder's weights are random, so that nothing is transferred; that is a control experiment"
ERRORS = 2.0
"""Standard errors by which random weights have to be better than pretrained ones, so that these are not used. In doubt
they are, since they helped or did not matter on every data set that was measured."""


def scratch(model: ModelPlan) -> Strategy:
    """All stages start from random weights and learn at the decoder's rate."""
    every = model.stages
    return Strategy(name="scratch", start=(0.0,) * every, rate=(1.0,) * every, batchnorm="trained", pretrained_stages=0)


def frozen(model: ModelPlan) -> Strategy:
    """No stage ever learns: the encoder is used as it is."""
    return _from_pretrained("frozen", model, (None,) * model.stages)


def partial(model: ModelPlan) -> Strategy:
    """The lowest stages are frozen; those above learn from random weights, at the decoder's rate.

    Reuse sits in the lowest layers (Raghu et al., Transfusion, arXiv 1902.07208). An earlier model's weights are taken
    as a whole, and so are those of a single stage.
    """
    lower = min(LOWER_STAGES, model.stages - 1)
    pretrained = lower if lower and model.weights.source not in ("none", "model") else _available(model)
    return Strategy(
        name="partial",
        start=tuple(None if stage < lower else 0.0 for stage in range(model.stages)),
        rate=tuple(0.0 if stage < lower else 1.0 for stage in range(model.stages)),
        batchnorm=batchnorm(model, random_learn=pretrained < model.stages)[0],
        pretrained_stages=pretrained,
    )


def gradual(model: ModelPlan) -> Strategy:
    """Stages start to learn one after another from the top down, evenly between 0.1 and 0.3 of the budget."""
    step = (UNFREEZE_TO - UNFREEZE_FROM) / max(1, model.stages - 1)
    from_the_top = [round(UNFREEZE_FROM + step * index, 3) for index in range(model.stages)]
    return _from_pretrained("gradual", model, tuple(from_the_top[::-1]))


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
        evidence: What the frozen encoder knows of this data, if that was measured.
        requested: The user's choice out of ``STRATEGIES``, if any.
    """
    pretrained = model.weights.source != "none"
    helps, why_helps = pretraining_helps(evidence)
    if requested is not None:
        control = requested != "scratch" and not pretrained
        reason = f"asked for {requested}{f': {ON_RANDOM_WEIGHTS}' if control else ''}"
        return with_batchnorm_reason(model, STRATEGIES[requested](model), reason)
    if not pretrained:
        return scratch(model), "no pretrained weights: everything learns from the start"
    if not helps:
        return scratch(model), f"{why_helps}: everything learns from the start"
    reason = f"{why_helps}: gradual, which is never far from the best strategy where all were measured"
    return with_batchnorm_reason(model, gradual(model), reason)


def with_batchnorm_reason(model: ModelPlan, chosen: Strategy, reason: str) -> tuple[Strategy, str]:
    """A strategy with the reason for it, to which that for its BatchNorm is added; scratch has none to add.

    Args:
        model: The network.
        chosen: The strategy.
        reason: Why it was chosen.
    """
    if chosen == scratch(model):
        return chosen, reason
    return chosen, f"{reason}; {batchnorm(model, random_learn=chosen.batchnorm == 'trained')[1]}"


def pretraining_helps(evidence: TransferEvidence | None) -> tuple[bool, str]:
    """Whether to start pretrained: unless random weights are better at every stage, by more than chance.

    All stages together would be too strict: in one draw of cells they refused weights that do no harm (docs/log.md).

    Args:
        evidence: What was measured, if anything.
    """
    if evidence is None:
        return True, "the encoder was not tried on this data"
    bounds = [gain.mean + ERRORS * (gain.error or 0) for gain in evidence.gain]
    best = max(range(len(bounds)), key=lambda stage: evidence.gain[stage].mean)
    figures = (
        f"frozen features of stage {best}, where pretraining shows most, tell labels apart with a balanced accuracy of "
        f"{evidence.pretrained[best].mean:.3f}, those of random weights {evidence.random[best].mean:.3f} "
        f"({evidence.gain[best].text(signed=True)} on {evidence.cases} cases)"
    )
    return max(bounds) >= 0, figures


def batchnorm(model: ModelPlan, *, random_learn: bool) -> tuple[BatchNorm, str]:
    """Choose how the encoder's BatchNorm is treated.

    The source's statistics do not fit inflated kernels, which average along the slice axis and so lower every variance
    below what is stored. Neither keeping them nor training them was better beyond chance where it was tried
    (``bench/recipe.py``, ``bench/batchnorm.py``), so that one way does for all pretrained stages. Statistics of random
    weights are worth nothing once these have learned.

    Args:
        model: The network.
        random_learn: Whether stages learn that start from random weights.
    """
    if not entry(model.encoder).batchnorm:
        return "source", "the encoder has no BatchNorm"
    if random_learn:
        return "trained", "BatchNorm is trained in stages that start from random weights"
    return "recalibrated", "BatchNorm is re-estimated once on training patches and then kept"


def _from_pretrained(name: str, model: ModelPlan, start: tuple[float | None, ...]) -> Strategy:
    """All stages start from the weights that there are; of those that learn, the lower is the slower."""
    rates = [ENCODER_RATE * STAGE_DECAY**below_the_top for below_the_top in range(model.stages)][::-1]
    learn = any(each is not None for each in start)
    return Strategy(
        name=name,
        start=start,
        rate=tuple(0.0 if each is None else rate for each, rate in zip(start, rates, strict=True)),
        batchnorm=batchnorm(model, random_learn=learn and model.weights.source == "none")[0],
        pretrained_stages=_available(model),
    )


def _available(model: ModelPlan) -> int:
    """Number of stages for which there are pretrained weights."""
    return 0 if model.weights.source == "none" else model.stages
