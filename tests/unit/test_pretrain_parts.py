"""The parts of pretraining: class folders, augmentation, schedule, weight decay, BatchNorm statistics."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from made_textures import CLASSES, make_images
from PIL import Image
from torch import nn

from seg_transfer.catalogue.encoders import entry
from seg_transfer.errors import UserError
from seg_transfer.options.base import fields_of, flag_of
from seg_transfer.options.pretrain_options import PretrainOptions
from seg_transfer.pretraining import class_folders, fit, image_augmentation, learner, time_schedule

pytestmark = pytest.mark.usefixtures("one_thread")


def test_rate_climbs_for_six_percent_and_falls_as_a_cosine():
    given = [time_schedule.rate_factor(progress) for progress in (0, 0.03, 0.06, 0.06 + 0.94 / 3, 0.53, 1)]
    assert given == pytest.approx([0.1, 0.55, 1, 0.75, 0.5, 0])


@pytest.mark.parametrize(("full", "sides"), [(64, [40, 40, 52, 52, 64, 64]), (224, [140, 140, 182, 182, 224, 224])])
def test_side_grows_at_45_and_70_percent(full, sides):
    assert [time_schedule.side_at(progress, full) for progress in (0, 0.449, 0.45, 0.699, 0.7, 1)] == sides


def test_classes_are_sub_folders_and_their_images_may_lie_deeper(tmp_path):
    make_images(tmp_path, count=2)
    (tmp_path / "waves" / "images").mkdir()
    (tmp_path / "waves" / "001.png").rename(tmp_path / "waves" / "images" / "X.JPEG")
    (tmp_path / "waves" / "boxes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    found = class_folders.find_images(tmp_path)
    assert found.classes == CLASSES
    assert [path.name for path in found.files] == ["000.png", "001.png"] * 2 + ["000.png", "X.JPEG"]
    assert found.labels == (0, 0, 1, 1, 2, 2)


def test_every_class_has_its_share_held_out(tmp_path):
    found = class_folders.find_images(make_images(tmp_path, count=10, side=4))
    train, held = class_folders.hold_out(found, 0.2, seed=1)
    assert sorted([*train, *held]) == list(range(30))
    assert np.bincount(np.array(found.labels)[held]).tolist() == [2, 2, 2]
    assert held.tolist() != class_folders.hold_out(found, 0.2, seed=2)[1].tolist()
    assert (
        len(class_folders.hold_out(found, 0.001, seed=1)[1])
        == len(class_folders.hold_out(found, 0.999, seed=1)[0])
        == 3
    )


def test_squares_keep_eight_bits_and_the_middle(tmp_path):
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:6] = 10, 20, 30
    Image.fromarray(image).save(tmp_path / "wide.png")
    square = class_folders.read_square(tmp_path / "wide.png", 4)
    assert square.shape == (3, 4, 4)
    assert [np.unique(channel).tolist() for channel in square] == [[10], [20], [30]]


def test_more_than_eight_bits_are_windowed_and_grey_fills_three_channels(tmp_path):
    values = np.arange(10_000, 20_000, dtype=np.uint16).reshape(100, 100)
    Image.fromarray(values).save(tmp_path / "deep.tif")
    square = class_folders.read_square(tmp_path / "deep.tif", 100)
    lower, upper = 10_000 + 0.005 * 9999, 10_000 + 0.995 * 9999
    expected = 255 * (values.astype(float) - lower).clip(0, upper - lower) / (upper - lower)
    assert np.abs(square - expected).max() <= 0.5
    Image.fromarray(np.full((8, 8), 7000, np.uint16)).save(tmp_path / "flat.tif")
    assert not class_folders.read_square(tmp_path / "flat.tif", 8).any()


def test_images_are_decoded_once_and_anew_when_a_file_changes(tmp_path, monkeypatch):
    files = class_folders.find_images(make_images(tmp_path / "data", count=2, side=8)).files
    first = class_folders.decode(files, 8, tmp_path / "cache")
    assert first[3, 1].tolist() == np.asarray(Image.open(files[3])).tolist()
    with monkeypatch.context() as patch:
        patch.setattr(class_folders, "_decode", lambda *given: pytest.fail("decoded again"))
        assert np.array_equal(class_folders.decode(files, 8, tmp_path / "cache"), first)
    Image.fromarray(np.full((9, 9), 77, np.uint8)).save(files[3])
    assert (class_folders.decode(files, 8, tmp_path / "cache")[3] == 77).all()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_broken_images_are_all_named_and_nothing_is_kept(tmp_path):
    files = class_folders.find_images(make_images(tmp_path / "data", count=2, side=32)).files
    files[1].write_bytes(files[1].read_bytes()[:200])
    files[4].write_text("not a image")
    with pytest.raises(UserError) as raised:
        class_folders.decode(files, 8, tmp_path / "cache")
    assert str(raised.value).startswith("2 of 6 images cannot be used:")
    assert re.findall(r"^  (/.*\.png): cannot be read", str(raised.value), re.MULTILINE) == [
        str(files[1]),
        str(files[4]),
    ]
    assert list((tmp_path / "cache").iterdir()) == []


def test_decoding_in_processes_gives_the_same(tmp_path, monkeypatch):
    files = class_folders.find_images(make_images(tmp_path / "data", count=2, side=8)).files
    here = np.array(class_folders.decode(files, 8, tmp_path / "here"))
    monkeypatch.setattr(class_folders, "case_workers", lambda *_: 2)
    assert np.array_equal(class_folders.decode(files, 8, tmp_path / "there"), here)


def drawn(count: int, **changes) -> object:
    """What leaves images as they are, but for the changes."""
    same = {
        "affine": torch.eye(2, 3).repeat(count, 1, 1),
        "grey": torch.zeros(count, dtype=torch.bool),
        "inverted": torch.zeros(count, dtype=torch.bool),
        "gain": torch.ones(count, 3),
        "contrast": torch.ones(count),
        "gamma": torch.ones(count),
    }
    return image_augmentation.ImageChanges(**same | changes)


@pytest.fixture
def colours() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_nothing_drawn_changes_nothing(colours):
    torch.testing.assert_close(image_augmentation.apply(colours, drawn(2), 8), colours / 255, atol=1e-5, rtol=0)


def test_place_crops_scales_and_mirrors(colours):
    quarter = torch.tensor([[0.5, 0, -0.5], [0, -0.5, 0.5]]).repeat(2, 1, 1)
    given = image_augmentation.apply(colours, drawn(2, affine=quarter), 4)
    torch.testing.assert_close(given, colours[:, :, 4:, :4].flip(2) / 255, atol=1e-5, rtol=0)


def test_values_change_as_drawn(colours):
    one = torch.tensor([True, False])
    plain, luminance = colours / 255, torch.tensor(image_augmentation.LUMINANCE).view(1, 3, 1, 1)
    grey = image_augmentation.apply(colours, drawn(2, grey=one), 8)
    torch.testing.assert_close(grey[0], (plain * luminance).sum(1, keepdim=True)[0].expand(3, 8, 8))
    torch.testing.assert_close(grey[1], plain[1], atol=1e-5, rtol=0)
    inverted = image_augmentation.apply(colours, drawn(2, inverted=one), 8)
    torch.testing.assert_close(inverted, torch.stack([1 - plain[0], plain[1]]), atol=1e-5, rtol=0)
    power = image_augmentation.apply(colours, drawn(2, gamma=torch.tensor([2.0, 1.0])), 8)
    torch.testing.assert_close(power, torch.stack([plain[0] ** 2, plain[1]]), atol=1e-5, rtol=0)
    gain = image_augmentation.apply(colours, drawn(2, gain=torch.tensor([[0.5, 1.0, 2.0]] * 2)), 8)
    torch.testing.assert_close(gain[:, 0], plain[:, 0] / 2, atol=1e-5, rtol=0)
    torch.testing.assert_close(gain[:, 2], (2 * plain[:, 2]).clamp(max=1), atol=1e-5, rtol=0)
    flat = image_augmentation.apply(colours, drawn(2, contrast=torch.zeros(2)), 8)
    torch.testing.assert_close(flat[:, 0, 0, 0], plain.mean((1, 2, 3)))


@pytest.mark.parametrize("purpose", ["scans", "photos"])
def test_what_is_drawn_has_the_shares_and_ranges_that_are_written_down(purpose):
    ranges = image_augmentation.RANGES[purpose]
    one = image_augmentation.draw(4000, ranges, torch.Generator().manual_seed(0))
    columns, rows = one.affine[:, :, :2].norm(dim=1).T
    assert 0.35 * 0.99 < (columns * rows).min() < 0.37 and (columns * rows).max() <= 1
    assert one.grey.float().mean() == pytest.approx(ranges.grey, abs=0.03)
    assert one.inverted.float().mean() == pytest.approx(ranges.inverted, abs=0.03)
    angle = torch.atan2(one.affine[:, 1, 0], one.affine[:, 0, 0]).rad2deg()
    angle = torch.where(angle.abs() > 90, angle - 180 * angle.sign(), angle)
    assert angle.abs().max() == pytest.approx(ranges.rotation, abs=0.1)
    mirrored = torch.linalg.det(one.affine[:, :, :2]) < 0
    upside_down = (one.affine[:, 1, 1] < 0).float().mean()
    assert mirrored.float().mean() == pytest.approx(0.5, abs=0.03)
    assert upside_down == pytest.approx(0.5 if ranges.upside_down else 0, abs=0.03)
    inside = one.affine[:, :, 2].abs() + torch.stack([columns, rows], dim=1)
    assert inside.max() <= 1 + 1e-6


def test_grey_shares_are_a_third_for_photos_and_more_for_scans():
    assert image_augmentation.RANGES["photos"].grey == pytest.approx(1 / 3)
    assert image_augmentation.RANGES["scans"].grey > 1 / 3


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_large_100"])
def test_only_convolutions_decay(name):
    network = timm.create_model(name, pretrained=False, num_classes=3)
    names = {id(parameter): key for key, parameter in network.named_parameters()}
    decaying, others = learner.make_optimizer(network).param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (5e-4, 0.0)
    kernels = {f"{key}.weight" for key, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    assert {names[id(parameter)] for parameter in decaying["params"]} == kernels
    rest = {names[id(parameter)] for parameter in others["params"]}
    assert rest == set(names.values()) - kernels
    assert {"bn1.weight", "bn1.bias"} <= rest and any(key.endswith(("fc.weight", "classifier.weight")) for key in rest)


def test_reestimated_statistics_are_those_of_the_images():
    made = learner.Learner(entry("resnet18"), 3, seed=0, device="cpu", bfloat16=False)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(24, 3, 32, 32, generator=generator) ** 3
    made.step(images[:8], torch.arange(8) % 3, 0.1)
    norms = {name: module for name, module in made.network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    before = {name: norm.running_mean.clone() for name, norm in norms.items()}
    weights = {name: parameter.clone() for name, parameter in made.network.named_parameters()}
    made.recalibrate([images[:12], images[12:]])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (entry("resnet18").mean, entry("resnet18").std))
    with torch.no_grad():
        seen = made.network.conv1((images - mean) / std)
    first = norms["bn1"]
    torch.testing.assert_close(first.running_mean, seen.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first.running_var, seen.var((0, 2, 3)), atol=1e-5, rtol=1e-3)
    assert all((norm.running_mean - before[name]).abs().max() > 1e-3 for name, norm in norms.items())
    assert all(torch.equal(parameter, weights[name]) for name, parameter in made.network.named_parameters())


def test_a_network_without_batchnorm_needs_no_statistics():
    made = learner.Learner(entry("convnext_tiny"), 2, seed=0, device="cpu", bfloat16=False)
    made.recalibrate(pytest.fail("images were asked for") for _ in range(1))


def test_statistics_come_from_whole_batches_of_different_training_images():
    rows = fit.statistics_rows(np.arange(100, 20_100), 256, seed=0)
    assert len(rows) == len(set(rows)) == 9984 and rows.min() >= 100
    assert sorted(fit.statistics_rows(np.arange(5), 256, seed=0)) == [0, 1, 2, 3, 4]
    assert len(fit.statistics_rows(np.arange(70), 32, seed=0)) == 64


@pytest.mark.parametrize(
    ("name", "smallest", "message"),
    [
        ("alexnet", 64, "alexnet is not one of timm's networks"),
        ("inception_v3", 40, "too small for inception_v3"),
        ("resnet19", 40, "unknown encoder 'resnet19'"),
        ("timm/resnet19", 40, "timm has no network 'resnet19'"),
    ],
)
def test_networks_that_cannot_be_trained_here(name, smallest, message):
    with pytest.raises(UserError, match=message):
        learner.trainable_encoder(name, smallest)


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0", "convnext_tiny", "densenet121", "regnety_016"])
def test_other_networks_fit_images_of_40_pixels(name):
    assert learner.trainable_encoder(name, 40).name == name


def test_documented_command_has_these_options() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "pretrain.md").read_text(encoding="utf-8")
    known = {flag_of(PretrainOptions, name) for name in fields_of(PretrainOptions)}
    named = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]*)", text))
    assert named and named <= known | {"--weights"}
