"""Starting from an earlier model: what is carried over, with which values, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from made_fingerprints import channel, fingerprint, images_2d, plan_of
from made_plans import data_plan, model_plan, plan

from seg_transfer.data.description import Region
from seg_transfer.errors import UserError
from seg_transfer.evidence.frozen_encoders import probed_model
from seg_transfer.exporting.save import make_header, save_model_file
from seg_transfer.network.build import build_network
from seg_transfer.network.unet import UNet
from seg_transfer.planning.data_plan import Channel, Normalization
from seg_transfer.planning.plan import ModelPlan, Plan, Weights
from seg_transfer.planning.rules.earlier_model import EarlierModel
from seg_transfer.training.checkpoint import save_state
from seg_transfer.training.run_folder import PlanFolder, TrainedRuns
from seg_transfer.transfer.weights import LoadReport
from seg_transfer.util.files import file_digest

pytestmark = pytest.mark.usefixtures("one_thread")

PATCHES = {"2d": (1, 32, 32), "2.5d": (3, 32, 32), "3d": (8, 32, 32)}


def earlier_plan(configuration: str, *, channels: int = 1, **model: Any) -> Plan:
    names = tuple(Channel(name=f"T{index}", normalization=Normalization(kind="zscore")) for index in range(channels))
    return plan(data_plan(channels=names), model_plan(configuration, PATCHES[configuration], **model))


def export(folder: Path, made: Plan) -> tuple[Path, UNet]:
    """A model file of a network of random weights, and that network."""
    channels, classes = len(made.data.channels), len(made.data.labels)
    network, _ = build_network(made.model, channels=channels, classes=classes, seed=3, pretrained_stages=0)
    with torch.no_grad():  # BatchNorm statistics that tell
        for name, tensor in network.state_dict().items():
            if name.endswith("running_mean"):
                tensor.uniform_(-0.1, 0.1)
    trained = TrainedRuns(PlanFolder(folder, made), (0,))
    save_state(trained.models[0], "model", network.state_dict(), {"plan": made.model_dump(mode="json")})
    save_model_file(folder / "model.segtl", make_header([trained]), [trained])
    return folder / "model.segtl", network.eval()


def started(
    file: Path,
    configuration: str,
    *,
    carry: str,
    heads: bool = False,
    channels: int = 1,
    classes: int = 5,
    **changes: Any,
) -> tuple[UNet, LoadReport]:
    carried: Any = {"carry": carry, "heads": heads}
    weights = Weights(source="model", path=str(file), sha256=file_digest(file), **carried)
    model: ModelPlan = model_plan(configuration, PATCHES[configuration], weights=weights, **changes)
    network, report = build_network(model, channels=channels, classes=classes, seed=0)
    return network.eval(), report


def image(configuration: str, channels: int) -> torch.Tensor:
    return torch.randn(2, channels, *PATCHES[configuration], generator=torch.Generator().manual_seed(0))


def decoded(network: UNet, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        return network._decode(x)


def encoded(network: UNet, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        return network.encoder(x)


@pytest.mark.parametrize("configuration", ["2d", "2.5d", "3d"])
def test_with_the_same_channels_everything_but_the_heads_is_the_same(configuration: str, tmp_path: Path) -> None:
    changes = {"slice_strides": (1, 2)} if configuration == "3d" else {}
    file, before = export(tmp_path, earlier_plan(configuration, channels=2, **changes))
    network, report = started(file, configuration, carry="all", channels=2, **changes)
    x = image(configuration, 2)
    for actual, expected in zip(decoded(network, x), decoded(before, x), strict=True):
        torch.testing.assert_close(actual, expected)
    assert not report.adapted
    assert set(report.random) == {name for name in network.state_dict() if name.startswith("heads.")}
    assert "of the network is carried over from an earlier model" in str(report)
    assert set(report.unused) == set(report.random)


def test_with_the_same_labels_the_whole_network_is_the_same(tmp_path: Path) -> None:
    file, before = export(tmp_path, earlier_plan("2d"))
    network, report = started(file, "2d", carry="all", heads=True, classes=3)
    x = image("2d", 1)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), before(x))
    assert not report.random and not report.unused
    with pytest.raises(UserError, match=r"does not fit the planned network: heads\.0\.weight"):
        started(file, "2d", carry="all", heads=True, classes=4)


@pytest.mark.parametrize("configuration", ["2d", "2.5d"])
@pytest.mark.parametrize(("earlier", "after"), [(1, 2), (1, 3), (2, 1), (2, 4), (3, 1)])
def test_other_channels_are_adapted_so_that_equal_ones_give_equal_maps(
    configuration: str, earlier: int, after: int, tmp_path: Path
) -> None:
    """Each slice of a stack meets the filters that it met before."""
    file, before = export(tmp_path, earlier_plan(configuration, channels=earlier))
    network, report = started(file, configuration, carry="all", channels=after)
    same = image(configuration, 1)
    image_after, image_before = same.repeat(1, after, 1, 1, 1), same.repeat(1, earlier, 1, 1, 1)
    for actual, expected in zip(decoded(network, image_after), decoded(before, image_before), strict=True):
        torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-4)
    assert set(report.adapted) == {"encoder.stages.0.conv1.weight", "raw.0.weight"}


@pytest.mark.parametrize(
    ("earlier", "before_channels", "after", "after_channels", "carry"),
    [
        ("2d", 3, "2.5d", 1, "all"),
        ("2d", 2, "2.5d", 2, "all"),
        ("2.5d", 1, "2d", 3, "all"),
        ("2.5d", 2, "2d", 1, "all"),
        ("2.5d", 2, "3d", 4, "encoder"),
    ],
)
def test_slices_are_no_channels(
    earlier: str, before_channels: int, after: str, after_channels: int, carry: str, tmp_path: Path
) -> None:
    """Where all slices and all channels are equal, maps are those of before."""
    file, before = export(tmp_path, earlier_plan(earlier, channels=before_channels))
    changes = {"slice_strides": (1, 1)} if after == "3d" else {}
    network, _ = started(file, after, carry=carry, channels=after_channels, **changes)
    plane = image("2d", 1)
    maps = decoded if carry == "all" else encoded
    flat = maps(before, plane.repeat(1, before_channels, PATCHES[earlier][0], 1, 1))
    again = maps(network, plane.repeat(1, after_channels, PATCHES[after][0], 1, 1))
    for actual, expected in zip(again, flat, strict=True):
        same = actual[:, :, 0] if after == "3d" else actual
        torch.testing.assert_close(same, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["encoder.stages.0.conv1.weight", "raw.0.weight"])
def test_two_channels_keep_apart_in_a_stack(name: str, tmp_path: Path) -> None:
    """The middle slice of each channel takes that channel's filters."""
    file, before = export(tmp_path, earlier_plan("2d", channels=2))
    network, _ = started(file, "2.5d", carry="all", channels=2)
    stacks = network.state_dict()[name].unflatten(1, (2, 3, -1))
    torch.testing.assert_close(stacks[:, :, 1], before.state_dict()[name].unflatten(1, (2, -1)))
    assert not stacks[:, :, ::2].any()


