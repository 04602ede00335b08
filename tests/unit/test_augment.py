"""Augmentation: the effect of each transform on a suitable image, and what must stay unchanged."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

from seg_transfer.planning.fields import Spacing
from seg_transfer.planning.plan import Augmentation
from seg_transfer.training.augment import apply, sample_transforms
from seg_transfer.training.augment.intensity import (
    Blur,
    Brightness,
    Colour,
    Contrast,
    Gamma,
    IntensityTransform,
    LowResolution,
    Noise,
)
from seg_transfer.training.augment.spatial import Lens, Mirror, Rotation, Scale, Shear, Stretch
from seg_transfer.training.augment.structures import CLASSES, Structures
from seg_transfer.training.augment.transform import Array, Draw, Transform
from seg_transfer.training.batches import seeded_generator
from seg_transfer.training.losses import IGNORE

T = TypeVar("T", bound=Transform)

PROBABILITIES = [name for name in Augmentation.model_fields if name.endswith("_probability")]
OFF = Augmentation(**dict.fromkeys(PROBABILITIES, 0))
COLOURFUL = Augmentation(
    **dict.fromkeys(PROBABILITIES, 1), mirror_axes=(0, 1, 2), low_resolution_axes=(0, 1, 2), structure_spread=(0.2,)
)
ON = COLOURFUL.model_copy(update={"colour_probability": 0})


def drawn(plan: Augmentation, *, batch: int, channels: int = 1, seed: int = 0) -> list[Transform]:
    """All transforms of the first step."""
    return sample_transforms(
        plan, batch=batch, channels=channels, generator=partial(seeded_generator, seed, "augment", 0)
    )


def one(kind: type[T], plan: Augmentation, *, batch: int, channels: int = 1) -> T:
    """One of them."""
    (found,) = (each for each in drawn(plan, batch=batch, channels=channels) if isinstance(each, kind))
    return found


def changed(
    image: Tensor,
    label: Tensor,
    *transforms: Transform,
    spacing: Spacing = (1.0, 1.0, 1.0),
    out_of_plane: bool = False,
) -> tuple[Tensor, Tensor]:
    return apply(image, label, transforms, spacing=spacing, out_of_plane=out_of_plane)


def row(*values: float) -> Array:
    """One sample's value, or those of its channels or axes."""
    return np.array([values] if len(values) > 1 else values, np.float32)


