"""Transfer strategy: per stage when it starts to learn and how fast; and the race of strategies."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from seg_transfer.planning.fields import Fraction
from seg_transfer.util.records import Record


class Strategy(Record):
    """What each encoder stage starts from, when it starts to learn, and how fast; finest stage first."""

    name: str = Field(
        pattern=r"^[a-z0-9_-]+$", description="for messages and names of run folders; training does not read it"
    )
    start: tuple[Fraction | None, ...] = Field(
        min_length=1,
        description="per stage in use, from the finest: share of the budget at which it starts to learn; null: never",
    )
    rate: tuple[Fraction, ...] = Field(
        description="per stage in use, from the finest: learning rate over the decoder's; 0 where it never learns"
    )
    batchnorm: Literal["source", "recalibrated", "trained"] = Field(
        description="encoder's BatchNorm: the source's statistics; re-estimated once and frozen; or trained where a "
        "stage learns, and re-estimated once before it does"
    )
    pretrained_stages: int = Field(
        ge=0, description="stages that start from model.weights, from the finest; the others start from random weights"
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Strategy:
        stages = len(self.start)
        if len(self.rate) != stages:
            raise ValueError(f"rate has {len(self.rate)} entries, start has {stages}")
        for stage, (start, rate) in enumerate(zip(self.start, self.rate, strict=True)):
            if start is None and rate > 0:
                raise ValueError(f"stage {stage} never learns, but its rate is {rate:g} instead of 0")
        if self.frozen_stages == stages and self.batchnorm == "trained":
            raise ValueError("a frozen encoder cannot train its BatchNorm")
        if self.pretrained_stages > stages:
            raise ValueError(f"pretrained_stages is {self.pretrained_stages}, start has {stages} entries")
        return self

    @property
    def frozen_stages(self) -> int:
        """Number of stages, from the finest, before the first that learns."""
        return next((stage for stage, start in enumerate(self.start) if start is not None), len(self.start))

    @property
    def recalibrates(self) -> bool:
        """Whether BatchNorm's statistics are re-estimated before the first step.

        ``trained`` needs that only where a stage is frozen at first.
        """
        frozen_at_first = any(start != 0 for start in self.start)
        return self.batchnorm == "recalibrated" or (self.batchnorm == "trained" and frozen_at_first)

    def __str__(self) -> str:
        starts = ", ".join("never" if start is None else f"{start:g}" for start in self.start)
        rates = ", ".join(f"{rate:.3g}" for rate in self.rate)
        return (
            f"{self.name}: stages start at {starts}; rates {rates}; {self.pretrained_stages} of "
            f"{len(self.start)} pretrained; BatchNorm {self.batchnorm}"
        )


class Race(Record):
    """Strategies that are trained briefly on part of a fold's training cases, before the best is trained on all."""

    share: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="share of a fold's budget for all candidates together"
    )
    challengers: tuple[Strategy, ...] = Field(
        min_length=1,
        description="compete with recipe.strategy, which wins unless one of them is significantly better",
    )
    held_out: tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...] = Field(
        description="for each fold and, last, for full: training cases that candidates are scored on, not trained on"
    )