def test_the_encoder_alone_leaves_the_decoder_random(tmp_path: Path) -> None:
    file, before = export(tmp_path, earlier_plan("2d"))
    network, report = started(file, "2d", carry="encoder", decoder_channels=(16, 8))
    x = image("2d", 1)
    for actual, expected in zip(encoded(network, x), encoded(before, x), strict=True):
        torch.testing.assert_close(actual, expected)
    assert not report.random and report.share == 1
    assert all(name.startswith("encoder.") for name in report.matched)
    assert "of the encoder is carried over" in str(report)


@pytest.mark.parametrize("earlier", ["2d", "2.5d"])
@pytest.mark.parametrize("strides", [(1, 2), (2, 2)])
def test_2d_kernels_are_inflated(earlier: str, strides: tuple[int, int], tmp_path: Path) -> None:
    """Features of a volume that is constant along its slices are those of each slice."""
    file, before = export(tmp_path, earlier_plan(earlier))
    network, report = started(file, "3d", carry="encoder", slice_strides=strides)
    slices = image("2d", 1)
    flat = encoded(before, slices.repeat(1, 1, PATCHES[earlier][0], 1, 1))
    for volume, plane in zip(encoded(network, slices.repeat(1, 1, 8, 1, 1)), flat, strict=True):
        torch.testing.assert_close(volume, plane[:, :, None].expand_as(volume), atol=1e-4, rtol=1e-4)
    assert any(name.endswith("conv1.weight") for name in report.adapted)