def blob(shape: tuple[int, int, int], at: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    label = torch.zeros(1, *shape, dtype=torch.long)
    label[0, at[0], at[1] : at[1] + 2, at[2] : at[2] + 2] = 1
    return label.unsqueeze(1).float() * 5, label


def test_nothing_chosen_changes_nothing() -> None:
    image, label = torch.randn(4, 2, 3, 8, 9), torch.randint(0, 3, (4, 3, 8, 9))
    new_image, new_label = changed(image, label, *drawn(OFF, batch=4, channels=2), out_of_plane=True)
    assert torch.equal(new_image, image) and torch.equal(new_label, label)


def test_the_input_is_left_alone_and_the_same_seed_gives_the_same_batch() -> None:
    image, label = torch.randn(4, 2, 4, 16, 12), torch.randint(0, 3, (4, 4, 16, 12))
    kept = image.clone(), label.clone()
    results = []
    for _ in range(2):
        results.append(changed(image, label, *drawn(ON, batch=4, channels=2, seed=3), spacing=(3, 1, 1)))
    assert torch.equal(image, kept[0]) and torch.equal(label, kept[1])
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert torch.isfinite(results[0][0]).all() and results[0][0].dtype == torch.float32
    assert set(results[0][1].unique().tolist()) <= {IGNORE, 0, 1, 2}


def test_a_quarter_turn_is_exact_and_moves_image_and_label_alike() -> None:
    image, label = blob((2, 12, 12), (1, 1, 4))
    turned, marked = changed(image, label, Rotation(row(np.pi / 2, 0, 0)))
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
    _, marked = changed(image, label, Rotation(row(np.pi / 2, 0, 0)), spacing=(1, 2, 1))
    where = (marked[0, 0] == 1).nonzero()
    assert (where.amax(0) - where.amin(0) + 1).tolist() == [2, 12]
    assert len(where) == 24


def test_scale_magnifies_and_what_comes_from_outside_is_ignored() -> None:
    label = torch.zeros(1, 1, 20, 20, dtype=torch.long)
    label[0, 0, 7:13, 7:13] = 1
    image = label.unsqueeze(1).float()
    _, larger = changed(image, label, Scale(row(2.0)))
    assert (larger == 1).sum() == 144 and (larger != IGNORE).all()
    small, smaller = changed(image, label, Scale(row(0.5)))
    assert (smaller == 1).sum() == 9
    assert (smaller == IGNORE).sum() == 300 and (small[smaller.unsqueeze(1) == IGNORE] == 0).all()


def test_out_of_plane_turns_slices_and_in_plane_does_not() -> None:
    image, label = blob((12, 12, 12), (2, 5, 5))
    _, marked = changed(image, label, Rotation(row(0, np.pi / 2, 0)), out_of_plane=True)
    where = (marked[0] == 1).nonzero()
    assert (where.amax(0) - where.amin(0) + 1).tolist() == [2, 2, 1]
    angles = one(Rotation, ON, batch=8).angles
    assert (angles[:, 1:] == 0).all() and (angles[:, 0] != 0).all()
    free = ON.model_copy(update={"rotate_out_of_plane": True})
    assert (one(Rotation, free, batch=8).angles != 0).all()
    assert (one(Blur, ON, batch=8).axes, one(Blur, free, batch=8).axes) == ((3, 4), (2, 3, 4))


def test_a_stack_moves_as_one_with_the_label_of_its_middle() -> None:
    image, label = blob((1, 12, 12), (0, 1, 4))
    stack = image.repeat(1, 1, 5, 1, 1)
    turned, marked = changed(stack, label, Rotation(row(0.4, 0, 0)))
    alone, marked_alone = changed(image, label, Rotation(row(0.4, 0, 0)))
    assert torch.equal(marked, marked_alone)
    assert all(torch.equal(turned[:, :, slice_], alone[:, :, 0]) for slice_ in range(5))


def test_stretch_keeps_the_area() -> None:
    label = torch.zeros(1, 1, 40, 40, dtype=torch.long)
    label[0, 0, 16:24, 16:24] = 1
    _, wide = changed(label.unsqueeze(1).float(), label, Stretch(row(4.0)))
    where = (wide[0, 0] == 1).nonzero()
    assert (where.amax(0) - where.amin(0) + 1).tolist() == [16, 4] and len(where) == 64


def test_shear_moves_along_u_by_the_distance_in_v() -> None:
    label = torch.zeros(1, 1, 33, 33, dtype=torch.long)
    label[0, 0, 16] = 1
    _, leaning = changed(label.unsqueeze(1).float(), label, Shear(row(np.pi / 4)))
    u, v = (leaning[0, 0] == 1).nonzero().T
    assert (u + v == 32).all() and len(u) == 33


def test_a_lens_keeps_the_centre_and_moves_the_corners() -> None:
    side = 33
    position = torch.arange(side).float() - 16
    image = torch.stack(torch.meshgrid(position, position, indexing="ij"))[None, :, None]  # channels show u and v
    bent, marked = changed(image, torch.zeros(1, 1, side, side).long(), Lens(row(-0.2)))
    u, v = bent[0, :, 0]
    assert u[16, 16].abs() < 1e-4 and v[16, 16].abs() < 1e-4
    squared = (position[:, None] ** 2 + position[None] ** 2) / (2 * 16.5**2)
    assert torch.allclose(u, position[:, None] * (1 - 0.2 * squared), atol=1e-3)
    assert torch.allclose(v, position[None] * (1 - 0.2 * squared), atol=1e-3)
    assert (marked == 0).all()
    _, outside = changed(image, torch.zeros(1, 1, side, side).long(), Lens(row(0.2)))
    assert (outside[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]] == IGNORE).all() and outside[0, 0, 16, 16] == 0


