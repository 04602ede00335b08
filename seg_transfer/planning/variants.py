"""Plans made of a plan: what starts pretrained, what learns and how long. Candidates of a race, and the scratch twin.

Each is a plan of its own with a hash of its own, so that it is trained, resumed and predicted with like any other.
"""

from __future__ import annotations

from seg_transfer.data.splits import Split
from seg_transfer.planning.plan import Plan, Reason, Weights
from seg_transfer.planning.reasons import show
from seg_transfer.planning.rules import optimization as training
from seg_transfer.planning.rules.strategy import SCRATCH
from seg_transfer.planning.strategy import Candidate


def with_candidate(plan: Plan, candidate: Candidate, reason: str) -> Plan:
    """A plan that trains in one way and without a race; scratch takes the pretrained weights away.

    Args:
        plan: Everything else is as it says.
        candidate: How to train.
        reason: Why so; replaces the plan's reasons for what is changed.
    """
    strategy, model = candidate.strategy, plan.model
    recipe = plan.recipe.model_copy(update={"strategy": strategy, "race": None})
    changed: dict[str, object] = {"recipe.strategy": strategy, "recipe.race": None}
    weights = starting_weights(model.weights, candidate)
    if weights != model.weights:
        model = model.model_copy(update={"weights": weights})
        changed["model.weights"] = weights
    reasons = tuple(
        Reason(field=each.field, choice=show(changed[each.field]), reason=reason) if each.field in changed else each
        for each in plan.reasons
    )
    return plan.model_copy(update={"model": model, "recipe": recipe, "reasons": reasons})


def starting_weights(weights: Weights, candidate: Candidate) -> Weights:
    """What a candidate takes of the pretrained weights: nothing, some stages, or what there is."""
    if candidate.strategy.kind == "scratch":
        return Weights(source="none")
    if candidate.pretrained_stages is not None:
        return weights.model_copy(update={"stages": candidate.pretrained_stages})
    return weights


def scratch_twin(plan: Plan) -> Plan:
    """The same plan from random weights: the control that says what the pretrained start is worth."""
    return with_candidate(plan, Candidate(strategy=SCRATCH), f"the from-scratch control of plan {plan.hash[:8]}")


def shortened(plan: Plan, split: Split, steps: int) -> Plan:
    """A plan of a single fold and so many steps, with the warm-up and the averaging that so short a training takes.

    Args:
        plan: Everything else is as it says.
        split: Cases to train on, and cases held out.
        steps: Optimizer steps.
    """
    recipe = plan.recipe.model_copy(
        update={
            "splits": (split,),
            "epochs": 1,
            "steps_per_epoch": steps,
            "time_budget": None,
            "warmup": max(plan.recipe.warmup, training.warmup(steps)[0]),
            "ema_decay": min(plan.recipe.ema_decay, training.ema_decay(steps)[0]),
        }
    )
    return plan.model_copy(update={"recipe": recipe})