def test_deep_kernels_become_flat_where_the_new_stage_sees_single_slices(tmp_path: Path) -> None:
    file, before = export(tmp_path, earlier_plan("3d", slice_strides=(2, 2)))
    network, _ = started(file, "3d", carry="encoder", slice_strides=(1, 1))
    assert network.encoder.has_depth == (False, True) and before.encoder.has_depth == (True, True)
    volume = image("2d", 1).repeat(1, 1, 8, 1, 1)
    for actual, expected in zip(encoded(network, volume), encoded(before, volume), strict=True):
        torch.testing.assert_close(actual[:, :, :1], expected[:, :, :1], atol=1e-4, rtol=1e-4)


def test_another_file_in_its_place_is_refused(tmp_path: Path) -> None:
    file, _ = export(tmp_path, earlier_plan("2d"))
    weights = Weights(source="model", path=str(file), sha256="0" * 64, carry="all")
    with pytest.raises(UserError, match="has changed since planning"):
        build_network(model_plan("2d", (1, 32, 32), weights=weights), channels=1, classes=2, seed=0)
    file.unlink()
    with pytest.raises(UserError, match="there is no model file"):
        build_network(model_plan("2d", (1, 32, 32), weights=weights), channels=1, classes=2, seed=0)


def planned(made: Plan, **options: Any) -> Plan:
    measured = options.pop("measured", fingerprint(shape=(120, 120, 40), spacing=(1.0, 1.0, 1.0)))
    settings = {"from_model": "/m.segtl", "memory": 10**10} | options
    return plan_of(measured, earlier=EarlierModel("/m.segtl", "ab", made), **settings)


WIDTHS = {"stages": 4, "decoder_channels": (32, 64, 128, 256)}


def test_encoder_stages_and_configuration_come_from_the_model() -> None:
    for configuration, changes in (("2d", {}), ("2.5d", {}), ("3d", {"slice_strides": (2, 2, 1, 1)})):
        for stages in (2, 4):
            settings = WIDTHS | {"encoder": "resnet34", "stages": stages} | changes
            settings["decoder_channels"] = (32, 64, 128, 256)[:stages]
            settings["slice_strides"] = settings.get("slice_strides", ())[:stages]
            found = planned(earlier_plan(configuration, **settings)).model
            assert (found.encoder, found.configuration, found.stages) == ("resnet34", configuration, stages)
            assert found.weights.source == "model" and found.weights.sha256 == "ab"
    small = planned(earlier_plan("2d", **WIDTHS), measured=fingerprint(shape=(35, 50, 36)))
    assert small.model.stages == 3 and small.model.weights.carry == "encoder"
    assert "stages 4 against 3" in next(r.reason for r in small.reasons if r.field == "model.weights")


def test_the_decoder_comes_along_where_it_fits() -> None:
    assert planned(earlier_plan("2d", **WIDTHS)).model.weights.carry == "all"
    assert planned(earlier_plan("2d", **WIDTHS), carry="encoder").model.weights.carry == "encoder"
    assert planned(earlier_plan("2d", **WIDTHS), config="2.5d").model.weights.carry == "all"
    narrow = earlier_plan("2d", **(WIDTHS | {"decoder_channels": (16, 32, 64, 64)}))
    assert planned(narrow).model.weights.carry == "encoder"
    with pytest.raises(UserError, match=r"--carry all.*widths 16 x 32 x 64 x 64 against 32 x 64 x 128 x 256"):
        planned(narrow, carry="all")
    # the limits of a step shrink the patch in 3D, so that the new decoder has half of the usual channels
    volume = earlier_plan("3d", **(WIDTHS | {"decoder_channels": (16, 32, 64, 128)}), slice_strides=(2, 2, 2, 1))
    found = planned(volume)
    assert found.model.weights.carry == ("all" if found.model.slice_strides == (2, 2, 2, 1) else "encoder")
    inflated = planned(earlier_plan("2d", **WIDTHS), config="3d").model
    assert inflated.configuration == "3d" and inflated.weights.carry == "encoder"
    with pytest.raises(UserError, match="2d kernels against 3d"):
        planned(earlier_plan("2d", **WIDTHS), config="3d", carry="all")


