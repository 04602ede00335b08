"""Features of single voxels from every stage of a frozen encoder, read in windows like the network's patches.

2D and 2.5D read whole slices (with their neighbours), 3D reads patches of the plan's size. Features of a voxel come
from the window whose centre is nearest, by linear interpolation of the map. Map voxel ``j`` of a stage of stride ``s``
is centred on voxel ``s * j`` of the input, plus ``(s - 1) / 2`` where kernels are as wide as their stride (VGG's pools,
ConvNeXt's patches): :func:`~seg_transfer.transfer.centres.map_centres`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seg_transfer.data.geometry import Box
from seg_transfer.inference.sliding_window import predict_slabs, read_window
from seg_transfer.inference.windows import VOXELS_PER_CALL, longest_axis, window_starts, written_shape
from seg_transfer.network.build import lay_channels_last
from seg_transfer.network.encoder_network import EncoderNetwork
from seg_transfer.network.linear_head import LinearHead, head_logits
from seg_transfer.planning.plan import ModelPlan
from seg_transfer.transfer.centres import Offset, map_centres


class FrozenEncoder(nn.Module):
    """An encoder in eval mode whose features are read at voxels.

    Example:
        >>> encoder = FrozenEncoder(network, model, reduced=True)
        >>> stages = encoder.at(image, samples.positions)  # one (n, channels) array per stage

    Args:
        network: Network whose encoder and input scaling are used.
        model: The plan's model part that the network was built from.
        reduced: Whether to compute in bfloat16.
        context: Whether to append to each stage's features their mean over the slice (in 3D: the patch), as a
            description of the surroundings.
        whole_slices: Whether 2D and 2.5D read whole slices; otherwise patches of the plan's size, as prediction does.

    Attributes:
        widths: Number of features of each stage, finest first: its channels, twice those with ``context``.
        strides: Stride ``(slice, u, v)`` of each stage.
        centres: Of :func:`map_centres`.
    """

    def __init__(
        self,
        network: EncoderNetwork,
        model: ModelPlan,
        *,
        reduced: bool,
        context: bool = False,
        whole_slices: bool = True,
    ) -> None:
        super().__init__()
        self.encoder, self._scaled = network.encoder, network.scaled
        self.model, self.reduced, self.context, self.whole_slices = model, reduced, context, whole_slices
        self.device, self.strides = network.mean.device, network.encoder.strides
        self.widths = tuple((2 if context else 1) * channels for channels in network.encoder.channels)
        self.centres = map_centres(network.encoder)
        self.requires_grad_(False).eval()
        lay_channels_last(self)

    def forward(self, windows: Tensor) -> list[Tensor]:
        """Maps ``(batch, channel, slice, u, v)`` of windows of that shape, one per stage; 1 slice in 2D and 2.5D."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.reduced):
            maps = self.encoder(self._scaled(windows.to(self.device)))
        return [stage if stage.ndim == 5 else stage.unsqueeze(2) for stage in maps]

    def windows(self, shape: Sequence[int]) -> ModelPlan:
        """The model, with its patch enlarged to the window in which a case of shape ``(slice, u, v)`` is read."""
        slices, *plane = self.model.patch
        if self.model.configuration == "3d" or not self.whole_slices:
            return self.model
        whole = (slices, max(plane[0], shape[1]), max(plane[1], shape[2]))
        return self.model.model_copy(update={"patch": whole})

    @torch.inference_mode()
    def at(self, image: NDArray[np.float32], positions: NDArray[np.integer]) -> list[NDArray[np.float32]]:
        """Features at voxels; only windows with at least one of them are read.

        Args:
            image: ``(channel, slice, u, v)``, preprocessed.
            positions: ``(n, 3)`` in ``(slice, u, v)``.

        Returns:
            One ``(n, features)`` array per stage, finest first.
        """
        volume = torch.from_numpy(image)
        model = self.windows(image.shape[1:])
        written = written_shape(model)
        reach = model.patch[0] // 2 if model.configuration == "2.5d" else 0
        corners, window_of = _most_central(image.shape[1:], written, positions)
        batch = max(1, VOXELS_PER_CALL // math.prod(written))
        features = [np.empty((len(positions), width), np.float32) for width in self.widths]
        for first in range(0, len(corners), batch):
            in_batch = np.flatnonzero((window_of >= first) & (window_of < first + batch))
            windows = [
                read_window(volume, (s - reach, u, v), model.patch, repeats=reach > 0)
                for s, u, v in corners[first : first + batch]
            ]
            window = torch.from_numpy(window_of[in_batch] - first).to(self.device)
            local = torch.from_numpy(positions[in_batch] - corners[window_of[in_batch]]).to(self.device)
            for stage, maps in enumerate(self(torch.stack(windows))):
                values = interpolate_at(maps, window, local, self.strides[stage], self.centres[stage])
                if self.context:
                    values = torch.cat([values, maps.float().mean((2, 3, 4))[window]], dim=1)
                features[stage][in_batch] = values.cpu().numpy()
        return features

    def slabs(self, image: NDArray[np.float32], heads: Sequence[LinearHead]) -> Iterator[tuple[Box, Tensor]]:
        """Logits of linear heads at every voxel of a case, box by box.

        Args:
            image: ``(channel, slice, u, v)``, preprocessed.
            heads: At least one, all with the same number of classes.

        Yields:
            The box, and its logits ``(head, class, slice, u, v)`` float32 on the CPU, valid until the next box.
        """
        shape = image.shape[1:]
        model = self.windows(shape)
        written, axis = written_shape(model), longest_axis(shape, [model])

        def logits(windows: Tensor) -> Tensor:
            maps = map(self._with_context, self(windows)) if self.context else self(windows)
            return torch.cat(head_logits(maps, heads, written, strides=self.strides, centres=self.centres), dim=1)

        outputs, batch = sum(len(head.bias) for head in heads), max(1, VOXELS_PER_CALL // math.prod(written))
        for start, slab in predict_slabs(logits, torch.from_numpy(image), model, outputs, axis=axis, batch=batch):
            box = [slice(None)] * 3
            box[axis] = slice(start, start + slab.shape[axis + 1])
            yield (box[0], box[1], box[2]), slab.unflatten(0, (len(heads), -1))

    def _with_context(self, maps: Tensor) -> Tensor:
        """Maps with their means appended as features."""
        return torch.cat([maps, maps.mean((2, 3, 4), keepdim=True).expand_as(maps)], dim=1)


def interpolate_at(maps: Tensor, window: Tensor, local: Tensor, stride: Sequence[int], centre: Offset) -> Tensor:
    """Interpolate maps linearly at voxels; beyond the outermost map voxels the nearest one is taken.

    Args:
        maps: ``(batch, channel, slice, u, v)``.
        window: Index in the batch of each voxel's window, ``(n,)``.
        local: Position of each voxel in its window, ``(n, 3)``.
        stride: Stride of the map, ``(slice, u, v)``.
        centre: Position in the window of the first map voxel's centre.

    Returns:
        ``(n, channel)`` float32.
    """
    channels_last = maps.permute(0, 2, 3, 4, 1)
    lower, upper, share = [], [], []
    for axis, size in enumerate(maps.shape[2:]):
        position = ((local[:, axis] - centre[axis]) / stride[axis]).clamp(0, size - 1)
        lower.append(position.long())
        upper.append((lower[-1] + 1).clamp(max=size - 1))
        share.append(position.float() - lower[-1])
    total = torch.zeros(len(local), maps.shape[1], device=maps.device)
    for corner in itertools.product((False, True), repeat=3):
        weight = torch.ones(len(local), device=maps.device)
        index = [window]
        for axis, is_upper in enumerate(corner):
            weight = weight * (share[axis] if is_upper else 1 - share[axis])
            index.append(upper[axis] if is_upper else lower[axis])
        if weight.any():
            total += weight[:, None] * channels_last[tuple(index)].float()
    return total


def window_cells(shape: Sequence[int], window: Sequence[int]) -> list[Box]:
    """The parts of a case whose voxels are most central in the same window.

    Args:
        shape: Of the case, ``(slice, u, v)``.
        window: Size of the windows.
    """
    sides = []
    for size, length in zip(shape, window, strict=True):
        middles = np.array(window_starts(size, length)) + (length - 1) / 2
        cuts = [0, *(np.floor((middles[:-1] + middles[1:]) / 2).astype(int) + 1).tolist(), size]
        sides.append([slice(start, stop) for start, stop in itertools.pairwise(cuts) if start < stop])
    return [(along, u, v) for along, u, v in itertools.product(*sides)]


def _most_central(
    shape: Sequence[int], window: Sequence[int], positions: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Corners ``(m, 3)`` of the windows to read, and for each voxel the index of that in which it is most central."""
    nearest = []
    for axis, (size, length) in enumerate(zip(shape, window, strict=True)):
        starts = np.array(window_starts(size, length))
        middles = starts + (length - 1) / 2
        nearest.append(starts[np.abs(positions[:, axis, None] - middles).argmin(axis=1)])
    corners, window_of = np.unique(np.stack(nearest, axis=1), axis=0, return_inverse=True)
    return corners, window_of.reshape(-1)