def test_spatial_transforms_leave_ignored_voxels_ignored() -> None:
    label = torch.full((4, 1, 24, 24), IGNORE)
    transforms = drawn(ON, batch=4, seed=2)
    _, marked = changed(torch.randn(4, 1, 1, 24, 24), label, *transforms)
    assert (marked == IGNORE).all()
    label[:, :, 12:] = 1
    _, marked = changed(torch.randn(4, 1, 1, 24, 24), label, *transforms)
    assert set(marked.unique().tolist()) == {IGNORE, 1}


def test_image_and_label_move_together() -> None:
    """An image equal to its label stays so under all spatial transforms together, but for the edges."""
    plan = OFF.model_copy(
        update={f"{name}_probability": 1.0 for name in ("rotate", "scale", "stretch", "shear", "lens")}
        | {"mirror_axes": (1, 2)}
    )
    label = torch.zeros(8, 1, 48, 48, dtype=torch.long)
    label[:, :, 10:30, 14:40] = 1
    image, marked = changed(label.unsqueeze(1).float(), label, *drawn(plan, batch=8))
    assert ((image[:, 0] > 0.5) == (marked == 1))[marked != IGNORE].float().mean() > 0.98
    assert ((image[:, 0] - (marked == 1).float()).abs() < 0.01)[marked != IGNORE].float().mean() > 0.85
    assert not torch.equal(marked, label)


def test_resolution_is_reduced_along_the_axis_that_is_drawn() -> None:
    image = torch.zeros(2, 1, 8, 4, 4)
    image[:, :, 4] = 1
    kept = np.ones((2, 3), np.float32)
    kept[1, 0] = 0.5
    coarse, _ = changed(image, torch.zeros(2, 8, 4, 4).long(), LowResolution(kept))
    assert torch.equal(coarse[0], image[0])
    # the pair of slices 4 and 5 is averaged to 0.5, and linear interpolation spreads it over its neighbours
    expected = torch.tensor([0, 0, 0, 0.125, 0.375, 0.375, 0.125, 0])
    assert torch.allclose(coarse[1, 0, :, 0, 0], expected, atol=1e-6)
    assert torch.allclose(coarse[1, 0], expected[:, None, None].expand(8, 4, 4), atol=1e-6)
    plan = OFF.model_copy(update={"low_resolution_probability": 1.0, "low_resolution_axes": (1, 2)})
    kept = one(LowResolution, plan, batch=100).shares
    assert (kept[:, 0] == 1).all() and (kept[:, 1] == kept[:, 2]).all()
    assert 0.5 <= kept[:, 1].min() < 0.55 and 0.95 < kept[:, 1].max() <= 1


def test_colour_jitter() -> None:
    torch.manual_seed(0)
    image, label = torch.rand(1, 3, 1, 8, 8) * 0.5, torch.zeros(1, 1, 8, 8).long()
    grey = image[:, :1].expand(-1, 3, -1, -1, -1)
    same, _ = changed(grey, label, Colour(hue=row(0.7), saturation=row(1.3), value=row(1)))
    assert torch.allclose(same, grey, atol=1e-6)
    darker, _ = changed(grey, label, Colour(hue=row(0.7), saturation=row(1.3), value=row(0.8)))
    assert torch.allclose(darker, 0.8 * grey, atol=1e-6)

    third, _ = changed(image, label, Colour(hue=row(2 * np.pi / 3), saturation=row(1), value=row(1)))
    assert torch.allclose(third, image.roll(1, 1), atol=1e-6), "red becomes green, green blue, blue red"
    pale, _ = changed(image, label, Colour(hue=row(0), saturation=row(0), value=row(1)))
    assert torch.allclose(pale, image.mean(1, keepdim=True).expand_as(image), atol=1e-6)
    bright, _ = changed(image * 2, label, Colour(hue=row(0), saturation=row(1), value=row(1.25)))
    assert torch.allclose(bright, (image * 2.5).clamp(max=1), atol=1e-6) and bright.max() == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirror(axis: int) -> None:
    image, label = torch.randn(2, 2, 4, 5, 6), torch.randint(0, 3, (2, 4, 5, 6))
    mirror = np.zeros((2, 3), bool)
    mirror[1, axis] = True
    flipped, marked = changed(image, label, Mirror(mirror))
    assert torch.equal(flipped[0], image[0]) and torch.equal(flipped[1], image[1].flip(axis + 1))
    assert torch.equal(marked[0], label[0]) and torch.equal(marked[1], label[1].flip(axis))


