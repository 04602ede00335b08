"""Features at voxels: the network's own maps, at the right place, read in the windows that training reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_plans import data_plan, model_plan, plan

from seg_transfer.evidence.features import FrozenEncoder, interpolate_at
from seg_transfer.evidence.frozen_encoders import frozen_encoder, probed_model
from seg_transfer.network.linear_head import LinearHead
from seg_transfer.planning.plan import ModelPlan, Plan
from seg_transfer.transfer.centres import map_centres
from seg_transfer.transfer.encoder import Encoder

pytestmark = pytest.mark.usefixtures("one_thread")
PATCHES = {"2d": (1, 24, 32), "2.5d": (3, 24, 32), "3d": (8, 24, 32)}


def made_plan(configuration: str, **model: object) -> Plan:
    return plan(data_plan(), model_plan(configuration, PATCHES[configuration], **model))


def made_encoder(made: Plan, model: ModelPlan | None = None) -> FrozenEncoder:
    return frozen_encoder(made, model or made.model, seed=0, device="cpu")


def image_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("configuration", ["2d", "2.5d", "3d"])
def test_at_map_voxels_they_are_the_networks_own(configuration: str) -> None:
    encoder = made_encoder(made_plan(configuration, slice_strides=(1, 2) if configuration == "3d" else ()))
    image = image_of(1, 8, 24, 32)
    positions = np.array([[4, 8, 12], [4, 20, 28], [0, 4, 0], [7, 16, 4]])
    volume = torch.from_numpy(image)
    for stage, found in enumerate(encoder.at(image, positions)):
        for (s, u, v), features in zip(positions.tolist(), found, strict=True):
            if configuration == "3d":
                strides = encoder.strides[stage]
                if s % strides[0]:
                    continue
                expected = encoder(volume[None])[stage][0, :, s // strides[0], u // strides[1], v // strides[2]]
            else:
                stack = [min(max(k, 0), 7) for k in (range(s - 1, s + 2) if configuration == "2.5d" else [s])]
                maps = encoder(volume[None, :, stack])[stage]
                expected = maps[0, :, 0, u // encoder.strides[stage][1], v // encoder.strides[stage][2]]
            assert np.allclose(features, expected.numpy(), atol=1e-5)


def test_between_map_voxels_they_are_linear() -> None:
    strides, centre = (1, 4, 8), (0.0, 1.5, 0.0)
    s, u, v = torch.meshgrid(torch.arange(2.0), torch.arange(5.0), torch.arange(4.0), indexing="ij")
    maps = torch.stack([s, 4 * u + 1.5, 8 * v])[None].repeat(2, 1, 1, 1, 1)
    maps[1] += 100
    local = torch.tensor([[0, 3, 9], [1, 10, 23], [0, 0, 31]])
    found = interpolate_at(maps, torch.tensor([0, 1, 0]), local, strides, centre)
    # the last one lies beyond the first and last map voxel, which are at 1.5 along u and 24 along v
    assert torch.allclose(found, torch.tensor([[0, 3.0, 9], [101, 110, 123], [0, 1.5, 24]]))


def test_a_voxel_is_read_in_the_window_in_which_it_is_most_central() -> None:
    encoder = made_encoder(made_plan("3d"))
    image, read = image_of(1, 8, 24, 80), []
    encoder.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    (found, _) = encoder.at(image, np.array([[4, 12, 38], [4, 12, 36]]))
    assert len(read) == 1 and torch.equal(read[0], torch.from_numpy(image)[None, ..., 16:48])  # of 4 windows
    expected = encoder(read[0])[0][0, :, 4, 6, [11, 10]].T
    assert np.allclose(found, expected.numpy(), atol=1e-5)


def test_slices_without_voxels_are_not_read_and_whole_slices_are() -> None:
    encoder = made_encoder(made_plan("2d"))
    image, read = image_of(1, 9, 40, 30), []
    encoder.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    encoder.at(image, np.array([[2, 0, 0], [7, 39, 29], [2, 5, 5]]))
    padded = np.pad(image[0, [2, 7]], ((0, 0), (0, 0), (1, 1)))  # 30 columns in the middle of the patch's 32
    assert np.array_equal(torch.cat(read).numpy()[:, 0, 0], padded)


def test_context_is_the_mean_of_the_slice() -> None:
    made, image = made_plan("2d"), image_of(1, 3, 24, 32)
    encoder, other = (frozen_encoder(made, made.model, seed=0, device="cpu", context=flag) for flag in (False, True))
    plain, wide = (one.at(image, np.array([[0, 3, 3], [2, 8, 8]]))[1] for one in (encoder, other))
    assert wide.shape == (2, 2 * plain.shape[1]) and (wide[:, : plain.shape[1]] == plain).all()
    maps = encoder(torch.from_numpy(image).transpose(0, 1)[:, :, None])[1]
    assert np.allclose(wide[:, plain.shape[1] :], maps[[0, 2]].mean((2, 3, 4)).numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "vgg16_bn", "convnext_tiny", "densenet121"])
def test_where_maps_are_centred(name: str) -> None:
    """The input that a map voxel's features depend on, weighted by how much, has its middle where it is said to be."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = Encoder(name, channels=1, stages=2).eval()
    x = torch.randn(12, 1, 1, 96, 96, requires_grad=True)
    stage = encoder(x)[1]
    index, stride = 48 // encoder.strides[1][1], encoder.strides[1][1]
    (gradient,) = torch.autograd.grad((stage[:, :, index, index] * torch.randn(stage.shape[:2])).sum(), x)
    weight = gradient.square().sum((0, 1, 2))
    middle = float((weight.sum(1) * torch.arange(96)).sum() / weight.sum())
    assert middle == pytest.approx(index * stride + map_centres(encoder)[1][1], abs=0.2 * stride)


