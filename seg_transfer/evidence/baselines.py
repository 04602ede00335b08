"""Baselines for a pretrained encoder's features: the intensity itself, and hand-crafted local filters.

The third baseline, the same encoder with random weights, is in ``frozen_encoders.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from seg_transfer.data.geometry import Box
from seg_transfer.network.linear_head import LinearHead, head_logits
from seg_transfer.planning.plan import Plan

SCALES = (1.0, 2.0, 4.0)
"""Standard deviations of the Gaussians: in voxels in-plane, the same length in mm along the slice axis."""


class ImageFeatures:
    """Features that need no network.

    Args:
        kind: ``raw``: the voxel's intensities. ``filters``: these, and at each scale and in each channel the Gaussian
            mean, the Gaussian's gradient magnitude and Laplacian, and the standard deviation under the Gaussian, as in
            trainable segmentation (Arganda-Carreras et al., Trainable Weka Segmentation, Bioinformatics 2017).
        plan: Spacing and configuration; in 2D a filter stays within its slice.

    Attributes:
        widths: Number of features, as one stage.
    """

    def __init__(self, kind: Literal["raw", "filters"], plan: Plan) -> None:
        self.kind = kind
        count = len(plan.data.channels)
        self.widths: tuple[int, ...] = (count if kind == "raw" else count * (1 + 4 * len(SCALES)),)
        slices, u, v = plan.data.spacing
        self._along_slices = 0.0 if plan.model.configuration == "2d" else math.sqrt(u * v) / slices

    def at(self, image: NDArray[np.float32], positions: NDArray[np.integer]) -> list[NDArray[np.float32]]:
        """Features ``(n, features)`` at voxels ``(n, 3)``, as one stage.

        Args:
            image: ``(channel, slice, u, v)``, preprocessed.
            positions: ``(n, 3)`` in ``(slice, u, v)``.
        """
        return [np.ascontiguousarray(self.maps(image)[(slice(None), *positions.T)].T)]

    def maps(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features ``(feature, slice, u, v)`` of a whole case."""
        if self.kind == "raw":
            return image
        return np.concatenate([self._filtered(channel) for channel in image])

    def slabs(self, image: NDArray[np.float32], heads: Sequence[LinearHead]) -> Iterator[tuple[Box, Tensor]]:
        """Box and logits ``(head, class, slice, u, v)`` of a whole case, in one part."""
        maps = torch.from_numpy(self.maps(image))[None]
        logits = head_logits([maps], heads, image.shape[1:], strides=[(1, 1, 1)], centres=[(0, 0, 0)])
        yield (slice(None), slice(None), slice(None)), torch.cat(logits)

    def _filtered(self, volume: NDArray[np.float32]) -> NDArray[np.float32]:
        maps = [volume]
        for scale in SCALES:
            sigma = (scale * self._along_slices, scale, scale)
            mean = ndimage.gaussian_filter(volume, sigma)
            square = ndimage.gaussian_filter(volume**2, sigma)
            maps += [
                mean,
                ndimage.gaussian_gradient_magnitude(volume, sigma),
                ndimage.gaussian_laplace(volume, sigma),
                np.sqrt(np.maximum(square - mean**2, 0)),
            ]
        return np.stack(maps)
