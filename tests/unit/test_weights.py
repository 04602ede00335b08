"""Weights: what is loaded, what is adapted, what is refused."""

from __future__ import annotations

import pytest
import timm
import torch
from made_weights import resnet18_weights
from safetensors.torch import load_file, save_file

from seg_transfer.errors import UserError
from seg_transfer.planning.plan import Weights
from seg_transfer.transfer.encoder import Encoder
from seg_transfer.transfer.weights import adapt_input, load_weights


@pytest.fixture(scope="module")
def resnet18() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return timm.create_model("resnet18", pretrained=False).state_dict()


def load(path, encoder=None, name="resnet18"):
    encoder = encoder or Encoder(name, channels=3)
    return encoder, load_weights(encoder, Weights(source="file", path=str(path)), name)


def test_adapted_input_filters_have_these_values():
    rgb = torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1)
    assert adapt_input(rgb, 1).flatten().tolist() == [7.0]
    assert adapt_input(rgb, 3) is rgb
    assert adapt_input(rgb, 2).flatten().tolist() == [1.5, 3.0]
    assert adapt_input(rgb, 5).flatten().tolist() == pytest.approx([0.6, 1.2, 2.4, 0.6, 1.2])
    grey = torch.tensor([6.0]).view(1, 1, 1, 1)
    assert adapt_input(grey, 1) is grey
    assert adapt_input(grey, 3).flatten().tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_a_stack_of_several_channels_starts_as_its_middle_slice(channels: int) -> None:
    torch.manual_seed(0)
    stack = torch.randn(2, channels, 5, 32, 32)
    flat, deep = Encoder("resnet18", channels=channels), Encoder("resnet18", channels=channels * 5, slices=5)
    for encoder in (flat, deep):
        load_weights(encoder.eval(), resnet18_weights(), "resnet18")
    with torch.no_grad():
        for expected, found in zip(flat(stack[:, :, 2:3]), deep(stack), strict=True):
            assert torch.allclose(found, expected, atol=1e-4)


def test_a_stack_of_one_channel_is_read_as_colours() -> None:
    rgb = torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1)
    assert adapt_input(rgb, 3, slices=3) is rgb
    assert torch.equal(adapt_input(rgb, 5, slices=5), adapt_input(rgb, 5))


def test_weights_fill_the_stages_in_use_and_leave_head_and_deeper_stages():
    encoder = Encoder("resnet18", channels=3, stages=3)
    report = load_weights(encoder, resnet18_weights(), "resnet18")
    source = load_file(str(resnet18_weights().path))
    assert report.share == 1.0
    assert not report.adapted and not report.random
    assert report.matched["stages.0.conv1.weight"] == 64 * 3 * 49
    assert {name.split(".")[0] for name in report.unused} == {"fc", "layer3", "layer4"}
    state = encoder.state_dict()
    assert state["stages.2.layer2.0.bn1.running_var"].dtype == torch.float32
    for name, source_name in [
        ("stages.0.conv1.weight", "conv1.weight"),
        ("stages.1.layer1.1.conv2.weight", "layer1.1.conv2.weight"),
        ("stages.2.layer2.0.bn1.running_var", "layer2.0.bn1.running_var"),
    ]:
        assert torch.equal(state[name], source[source_name].float())


def test_weights_of_the_lower_stages_alone():
    torch.manual_seed(0)
    whole, lower = Encoder("resnet18", channels=3, stages=3), Encoder("resnet18", channels=3, stages=3)
    before = {name: tensor.clone() for name, tensor in lower.state_dict().items()}
    load_weights(whole, resnet18_weights(), "resnet18")
    report = load_weights(lower, resnet18_weights(), "resnet18", stages=2)
    assert {name.split(".")[1] for name in report.matched} == {"0", "1"}
    assert {name.split(".")[1] for name in report.random} == {"2"}
    assert {name.split(".")[0] for name in report.unused} == {"fc", "layer2", "layer3", "layer4"}
    for name, tensor in lower.state_dict().items():
        expected = before if name.startswith("stages.2.") else whole.state_dict()
        assert torch.equal(tensor, expected[name]), name


