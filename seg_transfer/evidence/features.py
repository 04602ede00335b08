"""What a frozen encoder says about single voxels: its features of every level, read as the plan's network reads.

2D and 2.5D read whole slices (and the stack around each), 3D reads patches of the plan's size; features of a voxel come
from the window in which it lies most in the middle. A map's features are interpolated linearly at the voxel. Map voxel
``j`` of a level of stride ``s`` is centred on voxel ``s * j`` of the input, plus ``(s - 1) / 2`` where kernels are as
wide as their stride (VGG's pools, ConvNeXt's patches): :func:`map_centres`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seg_transfer.inference.predictor import LAYOUTS, VOXELS_PER_CALL
from seg_transfer.inference.sliding_window import read_window, window_starts, written_shape
from seg_transfer.network.unet import UNet
from seg_transfer.planning.plan import ModelPlan
from seg_transfer.transfer.encoder import Encoder

Offset = tuple[float, float, float]


class FrozenEncoder(nn.Module):
    """An encoder in eval mode whose features are read at voxels.

    Example:
        >>> encoder = FrozenEncoder(network, model, reduced=True)
        >>> levels = encoder.at(image, samples.positions)  # one (n, channels) array per level

    Args:
        network: Its encoder and input scaling are used; the decoder is not.
        model: What the network was built from: configuration and patch.
        reduced: Compute in bfloat16.

    Attributes:
        channels: Channels of each level, finest first.
        strides: Stride ``(slice, u, v)`` of each level.
        centres: Of :func:`map_centres`.
    """

    def __init__(self, network: UNet, model: ModelPlan, *, reduced: bool) -> None:
        super().__init__()
        self.encoder, self._scaled = network.encoder, network.scaled
        self.model, self.reduced = model, reduced
        self.device = network.mean.device
        self.channels, self.strides = network.encoder.channels, network.encoder.strides
        self.centres = map_centres(network.encoder)
        self.requires_grad_(False).eval()
        for parameter in self.parameters():
            if parameter.ndim in LAYOUTS:
                parameter.data = parameter.data.contiguous(memory_format=LAYOUTS[parameter.ndim])

    def forward(self, windows: Tensor) -> list[Tensor]:
        """Maps ``(batch, channel, slice, u, v)`` of windows of that shape, one per level; 1 slice in 2D and 2.5D."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.reduced):
            maps = self.encoder(self._scaled(windows.to(self.device)))
        return [level if level.ndim == 5 else level.unsqueeze(2) for level in maps]

    def windows(self, shape: Sequence[int]) -> ModelPlan:
        """The model with the window that a case of ``(slice, u, v)`` is read in for its patch."""
        slices, *plane = self.model.patch
        if self.model.configuration == "3d":
            return self.model
        whole = (slices, max(plane[0], shape[1]), max(plane[1], shape[2]))
        return self.model.model_copy(update={"patch": whole})

    @torch.inference_mode()
    def at(
        self, image: NDArray[np.float32], positions: NDArray[np.integer], *, context: bool = False
    ) -> list[NDArray[np.float32]]:
        """Features at voxels; only windows that hold some of them are read.

        Args:
            image: ``(channel, slice, u, v)``, prepared as the plan says.
            positions: ``(n, 3)`` in ``(slice, u, v)``.
            context: Append each level's mean over the slice (in 3D: the patch), which says what else is in it.

        Returns:
            One ``(n, channels)`` array per level, finest first; twice as many channels with ``context``.
        """
        volume = torch.from_numpy(image)
        model = self.windows(image.shape[1:])
        written = written_shape(model)
        reach = model.patch[0] // 2 if model.configuration == "2.5d" else 0
        corners, which = _most_central(image.shape[1:], written, positions)
        batch = max(1, VOXELS_PER_CALL // math.prod(written))
        wide = 2 if context else 1
        found = [np.empty((len(positions), wide * channels), np.float32) for channels in self.channels]
        for first in range(0, len(corners), batch):
            some = corners[first : first + batch]
            mine = np.flatnonzero((which >= first) & (which < first + batch))
            windows = [read_window(volume, (s - reach, u, v), model.patch, repeats=reach > 0) for s, u, v in some]
            window = torch.from_numpy(which[mine] - first).to(self.device)
            local = torch.from_numpy(positions[mine] - corners[which[mine]]).to(self.device)
            for level, maps in enumerate(self(torch.stack(windows))):
                values = interpolate_at(maps, window, local, self.strides[level], self.centres[level])
                if context:
                    values = torch.cat([values, maps.float().mean((2, 3, 4))[window]], dim=1)
                found[level][mine] = values.cpu().numpy()
        return found


def interpolate_at(maps: Tensor, window: Tensor, local: Tensor, stride: Sequence[int], centre: Offset) -> Tensor:
    """Linear interpolation of maps at voxels; beyond the outermost map voxels the nearest one counts.

    Args:
        maps: ``(batch, channel, slice, u, v)``.
        window: Which of the batch each voxel is in, ``(n,)``.
        local: ``(n, 3)`` voxel in its window.
        stride: Of the map, ``(slice, u, v)``.
        centre: Where in the window the first map voxel is centred.

    Returns:
        ``(n, channel)`` float32.
    """
    last = maps.permute(0, 2, 3, 4, 1)
    lower, upper, share = [], [], []
    for axis, size in enumerate(last.shape[1:4]):
        place = ((local[:, axis] - centre[axis]) / stride[axis]).clamp(0, size - 1)
        lower.append(place.long())
        upper.append((lower[-1] + 1).clamp(max=size - 1))
        share.append(place.float() - lower[-1])
    total = torch.zeros(len(local), maps.shape[1], device=maps.device)
    for corner in itertools.product((False, True), repeat=3):
        weight = torch.ones(len(local), device=maps.device)
        index = [window]
        for axis, is_upper in enumerate(corner):
            weight = weight * (share[axis] if is_upper else 1 - share[axis])
            index.append(upper[axis] if is_upper else lower[axis])
        if weight.any():
            total += weight[:, None] * last[tuple(index)].float()
    return total


def map_centres(encoder: Encoder) -> list[Offset]:
    """Where in the input ``(slice, u, v)`` the first voxel of each level's map is centred.

    Odd kernels are centred on their voxel (``transfer/levels.py``); even ones are as wide as their stride and begin at
    it, so that they lie ``(kernel - 1) / 2`` of their input's voxels further.
    """
    found: list[Offset] = []
    centre, before = np.zeros(3), np.ones(3)
    for stage, strides in zip(encoder.level_modules(), encoder.strides, strict=True):
        shifts = [_shift(module) for module in stage.modules()]
        centre = centre + before * np.max(shifts, axis=0)  # branches of one level stride alike
        before = np.array(strides)
        found.append((float(centre[0]), float(centre[1]), float(centre[2])))
    return found


def _shift(module: nn.Module) -> list[float]:
    """By how many voxels of its input ``(slice, u, v)`` a module's first result lies behind the first voxel."""
    if not isinstance(module, nn.Conv2d | nn.Conv3d | nn.MaxPool2d | nn.MaxPool3d | nn.AvgPool2d | nn.AvgPool3d):
        return [0.0] * 3
    rank = 3 if isinstance(module, nn.Conv3d | nn.MaxPool3d | nn.AvgPool3d) else 2
    kernel, stride = (
        value if isinstance(value, tuple) else (value,) * rank for value in (module.kernel_size, module.stride)
    )
    shifts = [(k - 1) / 2 if k % 2 == 0 and s > 1 else 0.0 for k, s in zip(kernel, stride, strict=True)]
    return [0.0] * (3 - rank) + shifts


def _most_central(
    shape: Sequence[int], window: Sequence[int], positions: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Corners ``(m, 3)`` of the windows that are needed, and for each voxel the one in which it is most central."""
    nearest = []
    for axis, (size, length) in enumerate(zip(shape, window, strict=True)):
        starts = np.array(window_starts(size, length))
        middles = starts + (length - 1) / 2
        nearest.append(starts[np.abs(positions[:, axis, None] - middles).argmin(axis=1)])
    corners, which = np.unique(np.stack(nearest, axis=1), axis=0, return_inverse=True)
    return corners, which.reshape(-1)