def test_heads_come_along_where_the_labels_are_the_same() -> None:
    labels = planned(earlier_plan("2d", **WIDTHS)).data.labels
    one = Region(name="all", values=(labels[1].value,), writes=labels[1].value)
    for changes, heads in (
        ({"labels": labels}, True),
        ({"labels": (*labels[:-1], labels[-1].model_copy(update={"name": "other"}))}, False),
        ({"labels": (*labels[:-1], labels[-1].model_copy(update={"value": 99}))}, False),
        (
            {"labels": labels, "regions": (one,)},
            False,
        ),
    ):
        earlier = plan(data_plan(**changes), model_plan("2d", PATCHES["2d"], **WIDTHS))
        found = planned(earlier)
        assert (found.model.weights.carry, found.model.weights.heads) == ("all", heads)
        reason = next(each.reason for each in found.reasons if each.field == "model.weights")
        assert ("heads too, since the labels are the same" in reason) == heads
        assert not planned(earlier, carry="encoder").model.weights.heads
        probed = probed_model(found).weights  # evidence is measured on its encoder alone
        assert (probed.source, probed.carry, probed.heads) == ("model", "encoder", False)


def test_what_cannot_work_is_refused_at_plan_time() -> None:
    deep = earlier_plan("3d", **WIDTHS, slice_strides=(1, 1, 2, 2))
    for changes in ({"config": "2d"}, {"config": "2.5d"}, {"measured": images_2d()}):
        with pytest.raises(UserError, match=r"a 3d model cannot start a 2.*d one: its stages 2, 3 read several slices"):
            planned(deep, **changes)
    shallow = planned(deep, config="2d", measured=fingerprint(shape=(16, 12, 35), spacing=(1.0, 1.0, 1.0)))
    assert shallow.model.stages <= 2 and shallow.model.weights.carry == "encoder"  # the flat stages alone
    flat = earlier_plan("2d", **WIDTHS)
    with pytest.raises(UserError, match="the model to start from has a resnet18, but resnet50 is requested"):
        planned(flat, encoder="resnet50")
    with pytest.raises(UserError, match="excludes --weights bundled"):
        planned(flat, weights="bundled")
    with pytest.raises(UserError, match="excludes --strategy scratch"):
        planned(flat, strategy="scratch")
    with pytest.raises(UserError, match="needs a model to carry over from"):
        planned(flat, from_model=None, carry="encoder")


def test_the_classic_advice_compares_the_channels_with_those_of_the_earlier_model() -> None:
    cases = fingerprint(shape=(120, 120, 40), channels=(channel("t0"),))
    other = fingerprint(shape=(120, 120, 40), channels=(channel("MRI"),))
    for measured, words in (
        (cases, "similar: the earlier model was trained on t0 too"),
        (other, "different: the earlier"),
    ):
        made = planned(earlier_plan("2d", **WIDTHS), measured=measured, strategy="classic")
        assert words in next(reason.reason for reason in made.reasons if reason.field == "recipe.strategy")
        assert made.recipe.strategy.pretrained_stages == made.model.stages


def test_weights_of_a_model_name_file_digest_and_what_is_carried() -> None:
    wrong = {"path": None}, {"sha256": None}, {"carry": None}, {"source": "file"}, {"source": "none"}
    for changes in (*wrong, {"carry": "encoder", "heads": True}):
        settings = {"source": "model", "path": "m", "sha256": "ab", "carry": "all"} | changes
        with pytest.raises(ValueError, match="only for"):
            Weights.model_validate(settings)
