"""Augmentation: each transform against what it must do to a picture that shows it, and what it must leave alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from seg_transfer.planning.plan import Augmentation
from seg_transfer.training.augment import Parameters, apply, sample_parameters
from seg_transfer.training.losses import IGNORE

OFF = Augmentation(
    rotate_probability=0,
    scale_probability=0,
    noise_probability=0,
    blur_probability=0,
    brightness_probability=0,
    contrast_probability=0,
    gamma_probability=0,
)
ON = Augmentation(
    rotate_probability=1,
    scale_probability=1,
    mirror_axes=(0, 1, 2),
    noise_probability=1,
    blur_probability=1,
    brightness_probability=1,
    contrast_probability=1,
    gamma_probability=1,
    stretch_probability=1,
    shear_probability=1,
    lens_probability=1,
    low_resolution_probability=1,
    low_resolution_axes=(0, 1, 2),
)


def neutral(batch: int = 1, channels: int = 1) -> Parameters:
    return sample_parameters(OFF, batch=batch, channels=channels, generator=np.random.default_rng(0))


def moved(image: torch.Tensor, label: torch.Tensor, *, spacing=(1.0, 1.0, 1.0), out_of_plane=False, **changes):  # type: ignore[no-untyped-def]
    changes = {name: np.asarray(value) for name, value in changes.items()}
    parameters = replace(neutral(len(image), image.shape[1]), **changes)
    return apply(image, label, parameters, spacing=spacing, out_of_plane=out_of_plane)


def blob(shape: tuple[int, int, int], at: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    label = torch.zeros(1, *shape, dtype=torch.long)
    label[0, at[0], at[1] : at[1] + 2, at[2] : at[2] + 2] = 1
    return label.unsqueeze(1).float() * 5, label


def test_nothing_chosen_changes_nothing() -> None:
    image, label = torch.randn(4, 2, 3, 8, 9), torch.randint(0, 3, (4, 3, 8, 9))
    new_image, new_label = apply(image, label, neutral(4, 2), spacing=(1, 1, 1), out_of_plane=True)
    assert torch.equal(new_image, image) and torch.equal(new_label, label)


def test_the_input_is_left_alone_and_the_same_seed_gives_the_same_batch() -> None:
    image, label = torch.randn(4, 2, 4, 16, 12), torch.randint(0, 3, (4, 4, 16, 12))
    kept = image.clone(), label.clone()
    results = []
    for _ in range(2):
        parameters = sample_parameters(ON, batch=4, channels=2, generator=np.random.default_rng(3))
        results.append(apply(image, label, parameters, spacing=(3, 1, 1), out_of_plane=False))
    assert torch.equal(image, kept[0]) and torch.equal(label, kept[1])
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert torch.isfinite(results[0][0]).all() and results[0][0].dtype == torch.float32
    assert set(results[0][1].unique().tolist()) <= {IGNORE, 0, 1, 2}


def test_a_quarter_turn_is_exact_and_moves_image_and_label_alike() -> None:
    image, label = blob((2, 12, 12), (1, 1, 4))
    turned, marked = moved(image, label, angles=np.array([[np.pi / 2, 0, 0]], np.float32))
    for expected_turns in (1, 3):
        if torch.allclose(turned, torch.rot90(image, expected_turns, (3, 4)), atol=1e-4):
            assert torch.equal(marked, torch.rot90(label, expected_turns, (2, 3)))
            break
    else:
        pytest.fail("the image is not turned by a quarter")


def test_rotation_is_rigid_in_millimetres() -> None:
    # u is 2 mm, v is 1 mm: a bar of 6 x 4 voxels (12 x 4 mm) becomes one of 2 x 12
    label = torch.zeros(1, 1, 16, 32, dtype=torch.long)
    label[0, 0, 5:11, 14:18] = 1
    image = label.unsqueeze(1).float()
    _, marked = moved(image, label, spacing=(1, 2, 1), angles=np.array([[np.pi / 2, 0, 0]], np.float32))
    where = (marked[0, 0] == 1).nonzero()
    assert (where.amax(0) - where.amin(0) + 1).tolist() == [2, 12]
    assert len(where) == 24


def test_scale_magnifies_and_what_comes_from_outside_is_ignored() -> None:
    label = torch.zeros(1, 1, 20, 20, dtype=torch.long)
    label[0, 0, 7:13, 7:13] = 1
    image = label.unsqueeze(1).float()
    _, larger = moved(image, label, scale=np.array([2.0], np.float32))
    assert (larger == 1).sum() == 144 and (larger != IGNORE).all()
    small, smaller = moved(image, label, scale=np.array([0.5], np.float32))
    assert (smaller == 1).sum() == 9
    assert (smaller == IGNORE).sum() == 300 and (small[smaller.unsqueeze(1) == IGNORE] == 0).all()


def test_out_of_plane_turns_slices_and_in_plane_does_not() -> None:
    image, label = blob((12, 12, 12), (2, 5, 5))
    angles = np.array([[0, np.pi / 2, 0]], np.float32)
    _, marked = moved(image, label, angles=angles, out_of_plane=True)
    where = (marked[0] == 1).nonzero()
    assert (where.amax(0) - where.amin(0) + 1).tolist() == [2, 2, 1]
    drawn = sample_parameters(ON, batch=8, channels=1, generator=np.random.default_rng(0))
    assert (drawn.angles[:, 1:] == 0).all() and (drawn.angles[:, 0] != 0).all()
    free = ON.model_copy(update={"rotate_out_of_plane": True})
    assert (sample_parameters(free, batch=8, channels=1, generator=np.random.default_rng(0)).angles != 0).all()


def test_a_stack_moves_as_one_with_the_label_of_its_middle() -> None:
    image, label = blob((1, 12, 12), (0, 1, 4))
    stack = image.repeat(1, 1, 5, 1, 1)
    turned, marked = moved(stack, label, angles=np.array([[0.4, 0, 0]], np.float32))
    alone, marked_alone = moved(image, label, angles=np.array([[0.4, 0, 0]], np.float32))
    assert torch.equal(marked, marked_alone)
    assert all(torch.equal(turned[:, :, slice_], alone[:, :, 0]) for slice_ in range(5))


def test_stretch_keeps_the_area() -> None:
    label = torch.zeros(1, 1, 40, 40, dtype=torch.long)
    label[0, 0, 16:24, 16:24] = 1
    _, wide = moved(label.unsqueeze(1).float(), label, stretch=np.array([4.0], np.float32))
    where = (wide[0, 0] == 1).nonzero()
    assert (where.amax(0) - where.amin(0) + 1).tolist() == [16, 4] and len(where) == 64


def test_shear_moves_along_u_by_the_distance_in_v() -> None:
    label = torch.zeros(1, 1, 33, 33, dtype=torch.long)
    label[0, 0, 16] = 1
    _, leaning = moved(label.unsqueeze(1).float(), label, shear=np.array([np.pi / 4], np.float32))
    u, v = (leaning[0, 0] == 1).nonzero().T
    assert (u + v == 32).all() and len(u) == 33


def test_a_lens_keeps_the_centre_and_moves_the_corners() -> None:
    side = 33
    position = torch.arange(side).float() - 16
    image = torch.stack(torch.meshgrid(position, position, indexing="ij"))[None, :, None]  # channels show u and v
    bent, marked = moved(image, torch.zeros(1, 1, side, side).long(), lens=np.array([-0.2], np.float32))
    u, v = bent[0, :, 0]
    assert u[16, 16].abs() < 1e-4 and v[16, 16].abs() < 1e-4
    squared = (position[:, None] ** 2 + position[None] ** 2) / (2 * 16.5**2)
    assert torch.allclose(u, position[:, None] * (1 - 0.2 * squared), atol=1e-3)
    assert torch.allclose(v, position[None] * (1 - 0.2 * squared), atol=1e-3)
    assert (marked == 0).all()
    _, outside = moved(image, torch.zeros(1, 1, side, side).long(), lens=np.array([0.2], np.float32))
    assert (outside[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]] == IGNORE).all() and outside[0, 0, 16, 16] == 0


def test_spatial_transforms_leave_ignored_voxels_ignored() -> None:
    label = torch.full((4, 1, 24, 24), IGNORE)
    drawn = sample_parameters(ON, batch=4, channels=1, generator=np.random.default_rng(2))
    _, marked = apply(torch.randn(4, 1, 1, 24, 24), label, drawn, spacing=(1, 1, 1), out_of_plane=False)
    assert (marked == IGNORE).all()
    label[:, :, 12:] = 1
    _, marked = apply(torch.randn(4, 1, 1, 24, 24), label, drawn, spacing=(1, 1, 1), out_of_plane=False)
    assert set(marked.unique().tolist()) == {IGNORE, 1}


def test_image_and_label_move_together() -> None:
    """Through everything spatial at once, a picture that shows its own label still does, but for the edges."""
    plan = OFF.model_copy(
        update={f"{name}_probability": 1.0 for name in ("rotate", "scale", "stretch", "shear", "lens")}
        | {"mirror_axes": (1, 2)}
    )
    label = torch.zeros(8, 1, 48, 48, dtype=torch.long)
    label[:, :, 10:30, 14:40] = 1
    drawn = sample_parameters(plan, batch=8, channels=1, generator=np.random.default_rng(0))
    image, marked = apply(label.unsqueeze(1).float(), label, drawn, spacing=(1, 1, 1), out_of_plane=False)
    assert ((image[:, 0] > 0.5) == (marked == 1))[marked != IGNORE].float().mean() > 0.98
    assert ((image[:, 0] - (marked == 1).float()).abs() < 0.01)[marked != IGNORE].float().mean() > 0.85
    assert not torch.equal(marked, label)


def test_resolution_is_reduced_along_the_axis_that_is_drawn() -> None:
    image = torch.zeros(2, 1, 8, 4, 4)
    image[:, :, 4] = 1
    zoom = np.ones((2, 3), np.float32)
    zoom[1, 0] = 0.5
    coarse, _ = moved(image, torch.zeros(2, 8, 4, 4).long(), zoom=zoom)
    assert torch.equal(coarse[0], image[0])
    # the pair of slices 4 and 5 is averaged to 0.5, and linear interpolation spreads it over its neighbours
    expected = torch.tensor([0, 0, 0, 0.125, 0.375, 0.375, 0.125, 0])
    assert torch.allclose(coarse[1, 0, :, 0, 0], expected, atol=1e-6)
    assert torch.allclose(coarse[1, 0], expected[:, None, None].expand(8, 4, 4), atol=1e-6)
    plan = OFF.model_copy(update={"low_resolution_probability": 1.0, "low_resolution_axes": (1, 2)})
    drawn = sample_parameters(plan, batch=100, channels=1, generator=np.random.default_rng(0)).zoom
    assert (drawn[:, 0] == 1).all() and (drawn[:, 1] == drawn[:, 2]).all()
    assert 0.5 <= drawn[:, 1].min() < 0.55 and 0.95 < drawn[:, 1].max() <= 1


def test_colour_jitter() -> None:
    torch.manual_seed(0)
    image, label = torch.rand(1, 3, 1, 8, 8) * 0.5, torch.zeros(1, 1, 8, 8).long()
    grey = image[:, :1].expand(-1, 3, -1, -1, -1)
    changes = {"hue": np.array([0.7], np.float32), "saturation": np.array([1.3], np.float32)}
    same, _ = moved(grey, label, **changes)
    assert torch.allclose(same, grey, atol=1e-6)
    darker, _ = moved(grey, label, value=np.array([0.8], np.float32), **changes)
    assert torch.allclose(darker, 0.8 * grey, atol=1e-6)

    third, _ = moved(image, label, hue=np.array([2 * np.pi / 3], np.float32))
    assert torch.allclose(third, image.roll(1, 1), atol=1e-6), "red becomes green, green blue, blue red"
    pale, _ = moved(image, label, saturation=np.array([0.0], np.float32))
    assert torch.allclose(pale, image.mean(1, keepdim=True).expand_as(image), atol=1e-6)
    bright, _ = moved(image * 2, label, value=np.array([1.25], np.float32))
    assert torch.allclose(bright, (image * 2.5).clamp(max=1), atol=1e-6) and bright.max() == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirror(axis: int) -> None:
    image, label = torch.randn(2, 2, 4, 5, 6), torch.randint(0, 3, (2, 4, 5, 6))
    mirror = np.zeros((2, 3), bool)
    mirror[1, axis] = True
    flipped, marked = moved(image, label, mirror=mirror)
    assert torch.equal(flipped[0], image[0]) and torch.equal(flipped[1], image[1].flip(axis + 1))
    assert torch.equal(marked[0], label[0]) and torch.equal(marked[1], label[1].flip(axis))


def test_noise_is_a_share_of_each_channels_spread() -> None:
    image = torch.randn(2, 2, 4, 32, 32) * torch.tensor([1.0, 100.0]).view(1, 2, 1, 1, 1)
    noisy, _ = moved(image, torch.zeros(2, 4, 32, 32).long(), noise=np.array([[0, 0], [0.1, 0.1]], np.float32))
    assert torch.equal(noisy[0], image[0])
    added = (noisy[1] - image[1]).std(dim=(1, 2, 3))
    assert added[0].item() == pytest.approx(0.1, rel=0.1) and added[1].item() == pytest.approx(10, rel=0.1)


def test_blur_is_the_gaussian_and_keeps_the_sum() -> None:
    image = torch.zeros(1, 1, 1, 15, 15)
    image[..., 7, 7] = 1
    label = torch.zeros(1, 1, 15, 15).long()
    blurred, _ = moved(image, label, blur=np.array([[1.0]], np.float32))
    offsets = torch.arange(-3, 4).float()
    kernel = torch.exp(-(offsets**2) / 2)
    kernel /= kernel.sum()
    assert torch.allclose(blurred[0, 0, 0, 4:11, 4:11], kernel[:, None] * kernel[None], atol=1e-6)
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)


def test_brightness_contrast_and_gamma() -> None:
    torch.manual_seed(0)
    image, label = torch.randn(1, 2, 3, 16, 16), torch.zeros(1, 3, 16, 16).long()
    brighter, _ = moved(image, label, brightness=np.array([[1.2, 1.0]], np.float32))
    assert torch.allclose(brighter[:, 0], image[:, 0] * 1.2) and torch.equal(brighter[:, 1], image[:, 1])

    flatter, _ = moved(image, label, contrast=np.array([[0.5, 1.25]], np.float32))
    assert flatter[:, 0].std().item() == pytest.approx(0.5 * image[:, 0].std().item(), rel=1e-4)
    assert flatter[:, 0].mean().item() == pytest.approx(image[:, 0].mean().item(), abs=1e-5)
    assert flatter[:, 1].max() == image[:, 1].max() and flatter[:, 1].min() == image[:, 1].min()

    curved, _ = moved(image, label, gamma=np.array([[1.5, 1.0]], np.float32))
    assert curved[:, 0].mean().item() == pytest.approx(image[:, 0].mean().item(), abs=1e-4)
    assert curved[:, 0].std().item() == pytest.approx(image[:, 0].std().item(), rel=1e-4)
    assert not torch.allclose(curved[:, 0], image[:, 0], atol=0.05)
    order = image[0, 0].flatten().argsort()
    assert (curved[0, 0].flatten()[order].diff() >= -1e-6).all()


def test_a_constant_picture_stays_finite() -> None:
    parameters = sample_parameters(ON, batch=2, channels=1, generator=np.random.default_rng(0))
    image, _ = apply(
        torch.ones(2, 1, 2, 8, 8), torch.zeros(2, 2, 8, 8).long(), parameters, spacing=(1, 1, 1), out_of_plane=False
    )
    assert torch.isfinite(image).all()


def test_probabilities_and_ranges_hold() -> None:
    plan = Augmentation(mirror_axes=(1,))
    drawn = sample_parameters(plan, batch=4000, channels=2, generator=np.random.default_rng(0))
    assert (drawn.angles[:, 0] != 0).mean() == pytest.approx(0.2, abs=0.03)
    assert np.abs(np.rad2deg(drawn.angles)).max() == pytest.approx(30, abs=1)
    assert (drawn.scale != 1).mean() == pytest.approx(0.2, abs=0.03)
    assert drawn.scale.min() >= 0.7 and drawn.scale.max() <= 1.4
    changed = drawn.scale[drawn.scale != 1]
    assert (changed > 1).mean() == pytest.approx(0.5, abs=0.06)
    assert (drawn.gamma != 1).any(axis=1).mean() == pytest.approx(0.3, abs=0.03)
    assert drawn.mirror[:, 1].mean() == pytest.approx(0.5, abs=0.03) and not drawn.mirror[:, [0, 2]].any()
