"""Plans derived from a plan: another strategy, another length. Candidates of a race, and the from-scratch control.

Each is a plan of its own with a hash of its own, so that it is trained, resumed and predicted with like any other.
"""

from __future__ import annotations

from seg_transfer.data.splits import Split
from seg_transfer.planning.plan import ModelPlan, Plan, Reason, Weights
from seg_transfer.planning.reasons import show
from seg_transfer.planning.rules import optimization
from seg_transfer.planning.rules.strategy import scratch
from seg_transfer.planning.strategy import Strategy


def with_strategy(plan: Plan, strategy: Strategy, reason: str) -> Plan:
    """A plan that trains with another strategy and without a race.

    Args:
        plan: Everything else is as it says.
        strategy: How to train; must fit the plan's model.
        reason: Why so; replaces the plan's reasons for what is changed.
    """
    recipe = plan.recipe.model_copy(update={"strategy": strategy, "race": None})
    changed: dict[str, object] = {"recipe.strategy": strategy, "recipe.race": None}
    model = model_for(plan.model, strategy)
    if model != plan.model:
        changed["model.weights"] = model.weights
    reasons = tuple(
        Reason(field=each.field, choice=show(changed[each.field]), reason=reason) if each.field in changed else each
        for each in plan.reasons
    )
    return plan.model_copy(update={"model": model, "recipe": recipe, "reasons": reasons})


def model_for(model: ModelPlan, strategy: Strategy) -> ModelPlan:
    """The model that a strategy trains: ``model.weights`` names no weights where no stage starts from them.

    Args:
        model: With the weights that there are.
        strategy: Says how many stages take them.
    """
    if strategy.pretrained_stages > 0:
        return model
    return model.model_copy(update={"weights": Weights(source="none")})


def scratch_control(plan: Plan) -> Plan:
    """The same plan from random weights: the control that says what the pretrained start is worth."""
    return with_strategy(plan, scratch(plan.model), f"the from-scratch control of plan {plan.hash[:8]}")


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
            "warmup": max(plan.recipe.warmup, optimization.warmup(steps)[0]),
            "ema_decay": min(plan.recipe.ema_decay, optimization.ema_decay(steps)[0]),
        }
    )
    return plan.model_copy(update={"recipe": recipe})