def test_report_tells_matched_from_adapted_in_3d_with_one_channel():
    encoder = Encoder("resnet18", channels=1, stages=2, slice_strides=(1, 2))
    report = load_weights(encoder, resnet18_weights(), "resnet18")
    assert list(report.adapted) == ["stages.0.conv1.weight"] + [
        f"stages.1.layer1.{block}.conv{index}.weight" for block in (0, 1) for index in (1, 2)
    ]
    assert report.adapted["stages.0.conv1.weight"] == 64 * 49
    assert report.adapted["stages.1.layer1.0.conv1.weight"] == 64 * 64 * 27
    assert "stages.0.bn1.running_mean" in report.matched
    source = load_file(str(resnet18_weights().path))
    weight = encoder.state_dict()["stages.1.layer1.0.conv1.weight"]
    torch.testing.assert_close(weight[:, :, 0], source["layer1.0.conv1.weight"].float() / 3)
    assert "100.0%" in str(report)


def test_none_leaves_the_encoder_random():
    encoder = Encoder("resnet18", channels=3, stages=1)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    report = load_weights(encoder, Weights(source="none"), "resnet18")
    assert report.share == 0.0
    assert sum(report.random.values()) == 64 * 3 * 49 + 4 * 64
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize("form", ["safetensors", "plain", "wrapped", "prefixed"])
def test_a_file_is_read_in_its_usual_forms(tmp_path, resnet18, form):
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
    if form == "safetensors":
        save_file(resnet18, path)
    elif form == "plain":
        torch.save(resnet18, path)
    elif form == "wrapped":
        torch.save({"state_dict": resnet18, "epoch": 3}, path)
    else:
        torch.save({"model": {f"module.encoder.{name}": tensor for name, tensor in resnet18.items()}}, path)
    encoder, report = load(path)
    assert report.share == 1.0
    prefix = "module.encoder." if form == "prefixed" else ""
    assert set(report.unused) == {f"{prefix}fc.weight", f"{prefix}fc.bias"}
    assert torch.equal(encoder.state_dict()["stages.4.layer4.1.conv2.weight"], resnet18["layer4.1.conv2.weight"])


def test_half_precision_becomes_float32(tmp_path, resnet18):
    save_file({name: tensor.bfloat16() for name, tensor in resnet18.items()}, tmp_path / "half.safetensors")
    encoder, _ = load(tmp_path / "half.safetensors")
    weight = encoder.state_dict()["stages.0.conv1.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, resnet18["conv1.weight"].bfloat16().float())


def test_below_ninety_percent_is_refused_and_above_is_reported(tmp_path, resnet18):
    without_top = {name: tensor for name, tensor in resnet18.items() if not name.startswith("layer4")}
    save_file(without_top, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="only 25% of the elements of resnet18's stages in use") as raised:
        load(tmp_path / "w.safetensors")
    assert "w.safetensors" in str(raised.value) and "layer4.0.conv1.weight" in str(raised.value)
    assert "in the file and not used: fc.bias, fc.weight" in str(raised.value)
    assert "they fit no encoder of the catalogue" in str(raised.value)

    _, report = load(tmp_path / "w.safetensors", Encoder("resnet18", channels=3, stages=4))
    assert report.share == 1.0

    without_one = {name: tensor for name, tensor in resnet18.items() if name != "layer4.0.downsample.0.weight"}
    save_file(without_one, tmp_path / "w.safetensors")
    _, report = load(tmp_path / "w.safetensors")
    assert report.random == {"stages.4.layer4.0.downsample.0.weight": 512 * 256}
    assert 0.98 < report.share < 1.0


def test_unfit_files_are_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"absent\.pt: there is no weights file"):
        load(tmp_path / "absent.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"broken\.safetensors: not readable as weights"):
        load(tmp_path / "broken.safetensors")
    (tmp_path / "broken.pt").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"broken\.pt: not readable as weights"):
        load(tmp_path / "broken.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match=r"list\.pt: holds no dictionary"):
        load(tmp_path / "list.pt")


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    torch.save({"conv1.weight": timm.create_model}, tmp_path / "code.pt")
    with pytest.raises(UserError, match=r"code\.pt: not readable as weights without running code") as raised:
        load(tmp_path / "code.pt")
    assert "it holds timm.models._factory.create_model" in str(raised.value)
    assert "tensors only" in raised.value.hint and "weights_only" not in str(raised.value)


def test_bundled_weights_fit_no_other_encoder():
    with pytest.raises(UserError, match="no bundled weights for resnet34"):
        load_weights(Encoder("resnet34", channels=3, stages=1), Weights(source="bundled"), "resnet34")
