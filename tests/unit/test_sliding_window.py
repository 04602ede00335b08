"""The sliding window: whatever the windows, a network that looks at single voxels must see every voxel once."""

from __future__ import annotations

import math

import pytest
import torch
from made_plans import model_plan
from torch import Tensor

from seg_transfer.inference.sliding_window import gaussian, predict_volume, window_corners

CASES = [
    ("2d", (1, 16, 16), (5, 40, 23)),
    ("2d", (1, 16, 16), (1, 9, 16)),
    ("2.5d", (3, 16, 16), (5, 9, 40)),
    ("2.5d", (5, 16, 16), (1, 20, 20)),
    ("3d", (4, 16, 16), (11, 40, 9)),
    ("3d", (8, 16, 16), (3, 9, 5)),
]


def voxelwise(windows: Tensor) -> Tensor:
    """Scores from the middle slice's (3D: every) voxel alone; in 2D and 2.5D one slice comes out."""
    return torch.cat([windows, 2 * windows, -windows], dim=1).softmax(dim=1)


def middle(windows: Tensor) -> Tensor:
    reach = windows.shape[2] // 2
    return voxelwise(windows[:, :, reach : reach + 1])


@pytest.mark.parametrize(("configuration", "patch", "shape"), CASES)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("tta_axes", [(), (0, 2)])
def test_a_voxelwise_network_sees_every_voxel(configuration, patch, shape, batch, tta_axes) -> None:
    volume = torch.randn((1, *shape), generator=torch.Generator().manual_seed(0))
    network = voxelwise if configuration == "3d" else middle
    found = predict_volume(network, volume, model_plan(configuration, patch), 3, batch=batch, tta_axes=tta_axes)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, voxelwise(volume[None])[0])


def test_a_stack_repeats_the_edge_slices() -> None:
    volume = torch.arange(4.0).reshape(1, 4, 1, 1).expand(1, 4, 8, 8)
    seen = []

    def network(windows: Tensor) -> Tensor:
        seen.extend(windows[:, 0, :, 0, 0].tolist())
        return windows.new_zeros((len(windows), 2, 1, 8, 8))

    predict_volume(network, volume, model_plan("2.5d", (5, 8, 8)), 2)
    assert seen == [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 3, 3]]


def test_a_volume_below_the_patch_is_padded_around_the_middle_with_zeros() -> None:
    volume = torch.arange(1.0, 4.0).reshape(1, 1, 3, 1).expand(1, 1, 3, 8)

    def network(windows: Tensor) -> Tensor:
        assert windows[0, 0, 0, :, 0].tolist() == [0, 1, 2, 3, 0, 0]
        return torch.cat([windows, -windows], dim=1)

    found = predict_volume(network, volume, model_plan("2d", (1, 6, 8)), 2)
    torch.testing.assert_close(found, torch.cat([volume, -volume]))


def test_mirroring_averages_scores() -> None:
    """A network that finds class 1 in the first row alone finds it half in both outer rows when mirrored."""

    def network(windows: Tensor) -> Tensor:
        scores = torch.zeros((len(windows), 2, *windows.shape[2:]))
        scores[:, 0, :, 1:] = 1
        scores[:, 1, :, 0] = 1
        return scores

    volume, model = torch.zeros((1, 1, 8, 8)), model_plan("2d", (1, 8, 8))
    plain = predict_volume(network, volume, model, 2)
    mirrored = predict_volume(network, volume, model, 2, tta_axes=(1, 2))
    torch.testing.assert_close(plain[1, 0, :, 3], torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0]))
    torch.testing.assert_close(mirrored[1, 0, :, 3], torch.tensor([0.5, 0, 0, 0, 0, 0, 0, 0.5]))


def test_windows_are_mirrored_in_the_axes_of_the_plan() -> None:
    calls: list[Tensor] = []

    def network(windows: Tensor) -> Tensor:
        calls.append(windows.clone())
        return torch.cat([windows, windows], dim=1)

    volume = torch.randn((1, 4, 8, 8))
    predict_volume(network, volume, model_plan("3d", (4, 8, 8)), 2, tta_axes=(0, 2))
    for call, dims in zip(calls, [(), (2,), (4,), (2, 4)], strict=True):
        torch.testing.assert_close(call, volume[None].flip(dims))


def test_the_centre_of_a_window_outweighs_its_border() -> None:
    """Where two windows disagree, the blend follows the ratio of their Gaussian weights."""

    def network(windows: Tensor) -> Tensor:
        network.calls += 1
        probability = torch.tensor([1e-6, 1 - 1e-6][network.calls - 1])
        return torch.stack([1 - probability, probability]).view(1, 2, 1, 1, 1).expand(1, 2, 1, 8, 16)

    network.calls = 0
    found = predict_volume(network, torch.zeros((1, 1, 8, 24)), model_plan("2d", (1, 8, 16)), 2)
    weight = [math.exp(-0.5 * ((x - 7.5) / 2) ** 2) for x in range(16)]
    expected = [0.0] * 8 + [weight[x] / (weight[x] + weight[x + 8]) for x in range(8)] + [1.0] * 8
    torch.testing.assert_close(found[1, 0, 4], torch.tensor(expected), atol=1e-5, rtol=0)


def test_weights_and_corners() -> None:
    weight = gaussian((1, 8, 9))
    assert weight.shape == (1, 8, 9)
    torch.testing.assert_close(weight, weight.flip((1, 2)))
    assert weight.min() > 0
    assert window_corners((1, 16, 40), (1, 16, 16)) == [(0, 0, 0), (0, 0, 8), (0, 0, 16), (0, 0, 24)]
    assert window_corners((3, 16, 17), (1, 16, 16)) == [(s, 0, v) for s in range(3) for v in (0, 1)]
