"""The named choices that options and plan share."""

from __future__ import annotations

from typing import Literal

Configuration = Literal["2d", "2.5d", "3d"]
"""What the network reads: slices, stacks of slices, or volumes."""
StrategyName = Literal["frozen", "partial", "gradual", "finetune", "scratch"]
"""What of the encoder learns, and when; a key of ``STRATEGIES`` in planning/rules/strategy.py."""
Head = Literal["unet", "softmax", "svm", "bayes"]
"""What reads the encoder's features: a decoder that is trained, or a classifier of single voxels that is fitted."""
NormalizationKind = Literal["zscore", "clip_zscore", "minmax", "none"]
"""How intensities of a channel are scaled."""
Carry = Literal["encoder", "all"]
"""What of an earlier model is taken over: its encoder, or encoder and decoder."""

LARGEST_SEED = 2**32 - 1
"""Largest random seed that every generator in use accepts."""
