"""What of an earlier model of the user's own a new plan starts from, and what follows from it.

Its encoder is taken as it is: its name, at most as many stages as it uses, and by default its configuration. Its
decoder is taken along where the new network has the same one: published comparisons found no gain from a transferred
decoder (OpenReview A3u8KqSBC7), but between data sets of one kind it saves the first steps. Heads always start anew.

A 2D kernel becomes 3D as ImageNet's do. A 3D kernel that sees several slices is summed along them where the new
network's stage sees slices one by one (its response where neighbouring slices are alike), but a whole network is not
flattened to 2D like that: what it has learned along the slices would be lost at every stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from seg_transfer.errors import UserError
from seg_transfer.options.choices import Carry, Configuration
from seg_transfer.planning.cost import NetworkSize
from seg_transfer.planning.plan import ModelPlan, Plan, Weights


@dataclass(frozen=True)
class EarlierModel:
    """A model file to start from.

    Attributes:
        path: Of the file.
        sha256: Of its content.
        plan: Of the member that is taken.
    """

    path: str
    sha256: str
    plan: Plan

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels it reads."""
        return tuple(channel.name for channel in self.plan.data.channels)


def choose_member(configurations: Sequence[str], wanted: str) -> int:
    """Which member of a model file is taken: the first of the wanted configuration, or else the first."""
    return next((index for index, name in enumerate(configurations) if name == wanted), 0)


def encoder(requested: str, earlier: EarlierModel) -> tuple[str, str]:
    """Take the earlier model's encoder.

    Raises:
        UserError: If another one is asked for.
    """
    name = earlier.plan.model.encoder
    if requested not in ("auto", name):
        what = f"the model to start from has a {name}, and {requested} is asked for"
        raise UserError(what, where="--encoder", hint="leave --encoder away, or start from another model")
    return name, "that of the model to start from"


def configuration(requested: Configuration | None, earlier: EarlierModel, dimension: int) -> tuple[Configuration, str]:
    """Choose the configuration: the earlier model's, so that most of it fits; of pictures 2D."""
    if requested is not None:
        return requested, f"asked for {requested}"
    if dimension == 2:
        return "2d", "pictures have a single slice"
    return earlier.plan.model.configuration, "that of the model to start from"


def stages(possible: tuple[int, str], earlier: EarlierModel) -> tuple[int, str]:
    """Choose how many stages are used: those of the earlier model, or fewer if the cases are too small.

    Args:
        possible: What the cases' size allows, with the reason.
        earlier: The model.
    """
    most, why = possible
    there = earlier.plan.model.stages
    return (there, f"those of the model to start from; by size {why}") if there <= most else (most, why)


def weights(network: NetworkSize, earlier: EarlierModel, requested: Carry | None) -> tuple[Weights, str]:
    """Choose what is carried over.

    Args:
        network: The new network.
        earlier: The model.
        requested: The user's choice, if any.

    Raises:
        UserError: If the encoder cannot be carried over, or the decoder is asked for and does not fit.
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
    taken = Weights(source="model", path=earlier.path, sha256=earlier.sha256, carry=carry)
    if carry == "all":
        return taken, "encoder and decoder of an earlier model, whose decoder has the same stages and widths; new heads"
    return taken, f"encoder of an earlier model, {f'its decoder does not fit: {obstacle}' if obstacle else 'asked for'}"


def _decoder_obstacle(model: ModelPlan, network: NetworkSize) -> str | None:
    """Why the earlier model's decoder is not the new network's; None if it is."""
    if model.head != "unet":
        return f"it has none, but a {model.head} classifier"
    if (model.configuration == "3d") != (network.configuration == "3d"):
        return f"{model.configuration} kernels against {network.configuration}"
    for what, before, now in (
        ("stages", (model.stages,), (network.stages,)),
        ("strides along the slices", model.slice_strides, network.slice_strides),
        ("widths", model.decoder_channels, network.decoder_channels),
    ):
        if before != now:
            return f"{what} {' x '.join(map(str, before))} against {' x '.join(map(str, now))}"
    return None
