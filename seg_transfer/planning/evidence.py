"""What was measured on the data about transfer; typed, and without torch, so that plans can hold it.

Everything per level has one entry for each level of the encoder in use, finest first.
"""

from __future__ import annotations

from pydantic import Field

from seg_transfer.planning.part import Part


class GradientEvidence(Part):
    """What the loss asks of each level once the decoder has learned a little on the frozen encoder."""

    steps: int = Field(ge=0, description="steps of the decoder alone before gradients were taken")
    batches: int = Field(ge=1, description="in each half of the cases")
    loss: float = Field(description="mean over the batches of both halves")
    relative_norm: tuple[float, ...] = Field(
        description="2-norm of the mean gradient over that of the parameters, of all that would learn together; large: "
        "the level wants to change (arXiv 2210.11466)"
    )
    agreement: tuple[float, ...] = Field(
        description="cosine between the gradients of two halves of the cases, -1 to 1; near 0: what a level would "
        "learn from some cases is of no use to the others"
    )


class ScoreEvidence(Part):
    """How well each level's frozen features tell the labels apart, without training anything.

    Scores of different levels have different widths behind them: compare encoders at one level, not levels.
    """

    cases: int = Field(ge=1)
    voxels: int = Field(ge=1, description="sampled, in all cases together")
    h_score: tuple[float, ...] = Field(description="shrunk H-score; 0 to labels - 1, more is better (arXiv 2110.06893)")
    logme: tuple[float, ...] = Field(description="log evidence per voxel of a linear model; more is better")
    cc_fv: tuple[float, ...] | None = Field(
        description="log of feature variety over class consistency, more is better (arXiv 2307.11958); null where no "
        "label is in two cases"
    )


class StatisticsEvidence(Part):
    """How far this data's features lie from what the encoder's BatchNorm has stored; a guard against odd inputs."""

    side: int = Field(ge=1, description="slices were resized to this side, at which the encoder was trained")
    slices: int = Field(ge=1, description="network inputs measured: slices, stacks or blocks of slices")
    distance: tuple[float | None, ...] = Field(
        description="mean over channels of log(1 + J), J the symmetric Kullback-Leibler divergence between Gaussians "
        "with the stored and the measured mean and variance; null in levels without BatchNorm, or of random weights"
    )
