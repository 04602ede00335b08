"""Every encoder under one suite: pyramid, first convolution, 3D, gradients, checkpoints and freezing."""

from __future__ import annotations

import math

import pytest
import timm
import torch
import torchvision
from made_plans import learns

from seg_transfer.catalogue.encoders import ENCODERS, EncoderEntry, entry
from seg_transfer.network.build import build_network
from seg_transfer.planning.plan import ModelPlan, Weights
from seg_transfer.transfer.encoder import Encoder
from seg_transfer.transfer.unfreezing import StrategySchedule
from seg_transfer.transfer.weights import load_weights

SIZE = (33, 47)
MANY_PARAMETERS, SEVERAL_PARAMETERS = 12_000_000, 7_000_000
HEADS = ("fc", "head", "classifier", "pre_logits", "conv_head", "bn2", "norm_head")
"""Modules of the libraries' networks that come after the pyramid."""
ALEXNET_PHASE, INCEPTION_PHASE = 3, 1

SAME_BLOCKS = {
    "resnet34",
    "resnext50",
    "tf_efficientnet_lite1",
    "tf_efficientnet_lite2",
    "hgnetv2_b2",
    "mobilenet_edgetpu_v2_m",
}
"""More or wider ones of the blocks that another encoder has: `make slow` tests them."""


SAME_STEM = {"densenet121", "regnety_016", "resnet50", "convnext_tiny"}
"""The first convolution is like that of another encoder, with the same size, stride and norm."""


COSTLY = {"densenet121", "regnety_016", "convnext_tiny"}
"""In 3D; other tests inflate their blocks too."""


def slow(name: str, *others: str) -> object:
    """A parameter of a test that `make slow` alone runs."""
    return pytest.param(name, *others, marks=pytest.mark.slow)


def each(name: str, *others: str) -> object:
    """A parameter of a test; that of an encoder with another's blocks is slow."""
    return slow(name, *others) if name in SAME_BLOCKS else pytest.param(name, *others)


def configurations(name: str, known: EncoderEntry) -> list[object]:
    """Parameters of an encoder in its configurations: that with the most kinds of modules, and the others, slow."""
    if known.volumes:
        return [slow(name, "2d"), slow(name, "2.5d"), each(name, "3d")]
    return [slow(name, "2d"), each(name, "2.5d")]


every_encoder = pytest.mark.parametrize("name", list(map(each, ENCODERS)))
CONFIGURATIONS = [one for name, known in ENCODERS.items() for one in configurations(name, known)]
every_configuration = pytest.mark.parametrize(("name", "configuration"), CONFIGURATIONS)
WIDEST = [each(name, "3d" if known.volumes else "2.5d") for name, known in ENCODERS.items()]
"""Each encoder in the configuration with the most kinds of modules."""
widest = pytest.mark.parametrize(("name", "configuration"), WIDEST)
every_3d = pytest.mark.parametrize(
    "name", [slow(name) if name in COSTLY else each(name) for name, known in ENCODERS.items() if known.volumes]
)
pytestmark = pytest.mark.usefixtures("one_thread")


def stages_enough(known: EncoderEntry) -> int:
    """Stages that hold every kind of module of an encoder; all where they are not too large."""
    return 3 if known.parameters > SEVERAL_PARAMETERS else len(known.channels)


def strides_along(configuration: str, stages: int) -> tuple[int, ...]:
    return (1, 2, 1, 2, 1)[:stages] if configuration == "3d" else ()


def encoder(name: str, configuration: str, *, channels: int = 1, stages: int | None = None) -> Encoder:
    stages = stages or len(entry(name).channels)
    return Encoder(
        name,
        channels=channels * (3 if configuration == "2.5d" else 1),
        stages=stages,
        slice_strides=strides_along(configuration, stages) or None,
    )


def model(name: str, configuration: str, stages: int) -> ModelPlan:
    return ModelPlan(
        configuration=configuration,
        patch=({"2d": 1, "2.5d": 3, "3d": 5}[configuration], *SIZE),
        encoder=name,
        weights=Weights(source="none"),
        stages=stages,
        slice_strides=strides_along(configuration, stages),
        input_mapping="as_is",
        decoder_channels=(4, 4, 8, 8, 8)[:stages],
    )


