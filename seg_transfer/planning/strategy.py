"""The recipe's strategy: what of the encoder learns, and strategies that race for it on the data itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from seg_transfer.planning.fields import Fraction
from seg_transfer.util.records import Part


class Strategy(Part):
    """Which of the encoder's parameters learn, how fast and when."""

    kind: Literal["scratch", "frozen", "partial", "gradual", "finetune"]
    frozen_stages: int = Field(default=0, ge=0, description="partial: stages that stay frozen, from the finest")
    encoder_lr_ratio: Annotated[float, Field(ge=0, le=1)] = Field(description="encoder's rate over the decoder's")
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="each stage below the top learns at this times the rate of the stage above"
    )
    unfreeze_at: tuple[Fraction, ...] = Field(
        default=(), description="gradual: progress at which each stage starts to learn, from the top down"
    )
    batchnorm: Literal["source", "recalibrated", "trained"] = Field(
        description="encoder's BatchNorm: the source's statistics; re-estimated once and frozen; or trained where a "
        "stage learns, and re-estimated once before it does"
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Strategy:
        if (self.kind == "gradual") != bool(self.unfreeze_at):
            raise ValueError("unfreeze_at belongs to gradual, and only to it")
        if self.frozen_stages and self.kind != "partial":
            raise ValueError(f"frozen_stages belongs to partial, not to {self.kind}")
        if self.kind == "frozen" and self.batchnorm == "trained":
            raise ValueError("a frozen encoder cannot train its BatchNorm")
        return self

    @property
    def recalibrates(self) -> bool:
        """Whether BatchNorm's statistics are re-estimated before the first step; what trains from there need not be."""
        waits = self.kind in ("frozen", "partial", "gradual")
        return self.batchnorm == "recalibrated" or (self.batchnorm == "trained" and waits)


class Candidate(Part):
    """One way to start and to learn that takes part in a race."""

    strategy: Strategy
    pretrained_stages: int | None = Field(
        default=None,
        ge=1,
        description="stages that take the pretrained weights, from the finest; by default those of model.weights",
    )


class Race(Part):
    """Strategies trained for a short time on part of a fold's training cases, before one of them is trained on all."""

    share: Annotated[float, Field(gt=0, lt=1)] = Field(description="of a fold's budget, for all candidates together")
    challengers: tuple[Candidate, ...] = Field(
        min_length=1,
        description="compete with recipe.strategy, which wins unless one of them is better by more than chance; "
        "scratch starts from random weights",
    )
    held_out: tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...] = Field(
        description="of each fold and, last, of full: training cases that candidates do not train on and are scored on"
    )