def test_all_stages_are_probed_and_the_plans_strides_are_kept() -> None:
    made = made_plan("3d", slice_strides=(2, 1))
    model = probed_model(made)
    assert (model.stages, model.slice_strides[:2], len(model.slice_strides)) == (5, (2, 1), 5)
    assert made_encoder(made, model).widths == (64, 64, 128, 256, 512)
    assert probed_model(made_plan("2d"), encoder="vgg16_bn").encoder == "vgg16_bn"


def test_recalibration_changes_batchnorm_and_nothing_else() -> None:
    made = made_plan("2d")
    images = [3 * torch.randn(4, 1, 1, 24, 32) + 2 for _ in range(3)]
    plain = frozen_encoder(made, made.model, seed=0, device="cpu").encoder.state_dict()
    changed = frozen_encoder(made, made.model, seed=0, device="cpu", recalibrate=images).encoder.state_dict()
    different = {name for name in plain if not torch.equal(plain[name].float(), changed[name].float())}
    assert different == {name for name in plain if "running" in name or "num_batches" in name}


@pytest.mark.parametrize(("configuration", "context"), [("2d", True), ("2.5d", False), ("3d", False)])
def test_a_heads_logits_are_those_of_each_voxels_own_features(configuration: str, context: bool) -> None:
    made, image = made_plan(configuration), image_of(1, 8, 22, 30)  # one window, larger than the case
    encoder = frozen_encoder(made, made.model, seed=0, device="cpu", context=context)
    draw = np.random.default_rng(1)
    weights = [draw.normal(size=(2, width)).astype(np.float32) for width in encoder.widths]
    tensors = dict(enumerate(map(torch.from_numpy, weights)))
    heads = [LinearHead({0: tensors[0]}, torch.tensor([0.5, 1.0])), LinearHead(tensors, torch.zeros(2))]
    dense = np.full((2, 2, 8, 22, 30), np.nan, np.float32)
    for box, logits in encoder.slabs(image, heads):
        dense[(..., *box)] = logits.numpy()
    positions = np.stack([draw.integers(0, size, 50) for size in (8, 22, 30)], axis=1)
    fine, coarse = encoder.at(image, positions)
    there = dense[(..., *positions.T)]
    assert np.allclose(there[0].T, fine @ weights[0].T + [0.5, 1], atol=1e-3)
    assert np.allclose(there[1].T, fine @ weights[0].T + coarse @ weights[1].T, atol=1e-3)