def first_weight(made: Encoder) -> str:
    """The first of the weights that read the image, which the made checkpoint fills at random."""
    return next(name for name in made.state_dict() if name in made.image_weights())


def random_image(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def library_network(name: str) -> torch.nn.Module:
    known = entry(name)
    if known.library == "torchvision":
        return torchvision.models.get_model(known.library_name, weights=None)
    # VGG's head has 120 million weights which are never read.
    head = {"mlp_ratio": 0.001} if name.startswith("vgg") else {}
    return timm.create_model(known.library_name, pretrained=False, num_classes=2, **head)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Path of a full state dict as the library names it, and its first convolution, which alone is no constant."""
    made = {}

    def make(name: str):
        if name not in made:
            with torch.device("meta"):
                state = library_network(name).state_dict()
            shapes = {key: value.shape for key, value in state.items() if value.is_floating_point()}
            first = next(key for key, shape in shapes.items() if len(shape) == 4)
            state = {key: torch.tensor(0.5).expand(shape) for key, shape in shapes.items()}
            state[first] = random_image(*shapes[first])
            path = tmp_path_factory.mktemp(name) / "weights.pt"
            torch.save(state, path)
            made[name] = path, state[first]
        return made[name]

    return make


@every_configuration
def test_every_stage_has_the_catalogues_channels_and_the_size_rounded_up(name, configuration):
    made = encoder(name, configuration).eval()
    known = entry(name)
    assert made.channels == known.channels
    assert tuple(stride[1:] for stride in made.strides) == tuple((stride, stride) for stride in known.strides)
    assert tuple(math.log2(stride) for stride in known.strides) == tuple(range(6 - len(known.strides), 6))
    slices = {"2d": 1, "2.5d": 3, "3d": 5}[configuration]
    for size in (SIZE, (64, 31)):
        with torch.no_grad():
            stages = made(random_image(1, 1, slices, *size))
        assert [stage.shape[1] for stage in stages] == list(known.channels)
        for stage, stride in zip(stages, made.strides, strict=True):
            expected = [math.ceil(length / step) for length, step in zip((slices, *size), stride, strict=True)]
            assert list(stage.shape[2:]) == (expected if configuration == "3d" else expected[1:])


@pytest.mark.parametrize(
    "name",
    [
        each(name)
        for name, known in ENCODERS.items()
        if known.library == "timm" and known.parameters < MANY_PARAMETERS and name != "inception_v3"
    ]
    + ["convnext_tiny", "vgg16_bn"],
)
def test_features_are_the_librarys_own(name):
    known = entry(name)
    stages = stages_enough(known)
    torch.manual_seed(0)
    network = timm.create_model(known.library_name, features_only=True, pretrained=False).eval()
    made = Encoder(name, channels=3, stages=stages).eval()
    state = {key.replace(".", "_"): value for key, value in network.state_dict().items()}
    for key, value in made.state_dict().items():
        value.copy_(state[key.split(".", 2)[2].replace(".", "_")])
    # Odd at every stage, where TensorFlow's padding is centred too.
    size = (65, 97) if name.startswith("tf_") else (64, 96)
    x = random_image(1, 3, *size)
    with torch.no_grad():
        expected = [stage for stage in network(x) if stage.shape[2] < size[0]][:stages]
        for ours, theirs in zip(made(x.unsqueeze(2)), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_alexnets_first_features_are_torchvisions_at_another_phase():
    network = library_network("alexnet").eval()
    made = Encoder("alexnet", channels=3, stages=1).eval()
    first = {key: value for key, value in network.features.state_dict().items() if key.startswith("0.")}
    made.stages[0].load_state_dict({f"features_{key}": value for key, value in first.items()})
    x = random_image(1, 3, 75, 75)
    with torch.no_grad():
        theirs = network.features[:2](x)
        (ours,) = made(x[..., ALEXNET_PHASE:, ALEXNET_PHASE:].unsqueeze(2))
    torch.testing.assert_close(ours[..., 2:-2, 2:-2], theirs[..., 2:16, 2:16])


def test_inceptions_first_features_are_timms_at_another_phase():
    torch.manual_seed(0)
    network = timm.create_model("inception_v3", features_only=True, pretrained=False, out_indices=(0,)).eval()
    made = Encoder("inception_v3", channels=3, stages=1).eval()
    made.stages[0].load_state_dict(network.state_dict())
    x = random_image(1, 3, 75, 75)
    with torch.no_grad():
        (theirs,) = network(x)
        (ours,) = made(x[..., INCEPTION_PHASE:, INCEPTION_PHASE:].unsqueeze(2))
    torch.testing.assert_close(ours[..., 3:-3, 3:-3], theirs[..., 2:-2, 2:-2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [each(name) if name not in SAME_STEM else slow(name) for name in ENCODERS])
def test_the_first_convolution_reads_any_number_of_channels(name, checkpoint):
    path, rgb = checkpoint(name)
    weights = Weights(source="file", path=str(path))
    read = {"2d": (1, 5), "2.5d": (2,), "3d": (2,)}
    for configuration in ("2d", "2.5d", "3d") if entry(name).volumes else ("2d", "2.5d"):
        for channels in read[configuration]:
            slices = 3 if configuration == "2.5d" else 1
            along = (2,) if configuration == "3d" else None
            made = Encoder(name, channels=channels * slices, stages=1, slice_strides=along)
            assert load_weights(made, weights, name).share == 1.0
            weight = made.get_parameter(first_weight(made))
            if configuration == "3d":
                assert weight.shape[2] == (2 if name.startswith("convnext") else 3)
                torch.testing.assert_close(weight[:, :, 0], weight[:, :, -1])
                weight = weight.sum(2)
            assert weight.shape[1] == channels * slices
            if channels * slices == 1:
                torch.testing.assert_close(weight[:, 0], rgb[:, 0] + rgb[:, 1] + rgb[:, 2])
            for channel in range(channels * slices if channels * slices > 1 else 0):
                torch.testing.assert_close(weight[:, channel], rgb[:, channel % 3] * 3 / (channels * slices))


@every_encoder
def test_a_full_checkpoint_fills_every_stage_and_leaves_only_the_head(name, checkpoint):
    path, rgb = checkpoint(name)
    made = Encoder(name, channels=3)
    report = load_weights(made, Weights(source="file", path=str(path)), name)
    assert report.share == 1.0
    assert not report.random and not report.adapted
    assert report.unused and all(key.startswith(HEADS) for key in report.unused)
    first = first_weight(made)
    for key, value in made.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(value, rgb) if key == first else (value == 0.5).all()


@every_3d
def test_a_volume_constant_along_the_slice_axis_keeps_the_2d_features(name, tmp_path):
    stages = stages_enough(entry(name))
    torch.manual_seed(0)
    flat = Encoder(name, channels=1, stages=stages).eval()
    path = tmp_path / "weights.pt"
    torch.save({key.split(".", 2)[2]: value for key, value in flat.state_dict().items()}, path)
    x = random_image(1, 1, 1, *SIZE)
    with torch.no_grad():
        expected = flat(x)
    for slice_strides, inflation in (((1, 2, 2, 2, 1), "average"), ((2, 1, 2, 1, 2), "centre")):
        along = slice_strides[:stages]
        deep = Encoder(name, channels=1, stages=stages, slice_strides=along, inflation=inflation).eval()
        assert load_weights(deep, Weights(source="file", path=str(path)), name).share == 1.0
        slices = 5
        with torch.no_grad():
            maps = deep(x.repeat(1, 1, 5, 1, 1))
        for stride, two, three in zip(along, expected, maps, strict=True):
            slices = math.ceil(slices / stride)
            assert three.shape[2] == slices
            scale = two.abs().max()
            assert scale > 0
            torch.testing.assert_close(three / scale, two.unsqueeze(2).expand_as(three) / scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "configuration"), [*map(each, ENCODERS, ["2d"] * len(ENCODERS)), *WIDEST])
def test_gradients_reach_every_parameter(name, configuration):
    stages = len(entry(name).channels) if configuration == "2d" else 3
    network, _ = build_network(model(name, configuration, stages), channels=1, classes=2, seed=0)
    network.train()
    x = random_image(2, 1, {"2d": 1, "2.5d": 3, "3d": 5}[configuration], *SIZE)
    sum((logits**2).mean() for logits in network.forward_deep(x)).backward()
    without = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    # HGNet scales whole maps and shifts them, which the next BatchNorm takes away again but for its epsilon.
    assert [key for key in without if not key.endswith(("lab.bias", "lab.scale"))] == []


@widest
def test_a_state_dict_restores_the_network_exactly(name, configuration):
    planned = model(name, configuration, 2)
    first, _ = build_network(planned, channels=2, classes=3, seed=0)
    second, _ = build_network(planned, channels=2, classes=3, seed=1, pretrained_stages=0)
    x = random_image(1, 2, *planned.patch)
    first.eval()
    second.eval()
    with torch.no_grad():
        expected = first(x)
        assert not torch.equal(second(x), expected)
        second.load_state_dict(first.state_dict())
        assert torch.equal(second(x), expected)


@widest
def test_no_weight_is_left_to_chance(name, configuration):
    torch.use_deterministic_algorithms(True)  # fills fresh memory with nan
    try:
        made = encoder(name, configuration, stages=stages_enough(entry(name)))
    finally:
        torch.use_deterministic_algorithms(False)
    assert [key for key, value in made.state_dict().items() if not torch.isfinite(value).all()] == []


@every_encoder
@pytest.mark.parametrize("batchnorm", ["trained", "recalibrated"])
def test_freezing_keeps_a_stage_to_the_bit(name, batchnorm):
    network, _ = build_network(model(name, "2d", 2), channels=1, classes=2, seed=0)
    strategy = learns(None, 0.0, batchnorm=batchnorm)
    schedule = StrategySchedule(network, strategy, warmup=0.0)
    optimizer = torch.optim.AdamW(schedule.parameter_groups(lr=0.1, weight_decay=0.1))
    before = {key: value.clone() for key, value in network.encoder.state_dict().items()}
    network.train()
    schedule.apply(progress=0.5)
    (network(random_image(2, 1, 1, *SIZE)) ** 2).mean().backward()
    optimizer.step()
    changed = {key for key, value in network.encoder.state_dict().items() if not torch.equal(value, before[key])}
    norms = {
        f"{prefix}.{kind}"
        for prefix, module in network.encoder.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d) and prefix.startswith("stages.1.")
        for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert bool(norms) == entry(name).batchnorm
    second_stage = {key for key in before if key.startswith("stages.1.")}
    without_gradient = {key for key in second_stage if key.endswith("lab.scale")}  # HGNet's, but for rounding
    expected = second_stage if batchnorm == "trained" else second_stage - norms
    assert changed | without_gradient == expected | without_gradient


@every_encoder
def test_stages_name_every_parameter_once_and_unused_stages_are_not_built(name):
    made = Encoder(name, channels=3, stages=2)
    assert len(made.stages) == 2
    held = [{id(parameter) for parameter in stage.parameters()} for stage in made.stages]
    assert not held[0] & held[1] and held[0] | held[1] == {id(parameter) for parameter in made.parameters()}
    counts = [sum(parameter.numel() for parameter in stage.parameters()) for stage in made.stages]
    assert counts == list(entry(name).costs["flat"].parameters[:2])


def test_layer_norms_learn_with_their_stage():
    network, _ = build_network(model("convnext_tiny", "2d", 2), channels=1, classes=2, seed=0)
    strategy = learns(None, 0.0, batchnorm="source")
    StrategySchedule(network, strategy, warmup=0.0).apply(progress=0.5)
    first, second = network.encoder.stages
    norms = [module for module in second.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert norms and all(norm.weight.requires_grad and norm.training for norm in norms)
    assert not any(parameter.requires_grad for parameter in first.parameters())
