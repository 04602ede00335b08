"""Weights that others trained: every usual way to name and wrap them, and pairs that do not belong together."""

from __future__ import annotations

from argparse import Namespace
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save_file

from seg_transfer.errors import UserError
from seg_transfer.planning.plan import Weights
from seg_transfer.transfer.encoder import Encoder
from seg_transfer.transfer.matching import Target, best_matches
from seg_transfer.transfer.weights import load_weights

CONV1, DEEP, MEAN = "conv1.weight", "layer2.1.conv2.weight", "layer2.0.bn1.running_mean"
STAGES = 3


def network(name: str, seed: int) -> dict[str, torch.Tensor]:
    """A full state dict as timm names it, random in statistics too."""
    generator = torch.Generator().manual_seed(seed)
    state = timm.create_model(name, pretrained=False, num_classes=3).state_dict()
    return {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for key, value in state.items()
    }


def small(state):
    """Without the upper stages, where most of the elements are."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(("layer3", "layer4"))}


@pytest.fixture(scope="module")
def resnet18():
    return small(network("resnet18", 0))


@pytest.fixture(scope="module")
def other():
    return small(network("resnet18", 1))


def prefixed(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def sequential(state):
    """As RadImageNet saves it: an nn.Sequential of torchvision's children but the last (conv1, bn1, relu, ...)."""
    order = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    renamed = {}
    for name, tensor in state.items():
        child, _, rest = name.partition(".")
        if child in order:
            renamed[f"backbone.{order[child]}.{rest}"] = tensor
    return renamed


def segmentation_model(state):
    """As segmentation_models_pytorch saves it: encoder, decoder and head side by side."""
    decoder = {"decoder.blocks.0.conv1.0.weight": torch.ones(4, 4, 3, 3), "segmentation_head.0.bias": torch.ones(2)}
    return prefixed(state, "encoder.") | decoder


def lightning(state):
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": OrderedDict(prefixed(state, "model.backbone.")),
        "hyper_parameters": {"lr": 1e-3, "name": "simclr", "sizes": [224, 224]},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
    }


