"""Named choices that options and plan share."""

from __future__ import annotations

from typing import Literal

Configuration = Literal["2d", "2.5d", "3d"]
"""Input of the network: slices, stacks of slices, or volumes."""
StrategyName = Literal["frozen", "partial", "gradual", "finetune", "scratch"]
"""Transfer strategy: a key of ``STRATEGIES`` in planning/rules/strategy.py."""
Head = Literal["unet", "softmax", "svm", "bayes"]
"""Head on the encoder: a decoder that is trained, or a classifier of single voxels that is fitted."""
NormalizationKind = Literal["zscore", "clip_zscore", "minmax", "none"]
"""Scaling of a channel's intensities."""
Carry = Literal["encoder", "all"]
"""Part of an earlier model that is carried over: its encoder, or encoder and decoder."""
TrackerName = Literal["tensorboard", "mlflow", "wandb"]
"""Program that shows the progress of trainings."""
Precision = Literal["float32", "bfloat16"]
"""Precision of the network's operations; parameters are float32."""

LabelFormat = Literal["nii.gz", "mha", "nrrd", "seg.nrrd", "png", "tif", "ome.tif", "ome.zarr"]
"""Formats of label maps that can be asked for: endings without the dot."""

LARGEST_SEED = 2**32 - 1
"""Largest random seed that all generators accept."""
MOST_EPOCHS = 10**6
LONGEST_TIME = 366 * 86400
"""Longest training of a fold, in seconds: a year."""
