"""Starting from an earlier model (``--from``): what is carried over, and what the new plan takes from it.

The new plan takes its encoder, at most as many stages as it uses, and by default its configuration. Its decoder is
carried over where the new network has the same one: published comparisons found no gain from a transferred decoder
(OpenReview A3u8KqSBC7), but between similar data sets it saves the first steps. Where the labels are the same, as when
cases are added, its heads come along; otherwise heads start from random weights.

2D kernels are inflated as those of ImageNet are. A 3D kernel that reads several slices is summed along them where the
new stage reads single slices (its response where neighbouring slices are equal). A whole 3D network is not flattened to
2D like that: what it has learned along the slices would be lost at every stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from seg_transfer.errors import UserError
from seg_transfer.options.choices import Carry, Configuration
from seg_transfer.planning.cost import NetworkSize
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.plan import ModelPlan, Plan, Weights


@dataclass(frozen=True)
class EarlierModel:
    """A model file to start from.

    Attributes:
        path: The file.
        sha256: Checksum of the file.
        plan: Plan of the member that is used.
    """

    path: str
    sha256: str
    plan: Plan

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of its input channels."""
        return tuple(channel.name for channel in self.plan.data.channels)


def choose_member(configurations: Sequence[str], preferred: str) -> int:
    """Index of the member of a model file that is used: the first with the preferred configuration, else the first."""
    return next((index for index, name in enumerate(configurations) if name == preferred), 0)


def encoder(requested: str, earlier: EarlierModel) -> tuple[str, str]:
    """Take the earlier model's encoder.

    Raises:
        UserError: If another one is requested.
    """
    name = earlier.plan.model.encoder
    if requested not in ("auto", name):
        what = f"the model to start from has a {name}, but {requested} is requested"
        raise UserError(what, where="--encoder", hint="omit --encoder, or start from another model")
    return name, "that of the model to start from"


def configuration(requested: Configuration | None, earlier: EarlierModel, dimension: int) -> tuple[Configuration, str]:
    """Choose the configuration: the earlier model's, so that most of it fits; 2D for 2D images."""
    if requested is not None:
        return requested, "requested"
    if dimension == 2:
        return "2d", "2D images have a single slice"
    return earlier.plan.model.configuration, "that of the model to start from"


def stages(allowed: tuple[int, str], earlier: EarlierModel) -> tuple[int, str]:
    """Choose how many stages are used: those of the earlier model, or fewer if the cases are too small.

    Args:
        allowed: Number of stages that the cases' size allows, with the reason.
        earlier: The model to start from.
    """
    count = earlier.plan.model.stages
    return (count, f"those of the model to start from; by size {allowed[1]}") if count <= allowed[0] else allowed


def weights(
    network: NetworkSize, earlier: EarlierModel, requested: Carry | None, data: DataPlan
) -> tuple[Weights, str]:
    """Choose what is carried over.

    Args:
        network: The new network.
        earlier: The model to start from.
        requested: The user's choice, if any.
        data: Data part of the new plan.

    Raises:
        UserError: If the encoder cannot be carried over, or the decoder is requested and does not fit.
    """
    model = earlier.plan.model
    if model.configuration == "3d" and network.configuration != "3d":
        depths = replace(network, configuration="3d", stages=model.stages, slice_strides=model.slice_strides).depths()
        deep = [str(stage) for stage, depth in enumerate(depths[: network.stages]) if depth > 1]
        if deep:
            what = f"its stages {', '.join(deep)} read several slices, and {network.configuration} kernels read one"
            hint = "plan with --config 3d, or start from a 2d or 2.5d model"
            raise UserError(f"a 3d model cannot start a {network.configuration} one: {what}", where="--from", hint=hint)
    obstacle = _decoder_obstacle(model, network)
    if requested == "all" and obstacle:
        raise UserError(f"the decoder does not fit: {obstacle}", where="--carry all", hint="take --carry encoder")
    carry: Carry = requested or ("encoder" if obstacle else "all")
    heads = carry == "all" and _has_outputs_of(earlier.plan.data, data)
    chosen = Weights(source="model", path=earlier.path, sha256=earlier.sha256, carry=carry, heads=heads)
    if carry == "all":
        others = "heads too, since the labels are the same" if heads else "new heads"
        what = "encoder and decoder of an earlier model, whose decoder has the same stages and widths"
        return chosen, f"{what}; {others}"
    return (
        chosen,
        f"encoder of an earlier model, {f'its decoder does not fit: {obstacle}' if obstacle else 'requested'}",
    )


def _has_outputs_of(earlier: DataPlan, data: DataPlan) -> bool:
    """Whether outputs of a network mean the same in two plans: the same labels, or the same regions of them."""
    return all(getattr(earlier, name) == getattr(data, name) for name in ("labels", "regions", "instances"))


def _decoder_obstacle(model: ModelPlan, network: NetworkSize) -> str | None:
    """Why the earlier model's decoder does not fit the new network; None if it does."""
    if model.head != "unet":
        return f"the model has a {model.head} classifier instead"
    if (model.configuration == "3d") != (network.configuration == "3d"):
        return f"{model.configuration} kernels against {network.configuration}"
    for what, earlier, new in (
        ("stages", (model.stages,), (network.stages,)),
        ("strides along the slices", model.slice_strides, network.slice_strides),
        ("widths", model.decoder_channels, network.decoder_channels),
    ):
        if earlier != new:
            return f"{what} {' x '.join(map(str, earlier))} against {' x '.join(map(str, new))}"
    return None