FORMS = {
    "as_it_is": (lambda state, other: state, ""),
    "radimagenet": (lambda state, other: sequential(state), "backbone."),
    "data_parallel": (lambda state, other: {"state_dict": prefixed(state, "module.")}, "state_dict: module."),
    "net": (lambda state, other: {"net": prefixed(state, "net.")}, "net: net."),
    "nnunet": (lambda state, other: {"network_weights": prefixed(state, "encoder.")}, "network_weights: encoder."),
    "any_prefix": (lambda state, other: prefixed(state, "tower.0.visual_trunk."), "tower.0.visual_trunk."),
    "smp": (lambda state, other: segmentation_model(state), "encoder."),
    "smp_timm": (lambda state, other: segmentation_model(prefixed(state, "model.")), "encoder.model."),
    "lightning": (lambda state, other: lightning(state), "state_dict: model.backbone."),
    "moco": (
        lambda state, other: {
            "arch": "resnet18",
            "state_dict": prefixed(other, "module.encoder_k.") | prefixed(state, "module.encoder_q."),
        },
        "state_dict: module.encoder_q.",
    ),
    "dino": (
        lambda state, other: {
            "student": prefixed(other, "module.backbone."),
            "teacher": prefixed(state, "backbone."),
            "args": Namespace(lr=0.1, arch="resnet18"),
        },
        "teacher: backbone.",
    ),
    "averaged": (lambda state, other: {"state_dict": other, "state_dict_ema": state}, "state_dict_ema: "),
    "half_matching_beside": (
        lambda state, other: {
            "a": {name: tensor for name, tensor in other.items() if "layer2" not in name},
            "b": prefixed(state, "f."),
        },
        "b: f.",
    ),
    "twice_the_same": (lambda state, other: state | prefixed(state, "backbone."), ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_foreign_checkpoints_load_whole_and_with_the_right_tensors(form, resnet18, other, tmp_path):
    make, place = FORMS[form]
    torch.save(make(resnet18, other), tmp_path / "weights.ckpt")
    encoder = Encoder("resnet18", channels=3, stages=STAGES)
    report = load_weights(encoder, Weights(source="file", path=str(tmp_path / "weights.ckpt")), "resnet18")
    assert report.share == 1.0
    assert not report.random and not report.adapted
    assert report.place == place
    assert not place or f"found under {place}" in str(report)
    state = encoder.state_dict()
    for stage, name in (0, CONV1), (2, DEEP), (2, MEAN):
        assert torch.equal(state[f"stages.{stage}.{name}"], resnet18[name])


def test_heads_of_the_file_are_reported_as_unused_and_other_parts_are_not(resnet18, tmp_path):
    torch.save(lightning(resnet18), tmp_path / "w.ckpt")
    encoder = Encoder("resnet18", channels=3, stages=STAGES)
    report = load_weights(encoder, Weights(source="file", path=str(tmp_path / "w.ckpt")), "resnet18")
    assert report.unused == {"model.backbone.fc.weight": 3 * 512, "model.backbone.fc.bias": 3}


def test_a_numbered_file_fits_3d_with_two_channels_and_fewer_stages(resnet18, tmp_path):
    save_file(sequential(resnet18), tmp_path / "rad.safetensors")
    encoder = Encoder("resnet18", channels=2, stages=2, slice_strides=(1, 2))
    report = load_weights(encoder, Weights(source="file", path=str(tmp_path / "rad.safetensors")), "resnet18")
    assert report.share == 1.0
    state = encoder.state_dict()
    assert torch.equal(state["stages.0.conv1.weight"], resnet18[CONV1][:, :2] * 1.5)
    torch.testing.assert_close(
        state["stages.1.layer1.1.conv2.weight"].sum(2), resnet18["layer1.1.conv2.weight"], rtol=1e-6, atol=1e-6
    )


def test_weights_trained_on_one_channel_serve_a_stack(resnet18, tmp_path):
    grey = resnet18 | {CONV1: resnet18[CONV1][:, :1]}
    save_file({name: tensor.contiguous() for name, tensor in grey.items()}, tmp_path / "grey.safetensors")
    encoder = Encoder("resnet18", channels=5, stages=STAGES)
    report = load_weights(encoder, Weights(source="file", path=str(tmp_path / "grey.safetensors")), "resnet18")
    assert report.adapted == {"stages.0.conv1.weight": 64 * 5 * 49}
    weight = encoder.state_dict()["stages.0.conv1.weight"]
    torch.testing.assert_close(weight, resnet18[CONV1][:, :1].expand(-1, 5, -1, -1) / 5)


def test_a_first_convolution_that_reads_neither_rgb_nor_grey_is_warned_of(resnet18, tmp_path, caplog):
    save_file(resnet18 | {CONV1: torch.ones(64, 4, 7, 7)}, tmp_path / "four.safetensors")
    encoder = Encoder("resnet18", channels=3, stages=STAGES)
    report = load_weights(encoder, Weights(source="file", path=str(tmp_path / "four.safetensors")), "resnet18")
    assert list(report.random) == ["stages.0.conv1.weight"]
    assert "the first convolution does not fit" in caplog.text


def refused(path, name="resnet18"):
    with pytest.raises(UserError) as raised:
        load_weights(Encoder(name, channels=3, stages=STAGES), Weights(source="file", path=str(path)), name)
    return raised.value


def test_two_different_encoders_that_fit_alike_are_refused(resnet18, other, tmp_path):
    torch.save(prefixed(resnet18, "online.") | prefixed(other, "target."), tmp_path / "byol.pt")
    error = refused(tmp_path / "byol.pt")
    assert "more than once, and they differ: under online. and under target." in error.what
    assert "in a separate file" in error.hint


def test_weights_of_another_encoder_name_the_one_they_fit(tmp_path):
    torch.save({"state_dict": prefixed(network("resnet50", 2), "module.")}, tmp_path / "w.pth")
    error = refused(tmp_path / "w.pth")
    assert "of the elements of resnet18's stages in use are in these weights (90% are needed)" in error.what
    assert "missing, or of another shape: layer1.0.conv1.weight" in error.what
    assert "in the file and not used: module." in error.what
    assert error.hint.startswith("they fit resnet50: plan with --encoder resnet50")


@pytest.mark.parametrize("numbered", [False, True])
def test_a_deeper_network_of_the_same_kind_is_refused_although_every_name_is_there(numbered, tmp_path):
    state = network("resnet34", 2)
    torch.save(sequential(state) if numbered else state, tmp_path / "w.pth")
    error = refused(tmp_path / "w.pth")
    assert "these weights are of a larger network than resnet18" in error.what
    assert ("backbone.4.2." if numbered else "layer1.2.") in error.what
    assert error.hint.startswith("they fit resnet34: plan with --encoder resnet34")


def test_weights_of_no_known_encoder_say_what_names_are_needed(tmp_path):
    torch.save({"model": {"stem.0.weight": torch.ones(8, 3, 3, 3), "head.bias": torch.ones(4)}}, tmp_path / "w.pth")
    error = refused(tmp_path / "w.pth")
    assert error.what.startswith("only 0% of the elements")
    assert "shape: conv1.weight, bn1.weight, bn1.bias, ...; in the file and not used: stem.0.weight, head.bias" in (
        error.what
    )
    assert "they fit no encoder of the catalogue" in error.hint


def test_a_checkpoint_that_needs_code_names_it_and_says_what_to_do(resnet18, tmp_path):
    torch.save({"state_dict": resnet18, "config": SimpleNamespace(lr=1)}, tmp_path / "w.ckpt")
    error = refused(tmp_path / "w.ckpt")
    assert "without running code that the file names: it holds types.SimpleNamespace" in error.what
    assert "tensors only" in error.hint
    assert "weights_only" not in str(error)


def test_a_broken_file_is_refused_without_torchs_advice_to_drop_the_safeguard(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"nonsense")
    assert "weights_only" not in str(refused(tmp_path / "w.pth"))


def test_keras_weights_are_refused_by_name(tmp_path):
    (tmp_path / "RadImageNet-ResNet50_notop.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    error = refused(tmp_path / "RadImageNet-ResNet50_notop.h5")
    assert "Keras weights cannot be read" in error.what


def test_numbers_may_leave_gaps_where_the_encoder_has_no_such_branch():
    """As in RadImageNet's Inception, whose auxiliary head lies between two modules of the encoder."""
    target = Target({"first.conv.weight": (4, 3, 3, 3), "second.conv.weight": (8, 4, 1, 1)}, "first.conv.weight")
    source = {"0.conv.weight": (4, 3, 3, 3), "3.aux.fc.weight": (8, 4), "4.conv.weight": (8, 4, 1, 1)}
    (match,) = best_matches(target, {"": source})
    assert match.pairs == {"first.conv.weight": "0.conv.weight", "second.conv.weight": "4.conv.weight"}
    assert (match.share, match.prefix) == (1.0, "")


def test_names_without_their_common_first_component_match_too():
    """As in RadImageNet's DenseNet: ``backbone.0.conv0`` for ``features.conv0``."""
    target = Target({"features_conv0.weight": (4, 3, 3, 3), "features_norm0.weight": (4,)}, "features_conv0.weight")
    source = {"backbone.0.conv0.weight": (4, 3, 3, 3), "backbone.0.norm0.weight": (4,)}
    (match,) = best_matches(target, {"": source})
    assert match.prefix == "backbone.0."
    assert match.pairs == dict(zip(target.shapes, source, strict=True))
