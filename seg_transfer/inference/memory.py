"""Memory of a prediction, estimated before anything is allocated."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seg_transfer.catalogue.encoders import entry
from seg_transfer.network.build import blank_network
from seg_transfer.planning.plan import ModelPlan
from seg_transfer.preprocessing.extent import position_maps
from seg_transfer.transfer.on_meta import on_meta

MOST_PER_VOXEL, PLENTY = 4096, 8
"""Bytes per voxel of a patch that no network of the catalogue needs (ConvNeXt-T 3,000, the others up to 1,250), and how
many windows of these have to fit so that nobody needs to know."""
WORKSPACE = 1.5
"""Memory of a forward pass over that of its feature maps: the libraries' buffers. Measured on a CPU in float32: 1.0 to
1.5 on windows of a million pixels, less on larger ones."""


def window_bytes(model: ModelPlan, channels: int, outputs: int, allowed: int) -> int:
    """Bytes that a network needs for one window of the plan's patch, beside its weights; at most so many.

    Where much more is allowed than any network needs, that is returned, since counting takes seconds.

    Args:
        model: The plan's model.
        channels: Image channels.
        outputs: Outputs of the network.
        allowed: Bytes that may be used.
    """
    most = MOST_PER_VOXEL * math.prod(model.patch) + 4 * entry(model.encoder).parameters  # some copy their weights
    return most if PLENTY * most <= allowed else counted_bytes(model, channels, outputs)


@lru_cache(maxsize=16)
def counted_bytes(model: ModelPlan, channels: int, outputs: int) -> int:
    """Bytes of one window; arguments as for :func:`window_bytes`.

    The network runs on tensors without data, and the sizes of those that are alive at a time are counted. torch imports
    its compiler for that.
    """
    with on_meta():
        network = blank_network(model, channels=channels, classes=outputs).eval()
    with torch.device("meta"):
        window = torch.empty(1, channels + position_maps(model), *model.patch)
        with torch.no_grad(), _LiveBytes() as live:
            network(window)
    logits = 4 * outputs * math.prod(model.patch)
    return int(WORKSPACE * live.most) + window.nbytes + 2 * logits  # probabilities, and their sum over mirrorings


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make, while they are alive.

    Attributes:
        most: The most at any time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = self._now = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: Sequence[Any] = (),
        keywords: Mapping[str, Any] | None = None,
    ) -> Any:
        result = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata  # views share it
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self._now += storage.nbytes()
            self.most = max(self.most, self._now)
            weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self._now -= self._sizes.pop(key, 0)