def test_noise_is_a_share_of_each_channels_spread() -> None:
    image = torch.randn(2, 2, 4, 32, 32) * torch.tensor([1.0, 100.0]).view(1, 2, 1, 1, 1)
    noisy, _ = changed(
        image, torch.zeros(2, 4, 32, 32).long(), Noise(np.array([[0, 0], [0.1, 0.1]], np.float32), seed=0)
    )
    assert torch.equal(noisy[0], image[0])
    added = (noisy[1] - image[1]).std(dim=(1, 2, 3))
    assert added[0].item() == pytest.approx(0.1, rel=0.1) and added[1].item() == pytest.approx(10, rel=0.1)


def test_blur_is_the_gaussian_and_keeps_the_sum() -> None:
    image = torch.zeros(1, 1, 1, 15, 15)
    image[..., 7, 7] = 1
    label = torch.zeros(1, 1, 15, 15).long()
    blurred, _ = changed(image, label, Blur(np.array([[1.0]], np.float32)))
    offsets = torch.arange(-3, 4).float()
    kernel = torch.exp(-(offsets**2) / 2)
    kernel /= kernel.sum()
    assert torch.allclose(blurred[0, 0, 0, 4:11, 4:11], kernel[:, None] * kernel[None], atol=1e-6)
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)


def test_brightness_contrast_and_gamma() -> None:
    torch.manual_seed(0)
    image, label = torch.randn(1, 2, 3, 16, 16), torch.zeros(1, 3, 16, 16).long()
    brighter, _ = changed(image, label, Brightness(row(1.2, 1.0)))
    assert torch.allclose(brighter[:, 0], image[:, 0] * 1.2) and torch.equal(brighter[:, 1], image[:, 1])

    flatter, _ = changed(image, label, Contrast(row(0.5, 1.25)))
    assert flatter[:, 0].std().item() == pytest.approx(0.5 * image[:, 0].std().item(), rel=1e-4)
    assert flatter[:, 0].mean().item() == pytest.approx(image[:, 0].mean().item(), abs=1e-5)
    assert flatter[:, 1].max() == image[:, 1].max() and flatter[:, 1].min() == image[:, 1].min()

    curved, _ = changed(image, label, Gamma(row(1.5, 1.0), inverted=np.array([[False, False]])))
    assert curved[:, 0].mean().item() == pytest.approx(image[:, 0].mean().item(), abs=1e-4)
    assert curved[:, 0].std().item() == pytest.approx(image[:, 0].std().item(), rel=1e-4)
    assert not torch.allclose(curved[:, 0], image[:, 0], atol=0.05)
    order = image[0, 0].flatten().argsort()
    assert (curved[0, 0].flatten()[order].diff() >= -1e-6).all()


def test_an_inverted_gamma_is_gamma_on_the_negative() -> None:
    image, label = torch.randn(1, 1, 3, 16, 16), torch.zeros(1, 3, 16, 16).long()
    inverted, _ = changed(image, label, Gamma(np.full((1, 1), 1.5, np.float32), inverted=np.array([[True]])))
    negative, _ = changed(-image, label, Gamma(np.full((1, 1), 1.5, np.float32), inverted=np.array([[False]])))
    assert torch.allclose(inverted, -negative, atol=1e-6) and not torch.allclose(inverted, image, atol=0.05)


