"""Plans derived from a plan, with another strategy or length: candidates of a race, and the from-scratch control.

Each has its own hash, and is trained, resumed and used like any other plan.
"""

from __future__ import annotations

from seg_transfer.data.splits import Split
from seg_transfer.planning.plan import ModelPlan, Plan, Reason, Weights
from seg_transfer.planning.reasons import choice_text
from seg_transfer.planning.rules import optimization
from seg_transfer.planning.rules.strategy import scratch
from seg_transfer.planning.strategy import Strategy


def with_strategy(plan: Plan, strategy: Strategy, reason: str) -> Plan:
    """The plan with another strategy and without a race.

    Args:
        plan: The plan to derive from.
        strategy: The other strategy; must fit the plan's model.
        reason: Replaces the reasons of the changed fields.
    """
    recipe = plan.recipe.model_copy(update={"strategy": strategy, "race": None})
    changed: dict[str, object] = {"recipe.strategy": strategy, "recipe.race": None}
    model = model_for(plan.model, strategy)
    if model != plan.model:
        changed["model.weights"] = model.weights
    reasons = tuple(
        Reason(field=old.field, choice=choice_text(changed[old.field]), reason=reason) if old.field in changed else old
        for old in plan.reasons
    )
    return plan.model_copy(update={"model": model, "recipe": recipe, "reasons": reasons})


def model_for(model: ModelPlan, strategy: Strategy) -> ModelPlan:
    """The model that a strategy trains: its ``weights`` are none where no stage starts pretrained."""
    if strategy.pretrained_stages > 0:
        return model
    return model.model_copy(update={"weights": Weights(source="none")})


def scratch_control(plan: Plan) -> Plan:
    """The same plan from random weights, which shows what pretraining gave."""
    return with_strategy(plan, scratch(plan.model), f"the from-scratch control of plan {plan.hash[:8]}")


def shortened(plan: Plan, split: Split, steps: int) -> Plan:
    """The plan with a single fold and fewer steps, and the warm-up and EMA decay for these.

    Args:
        plan: The plan to derive from.
        split: Training and held-out cases.
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
