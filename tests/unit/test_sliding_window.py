"""The sliding window: whatever the windows, a network that looks at single voxels must see every voxel once."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from made_plans import model_plan
from torch import Tensor

from seg_transfer.inference.sliding_window import NetworkFn, join_slabs, mean_slabs, predict_slabs
from seg_transfer.inference.windows import longest_axis, window_starts, written_shape
from seg_transfer.planning.plan import ModelPlan

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


def whole_volume(
    network: NetworkFn,
    volume: Tensor,
    model: ModelPlan,
    outputs: int,
    *,
    tta_axes: tuple[int, ...] = (),
    batch: int = 1,
) -> Tensor:
    """Probabilities ``(output, slice, u, v)`` of a whole volume."""
    axis = longest_axis(volume.shape[1:], [model])
    slabs = predict_slabs(network, volume, model, outputs, axis=axis, tta_axes=tta_axes, batch=batch)
    return join_slabs(slabs, outputs, volume.shape[1:], axis=axis)


def gaussian(patch: tuple[int, int, int]) -> Tensor:
    """Weight of every voxel of a window: along each axis sigma is an eighth of the size; 1 for an axis of one voxel."""
    s, u, v = (torch.exp(-32 * ((torch.arange(size) - (size - 1) / 2) / size) ** 2) for size in patch)
    return s[:, None, None] * u[:, None] * v


def middle(windows: Tensor) -> Tensor:
    reach = windows.shape[2] // 2
    return voxelwise(windows[:, :, reach : reach + 1])


@pytest.mark.parametrize(("configuration", "patch", "shape"), CASES)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("tta_axes", [(), (0, 2)])
def test_a_voxelwise_network_sees_every_voxel(configuration, patch, shape, batch, tta_axes) -> None:
    volume = torch.randn((1, *shape), generator=torch.Generator().manual_seed(0))
    network = voxelwise if configuration == "3d" else middle
    found = whole_volume(network, volume, model_plan(configuration, patch), 3, batch=batch, tta_axes=tta_axes)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, voxelwise(volume[None])[0])


def test_a_stack_repeats_the_edge_slices() -> None:
    volume = torch.arange(4.0).reshape(1, 4, 1, 1).expand(1, 4, 8, 8)
    seen = []

    def network(windows: Tensor) -> Tensor:
        seen.extend(windows[:, 0, :, 0, 0].tolist())
        return windows.new_zeros((len(windows), 2, 1, 8, 8))

    whole_volume(network, volume, model_plan("2.5d", (5, 8, 8)), 2)
    assert seen == [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 3, 3]]


def test_a_volume_below_the_patch_is_padded_around_the_middle_with_zeros() -> None:
    volume = torch.arange(1.0, 4.0).reshape(1, 1, 3, 1).expand(1, 1, 3, 8)

    def network(windows: Tensor) -> Tensor:
        assert windows[0, 0, 0, :, 0].tolist() == [0, 1, 2, 3, 0, 0]
        return torch.cat([windows, -windows], dim=1)

    found = whole_volume(network, volume, model_plan("2d", (1, 6, 8)), 2)
    torch.testing.assert_close(found, torch.cat([volume, -volume]))


def test_mirroring_averages_probabilities() -> None:
    """A network that finds class 1 in the first row alone finds it half in both outer rows when mirrored."""

    def network(windows: Tensor) -> Tensor:
        probabilities = torch.zeros((len(windows), 2, *windows.shape[2:]))
        probabilities[:, 0, :, 1:] = 1
        probabilities[:, 1, :, 0] = 1
        return probabilities

    volume, model = torch.zeros((1, 1, 8, 8)), model_plan("2d", (1, 8, 8))
    plain = whole_volume(network, volume, model, 2)
    mirrored = whole_volume(network, volume, model, 2, tta_axes=(1, 2))
    torch.testing.assert_close(plain[1, 0, :, 3], torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0]))
    torch.testing.assert_close(mirrored[1, 0, :, 3], torch.tensor([0.5, 0, 0, 0, 0, 0, 0, 0.5]))


def test_windows_are_mirrored_in_the_axes_of_the_plan() -> None:
    calls: list[Tensor] = []

    def network(windows: Tensor) -> Tensor:
        calls.append(windows.clone())
        return torch.cat([windows, windows], dim=1)

    volume = torch.randn((1, 4, 8, 8))
    whole_volume(network, volume, model_plan("3d", (4, 8, 8)), 2, tta_axes=(0, 2))
    for call, dims in zip(calls, [(), (2,), (4,), (2, 4)], strict=True):
        torch.testing.assert_close(call, volume[None].flip(dims))


def test_the_centre_of_a_window_outweighs_its_border() -> None:
    """Where two windows disagree, the blend follows the ratio of their Gaussian weights."""

    def network(windows: Tensor) -> Tensor:
        network.calls += 1
        probability = torch.tensor([1e-6, 1 - 1e-6][network.calls - 1])
        return torch.stack([1 - probability, probability]).view(1, 2, 1, 1, 1).expand(1, 2, 1, 8, 16)

    network.calls = 0
    found = whole_volume(network, torch.zeros((1, 1, 8, 24)), model_plan("2d", (1, 8, 16)), 2)
    weight = [math.exp(-0.5 * ((x - 7.5) / 2) ** 2) for x in range(16)]
    expected = [0.0] * 8 + [weight[x] / (weight[x] + weight[x + 8]) for x in range(8)] + [1.0] * 8
    torch.testing.assert_close(found[1, 0, 4], torch.tensor(expected), atol=1e-5, rtol=0)


def test_corners() -> None:
    assert window_starts(40, 16) == [0, 8, 16, 24]
    assert window_starts(17, 16) == [0, 1]
    assert window_starts(3, 1) == [0, 1, 2]
    assert window_starts(16, 16) == [0]
    assert window_starts(5, 8) == [-1]


def neighbourhood(windows: Tensor, model: ModelPlan) -> Tensor:
    """Probabilities of four outputs that depend on the place in the window, so that every overlap matters."""
    kernel = torch.randn((4, 1, 3, 3, 3), generator=torch.Generator().manual_seed(1))
    probabilities = torch.nn.functional.conv3d(windows, kernel, padding=1).softmax(dim=1)
    return probabilities if model.configuration == "3d" else probabilities[:, :, windows.shape[2] // 2 :][:, :, :1]


def in_memory(volume: Tensor, model: ModelPlan, tta_axes: tuple[int, ...]) -> Tensor:
    """The plain way, of a volume at least as large as the patch: sums for all of it, one window after the other."""
    written = written_shape(model)
    reach = model.patch[0] // 2 if model.configuration == "2.5d" else 0
    edge = [0] * reach + list(range(volume.shape[1])) + [volume.shape[1] - 1] * reach
    total, weights = torch.zeros((4, *volume.shape[1:])), torch.zeros(volume.shape[1:])
    flips = [flip for n in range(len(tta_axes) + 1) for flip in itertools.combinations(tta_axes, n)]
    for s, u, v in itertools.product(*map(window_starts, volume.shape[1:], written)):
        window = volume[:, edge[s : s + model.patch[0]], u : u + written[1], v : v + written[2]][None]
        for flip in flips:
            dims = [axis + 2 for axis in flip]
            probabilities = neighbourhood(window.flip(dims), model).flip(dims)[0]
            total[:, s : s + written[0], u : u + written[1], v : v + written[2]] += probabilities * gaussian(written)
        weights[s : s + written[0], u : u + written[1], v : v + written[2]] += gaussian(written)
    return total / weights / len(flips)


@pytest.mark.parametrize(
    ("configuration", "patch", "shape"),
    [
        ("2d", (1, 16, 16), (7, 20, 29)),
        ("2d", (1, 16, 16), (1, 20, 70)),
        ("2.5d", (3, 16, 16), (6, 33, 16)),
        ("3d", (4, 16, 16), (21, 18, 16)),
        ("3d", (8, 16, 8), (9, 16, 37)),
        ("3d", (8, 8, 16), (8, 50, 17)),
    ],
)
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("tta_axes", [(), (0, 2)])
def test_slab_by_slab_equals_the_plain_way(configuration, patch, shape, batch, tta_axes) -> None:
    volume = torch.randn((1, *shape), generator=torch.Generator().manual_seed(0))
    model = model_plan(configuration, patch)
    expected = in_memory(volume, model, tta_axes)
    for axis in range(3):
        slabs = predict_slabs(
            lambda windows: neighbourhood(windows, model), volume, model, 4, axis=axis, batch=batch, tta_axes=tta_axes
        )
        end, parts = 0, []
        for start, slab in slabs:
            assert start == end
            end += slab.shape[axis + 1]
            parts.append(slab.clone())
        torch.testing.assert_close(torch.cat(parts, dim=axis + 1), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("patch", "shape", "axis"),
    [
        ((8, 16, 16), (40, 40, 40), 0),
        ((8, 16, 16), (16, 16, 16), 0),
        ((8, 16, 16), (10, 20, 40), 2),
        ((16, 8, 16), (10, 20, 16), 1),
        ((8, 8, 8), (16, 16, 17), 2),
    ],
)
def test_sums_need_no_more_than_two_bytes_an_output_and_voxel(patch, shape, axis) -> None:
    """Of a volume that is twice as long as the patch along an axis; what is held is what the slabs are views of."""
    model = model_plan("3d", patch)
    assert longest_axis(shape, [model]) == axis
    slabs = predict_slabs(
        lambda windows: windows.expand(-1, 25, -1, -1, -1), torch.zeros((1, *shape)), model, 25, axis=axis
    )
    sizes = {slab.untyped_storage().nbytes() for _, slab in slabs}
    assert sizes == {4 * 25 * patch[axis] * math.prod(shape) // shape[axis]}
    assert max(sizes) <= 2 * 25 * math.prod(shape)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_mean_of_slabs_of_different_depth_equals_the_plain_way(axis: int) -> None:
    volume = torch.randn((1, 21, 18, 37), generator=torch.Generator().manual_seed(0))
    models = [model_plan("2d", (1, 16, 16)), model_plan("3d", (8, 16, 8)), model_plan("2.5d", (3, 12, 16))]
    expected = torch.stack([in_memory(volume, model, ()) for model in models]).mean(dim=0)
    streams = [
        predict_slabs(partial(neighbourhood, model=model), volume, model, 4, axis=axis, batch=2) for model in models
    ]
    end, parts = 0, []
    for start, slab in mean_slabs(streams, axis=axis):
        assert start == end
        end += slab.shape[axis + 1]
        parts.append((start, slab.clone()))
    assert len(parts) > 2
    torch.testing.assert_close(join_slabs(parts, 4, volume.shape[1:], axis=axis), expected, atol=1e-6, rtol=0)


def test_several_models_go_along_the_axis_where_their_windows_are_short_together() -> None:
    thick, thin = model_plan("3d", (32, 16, 16)), model_plan("2d", (1, 64, 64))
    assert [longest_axis((64, 64, 64), models) for models in ([thick], [thin], [thick, thin])] == [1, 0, 0]