def structures(shifts: dict[int, float], factors: dict[int, float], channels: int = 1) -> Structures:
    """The change of the first channel by class; the others' stay."""
    arrays = np.zeros((1, channels, CLASSES), np.float32), np.ones((1, channels, CLASSES), np.float32)
    for array, given in zip(arrays, (shifts, factors), strict=True):
        array[0, 0, list(given)] = list(given.values())
    return Structures(*arrays)


def test_a_structure_changes_without_the_others() -> None:
    image = torch.randn(1, 2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    image[:, :, 0, 0, :2] = torch.tensor([-50.0, 50.0])  # nothing is clipped
    label = torch.zeros(1, 3, 40, 40, dtype=torch.long)
    label[:, :, 5:15, 5:15], label[:, :, 25:35, 5:15], label[:, :, 25:35, 25:35] = 1, 2, IGNORE
    darker, same = changed(image, label, structures({1: -2}, {1: 0.5, 2: 1.0}, channels=2))
    assert torch.equal(same, label) and torch.equal(darker[:, 1], image[:, 1])
    inside = slice(6, 14)
    before, after = image[0, 0, :, inside, inside], darker[0, 0, :, inside, inside]
    mean, spread = image[0, 0, :, 5:15, 5:15].mean(), image[0, 0].std()
    assert torch.allclose(after, mean + 0.5 * (before - mean) - 2 * spread, atol=1e-4)
    around = torch.ones(40, 40, dtype=torch.bool)
    around[4:16, 4:16] = False
    assert torch.equal(darker[0, 0, :, around], image[0, 0, :, around])


def test_a_changed_structure_has_no_sharp_edge_and_stays_in_the_range() -> None:
    image, label = torch.zeros(1, 1, 1, 20, 20), torch.zeros(1, 1, 20, 20).long()
    label[..., 5:15, 5:15] = 1
    image[..., 0, 0], image[..., 0, 1] = 3, -3
    spread = image.std()
    brighter, _ = changed(image, label, structures({1: 1}, {1: 1.0001}))
    row_of_ten = brighter[0, 0, 0, 10, 3:8] / spread
    assert torch.allclose(row_of_ten, torch.tensor([0, 1 / 3, 2 / 3, 1, 1]), atol=1e-4)
    clipped, _ = changed(image, label, structures({1: 100}, {1: 1.0001}))
    assert clipped.max() == 3


def test_the_middle_of_a_stack_says_what_all_of_it_is() -> None:
    image, label = torch.zeros(1, 1, 3, 20, 20), torch.zeros(1, 1, 20, 20).long()
    label[..., 5:15, 5:15] = 1
    image[:, :, 0, 0, 0], image[:, :, 1, 8, 8], image[:, :, 2, 8, 8] = 9, 5, 7
    flat, _ = changed(image, label, structures({}, {1: 0.5}))
    middle = image[0, 0, 1, 5:15, 5:15].mean().item()
    assert flat[0, 0, :, 8, 8].tolist() == pytest.approx([middle / 2, 2.5 + middle / 2, 3.5 + middle / 2])


def test_a_constant_image_stays_finite() -> None:
    image, _ = changed(torch.ones(2, 1, 2, 8, 8), torch.zeros(2, 2, 8, 8).long(), *drawn(ON, batch=2))
    assert torch.isfinite(image).all()


def test_probabilities_and_ranges_hold() -> None:
    choose = partial(one, plan=Augmentation(mirror_axes=(1,)), batch=4000, channels=2)
    angles = choose(Rotation).angles
    assert (angles[:, 0] != 0).mean() == pytest.approx(0.2, abs=0.03)
    assert np.abs(np.rad2deg(angles)).max() == pytest.approx(30, abs=1)
    factors = choose(Scale).factors
    assert (factors != 1).mean() == pytest.approx(0.2, abs=0.03)
    assert factors.min() >= 0.7 and factors.max() <= 1.4
    assert (factors[factors != 1] > 1).mean() == pytest.approx(0.5, abs=0.06)
    gamma = choose(Gamma)
    assert (gamma.exponents != 1).any(axis=1).mean() == pytest.approx(0.3, abs=0.03)
    assert gamma.inverted.mean() == pytest.approx(0.25, abs=0.03)
    mirrored = choose(Mirror).axes
    assert mirrored[:, 1].mean() == pytest.approx(0.5, abs=0.03) and not mirrored[:, [0, 2]].any()


@dataclass(frozen=True)
class Offset(IntensityTransform):
    """A transform that is not in the package."""

    amounts: Array

    @classmethod
    def sample(cls, plan: Augmentation, draw: Draw) -> Offset:
        return cls(draw.within(1.0, 0.5))

    def apply(self, image: Tensor) -> None:
        image += torch.from_numpy(self.amounts).view(-1, 1, 1, 1, 1)


@pytest.mark.parametrize("without", [Rotation, Lens, Noise, Gamma, Mirror])
def test_adding_and_removing_a_transform_leaves_the_draws_of_the_others(
    monkeypatch: pytest.MonkeyPatch, without: type[Transform]
) -> None:
    before = drawn(COLOURFUL, batch=5, channels=3)
    kinds = [Offset, *(type(each) for each in before if type(each) is not without)]
    monkeypatch.setattr("seg_transfer.training.augment.registry.TRANSFORMS", kinds)
    after = {type(each): each for each in drawn(COLOURFUL, batch=5, channels=3)}
    assert after.keys() == set(kinds)
    for each in before:
        if type(each) is not without:
            for field in fields(each):
                np.testing.assert_array_equal(getattr(after[type(each)], field.name), getattr(each, field.name))


def test_every_transform_and_every_step_draws_numbers_of_its_own() -> None:
    numbers = {
        seeded_generator(seed, "augment", step, name).random() for seed in (0, 1) for step in (0, 1) for name in "ab"
    }
    assert len(numbers) == 8


def test_spatial_transforms_are_composed_in_order() -> None:
    """Sheared, then scaled, then rotated: (u, v) shows (u + v, v), half of it, turned by a quarter: (v, -u - v) / 2.

    So (-8, 8) of the input is seen at v = -16 and u = 0.
    """
    label = torch.zeros(1, 1, 65, 65, dtype=torch.long)
    label[0, 0, 32 - 8, 32 + 8] = 1
    transforms = Rotation(row(np.pi / 2, 0, 0)), Scale(row(2)), Shear(row(np.pi / 4))
    _, marked = changed(torch.zeros(1, 1, 1, 65, 65), label, *transforms)
    where = (marked[0, 0] == 1).nonzero().float() - 32
    assert where.mean(0).tolist() == [0, -16]


@pytest.mark.parametrize("out_of_plane", [False, True])
def test_a_share_of_a_batch_is_transformed_as_in_the_whole_batch(out_of_plane: bool) -> None:
    """Every rank of a training has a share; noise and the radius of blurs depend on the whole batch."""
    plan = ON.model_copy(update={"noise_probability": 0.5, "blur_probability": 0.5, "blur_sigma": (0.3, 2.0)})
    image, label = torch.rand(5, 2, 4, 12, 14), torch.randint(-1, 3, (5, 4, 12, 14))
    whole = changed(image, label, *drawn(plan, batch=5, channels=2), out_of_plane=out_of_plane)
    for rows in (slice(0, None, 2), slice(1, None, 2), slice(4, None, 5)):
        random = partial(seeded_generator, 0, "augment", 0)
        share = sample_transforms(plan, batch=5, channels=2, generator=random, rows=rows)
        image_share, label_share = changed(image[rows], label[rows], *share, out_of_plane=out_of_plane)
        assert torch.allclose(image_share, whole[0][rows], atol=1e-6)
        assert torch.equal(label_share, whole[1][rows])
