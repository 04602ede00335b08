"""A library's ImageNet network cut into stages, each of size ``ceil(input / stride)`` for every input size.

Sizes are set by padding, not by resizing maps: kernels see pixels of the size that they were trained on, and away from
the border every map equals that of the library's network.

- Convolutions and max pools with odd kernels are centred (padding is half the kernel), as most are in the libraries.
  The exceptions are InceptionV3's unpadded ones and AlexNet's stem (11 wide, padding 2) and pools. Their maps gain a
  border; where such a layer has a stride, it starts some pixels earlier and samples the features at other positions.
  Networks from TensorFlow pad strided convolutions of even sizes at the end alone: there the same holds. EfficientNet-
  Lite0's accuracy does not change (``tools/bundled_weights.py``).
- Even kernels of stride 1 (HGNet's stem) stay as they are: the library pads them to keep the size.
- Kernels as wide as their stride (ConvNeXt's patches, 2 x 2 pools) begin at the first pixel. Where the size is not a
  multiple of it, convolutions see the last row and column repeated, and pools use the pixels that exist.
- InceptionV3's blocks that halve the size pool with a function, not a module. Their input gets a border of zeros, which
  no max pool prefers, since features after a ReLU are at least 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast

from torch import Tensor, nn
from torch.nn import functional

from seg_transfer.transfer import efficientnet_lite
from seg_transfer.transfer.efficientnet_lite import EfficientNetLite
from seg_transfer.transfer.on_meta import on_meta
from seg_transfer.util.environment import check_torchvision

Library = Literal["timm", "torchvision"]
TORCHVISION_ENDS: dict[str, dict[str, tuple[int, int]]] = {
    "alexnet": {"features_1": (64, 4), "features_4": (192, 8), "features_11": (256, 16), "features_12": (256, 32)},
}
"""torchvision network -> last module of each stage -> channels and stride of its map."""
UNUSUAL_CHANNELS = 10_007
"""More than any size of a first stage's weights: larger ones depend on the image's channels."""


@dataclass(frozen=True)
class Stage:
    """Modules of one stage in order of execution, its channels and its in-plane stride."""

    modules: nn.Sequential
    channels: int
    stride: int


class PatchConv2d(nn.Conv2d):
    """Convolution as wide as its stride; sizes are padded to a multiple of it by repeating the last pixel."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(pad_to_multiple(input, self.stride))


def pad_to_multiple(x: Tensor, steps: Sequence[int]) -> Tensor:
    """Pad ``(batch, channel, *sizes)`` at the end with the edge, until each size is a multiple of its step."""
    missing = [-size % step for size, step in zip(x.shape[2:], steps, strict=True)]
    if not any(missing):
        return x
    return functional.pad(x, [pad for size in reversed(missing) for pad in (0, size)], mode="replicate")


def load_stages(library: Library, library_name: str, channels: int) -> list[Stage]:
    """Build a network with random weights and cut it into stages, finest first.

    Modules keep the library's names, with "_" for "." between nested sequences. Modules at stride 1 belong to the first
    stage.

    Args:
        library: Library of the network.
        library_name: Name of the network in the library.
        channels: Channels that the first convolution reads.
    """
    network, ends = _network(library, library_name, channels)
    stages: list[Stage] = []
    modules = nn.Sequential()
    for name, module in _parts(network):
        if stages and not modules and _is_activation(module):
            stages[-1].modules.add_module(name, module)  # often in place: the map is what it leaves
            continue
        modules.add_module(name, keep_size(module))
        if name in ends:
            width, stride = ends[name]
            if stride > 1:
                stages.append(Stage(modules, width, stride))
                modules = nn.Sequential()
    return stages


def _network(library: Library, library_name: str, channels: int) -> tuple[nn.Module, Mapping[str, tuple[int, int]]]:
    """A network with random weights, and the channels and stride of the map that a module of this name ends."""
    network: Any
    if library_name in efficientnet_lite.SCALES:
        lite = EfficientNetLite(library_name, channels)
        return lite, lite.ends
    check_torchvision()
    if library == "timm":
        import timm

        network = timm.create_model(library_name, features_only=True, pretrained=False, in_chans=channels)
        features = cast(timm.models.FeatureInfo, network.feature_info).get_dicts(["module", "num_chs", "reduction"])
        return network, {row["module"].replace(".", "_"): (row["num_chs"], row["reduction"]) for row in features}
    import torchvision

    network = torchvision.models.get_model(library_name, weights=None)
    first = network.features[0]
    network.features[0] = nn.Conv2d(channels, first.out_channels, first.kernel_size, first.stride)
    return network, TORCHVISION_ENDS[library_name]


@cache
def image_weights(library: Library, library_name: str) -> frozenset[str]:
    """Names of the weights that read the image's channels, as :func:`load_stages` names them, without the stage.

    One convolution in most networks, two side by side in RepVGG. They are those whose shape depends on the channels.
    """
    with on_meta():
        finest = load_stages(library, library_name, UNUSUAL_CHANNELS)[0].modules.state_dict()
    return frozenset(name for name, tensor in finest.items() if max(tensor.shape, default=0) >= UNUSUAL_CHANNELS)


def is_of_timm(module: nn.Module) -> bool:
    """Whether a module's class is timm's or made of one; timm is loaded then."""
    return any(each.__module__.startswith("timm.") for each in type(module).__mro__)


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ in (nn.ReLU.__module__, "timm.layers.activations")


def _parts(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules in order of execution; sequences in which stages end are replaced by their children."""
    for name, module in network.named_children():
        if name in ("blocks", "features"):
            yield from ((f"{name}_{inner}", child) for inner, child in module.named_children())
        else:
            yield name, module


def keep_size(module: nn.Module) -> nn.Module:
    """Make every output of size ``ceil(input / stride)``, in place; returns the module or its replacement."""
    if isinstance(module, nn.Conv2d):
        return _keep_convolution(module)
    if isinstance(module, nn.MaxPool2d):
        if cast(int, module.kernel_size) % 2:
            module.padding = cast(int, module.kernel_size) // 2
        else:
            module.ceil_mode = True
    elif isinstance(module, nn.AvgPool2d):
        module.ceil_mode = True
    elif not _is_padded_block(module):
        for name, child in module.named_children():
            setattr(module, name, keep_size(child))
    return module


def _keep_convolution(module: nn.Conv2d) -> nn.Conv2d:
    if all(size % 2 for size in module.kernel_size):
        if is_of_timm(module):
            from seg_transfer.transfer.timm_modules import plain_convolution

            plain_convolution(module)
        module.padding = tuple(size // 2 for size in module.kernel_size)
        return module
    if module.stride == (1, 1):
        return module  # HGNet's stem, which pads in its own forward pass
    assert module.kernel_size == module.stride, "an even kernel is as wide as its stride"
    size = cast(tuple[int, int], module.kernel_size)
    return PatchConv2d(module.in_channels, module.out_channels, size, size, bias=module.bias is not None)


def _is_padded_block(module: nn.Module) -> bool:
    """Pad InceptionV3's blocks that halve the size; returns whether the module is one."""
    if not is_of_timm(module):
        return False
    from seg_transfer.transfer.timm_modules import pad_halving_block

    return pad_halving_block(module)
