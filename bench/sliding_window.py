"""The sliding window: slab by slab beside the plain way and MONAI's: ``python bench/sliding_window.py [--pairs N]``.

The plain way holds the sums of the whole volume; pairs of runs alternate, and ``ratio`` is the median over the pairs of
slab by slab to plain. MONAI's is given our weights: its own are raised to at least 0.001 of the centre's, which at the
volume's border gives windows that see a voxel at their corner the same say as those that see it at their side. The
volume's size makes all choose the same windows. MONAI's cannot serve 2.5D: a stack goes in and one slice comes out.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor

from seg_transfer.inference.sliding_window import NetworkFn, join_slabs, predict_slabs
from seg_transfer.inference.windows import longest_axis, window_starts, written_shape
from seg_transfer.network.build import build_network, lay_channels_last
from seg_transfer.planning.plan import ModelPlan, Weights

SHAPE = (48, 128, 96)
PATCHES = {"2d": (1, 64, 64), "2.5d": (5, 64, 64), "3d": (32, 64, 64)}
CLASSES = 3


def gaussian(patch: tuple[int, ...]) -> Tensor:
    """Weight of every voxel of a window, as :func:`predict_slabs` has it."""
    s, u, v = (torch.exp(-32 * ((torch.arange(size) - (size - 1) / 2) / size) ** 2) for size in patch)
    return s[:, None, None] * u[:, None] * v


def slab_by_slab(scores: NetworkFn, volume: Tensor, model: ModelPlan, batch: int) -> Tensor:
    """What the package does, joined to one volume."""
    axis = longest_axis(SHAPE, [model])
    return join_slabs(predict_slabs(scores, volume, model, CLASSES, axis=axis, batch=batch), CLASSES, SHAPE, axis=axis)


@torch.inference_mode()
def plain(scores: NetworkFn, volume: Tensor, model: ModelPlan, batch: int) -> Tensor:
    """Sums for the whole volume, divided at the end."""
    written, reach = written_shape(model), model.patch[0] // 2 if model.configuration == "2.5d" else 0
    edges = torch.arange(-reach, volume.shape[1] + reach).clamp(0, volume.shape[1] - 1)
    padded = volume.index_select(1, edges) if reach else volume
    total, weights, weight = torch.zeros((CLASSES, *SHAPE)), torch.zeros(SHAPE), gaussian(written)
    corners = list(itertools.product(*map(window_starts, SHAPE, written)))
    for first in range(0, len(corners), batch):
        boxes = corners[first : first + batch]
        windows = torch.stack([padded[(slice(None), *_box(corner, model.patch))] for corner in boxes])
        for corner, window in zip(boxes, scores(windows), strict=True):
            total[(slice(None), *_box(corner, written))].add_(window * weight)
            weights[_box(corner, written)].add_(weight)
    return total / weights


def _box(corner: tuple[int, ...], size: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(start, start + length) for start, length in zip(corner, size, strict=True))


def seconds(function: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    volume = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(0))
    print(f"ResNet-18, three stages, bf16, volume {SHAPE}; CPU seconds on one thread, medians of {pairs}")
    for configuration, patch in PATCHES.items():
        model = ModelPlan(
            configuration=configuration,
            patch=patch,
            encoder="resnet18",
            weights=Weights(source="none"),
            stages=3,
            slice_strides=(1, 1, 2) if configuration == "3d" else (),
            input_mapping="as_is",
            decoder_channels=(16, 32, 64),
        )
        network, _ = build_network(model, channels=1, classes=CLASSES, seed=0, pretrained_stages=0)
        lay_channels_last(network.eval())

        def scores(windows: Tensor, network: torch.nn.Module = network) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return network(windows).float().softmax(1)

        def theirs(batch: int, patch: tuple[int, ...] = patch, scores: Callable = scores) -> Tensor:
            with torch.inference_mode():
                return sliding_window_inference(
                    volume[None], patch, batch, scores, overlap=0.5, roi_weight_map=gaussian(patch)
                )[0]

        for batch in (1, 4, 16):
            slab_by_slab(scores, volume, model, batch)
            ours, before, monai = [], [], []
            for _ in range(pairs):
                taken, result = seconds(partial(slab_by_slab, scores, volume, model, batch))
                ours.append(taken)
                taken, expected = seconds(partial(plain, scores, volume, model, batch))
                before.append(taken)
                if configuration != "2.5d":
                    taken, other = seconds(partial(theirs, batch))
                    monai.append(taken)
            ratio = statistics.median(a / b for a, b in zip(ours, before, strict=True))
            line = f"  {configuration:5} {batch:2} windows a call: slabs {statistics.median(ours):6.2f}"
            line += f"   plain {statistics.median(before):6.2f}   ratio {ratio:.3f}"
            line += f"   differ by {(result - expected).abs().max():.0e}"
            if monai:
                line += f"   MONAI {statistics.median(monai):6.2f}   differ by {(result - other).abs().max():.0e}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
