"""Builds nnU-Net's networks with the package ``dynamic-network-architectures``, from a list of known classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from seg_transfer.data.nnunet import NnunetPlans
from seg_transfer.errors import UserError, cause_of
from seg_transfer.nnunet.model_folder import NOT_READ
from seg_transfer.transfer.on_meta import on_meta
from seg_transfer.util.extras import check_extra
from seg_transfer.util.records import wrong_fields
from seg_transfer.util.texts import first_of

NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet")
LONGEST_CAUSE = 300
"""Characters of what another package says."""
_PLACES = ("unet", "residual_unet")
"""Modules of the package that hold them, or did in earlier releases."""
_ARCHITECTURES = "dynamic_network_architectures.architectures"
LAYERS: dict[str, type[nn.Module]] = {
    f"{place}.{kind.__name__}": kind
    for kind in (
        *(nn.Conv2d, nn.Conv3d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.BatchNorm2d, nn.BatchNorm3d),
        *(nn.Dropout2d, nn.Dropout3d, nn.LeakyReLU, nn.ReLU, nn.SiLU, nn.GELU),
    )
    for place in ("torch.nn", kind.__module__)
}
"""Layers by the names that plans have for them."""

_Count = Annotated[int, Field(ge=1, le=64)]
_Sizes = tuple[_Count | tuple[_Count, ...], ...]
_Layer = Annotated[str, Field(max_length=100)]


class _Arguments(BaseModel):
    """What nnU-Net's plans give to a network; sizes are bounded, so that a damaged file cannot ask for any number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    n_stages: Annotated[int, Field(ge=2, le=16)]
    features_per_stage: tuple[Annotated[int, Field(ge=1, le=2**14)], ...]
    conv_op: _Layer
    kernel_sizes: _Sizes
    strides: _Sizes
    n_conv_per_stage: tuple[_Count, ...] | None = None
    n_blocks_per_stage: tuple[_Count, ...] | None = None
    n_conv_per_stage_decoder: tuple[_Count, ...]
    conv_bias: bool = True
    norm_op: _Layer | None = None
    norm_op_kwargs: dict[str, bool | int | float] | None = None
    dropout_op: _Layer | None = None
    dropout_op_kwargs: dict[str, bool | int | float] | None = None
    nonlin: _Layer | None = None
    nonlin_kwargs: dict[str, bool | int | float] | None = None
    nonlin_first: bool | None = None


class _Architecture(BaseModel):
    network_class_name: Annotated[str, Field(max_length=200)]
    arch_kwargs: _Arguments


def build_network(
    plans: NnunetPlans, weights: Mapping[str, Tensor], *, channels: int, outputs: int, where: Path
) -> nn.Module:
    """Build a configuration's network with trained weights, in eval mode on the CPU.

    The network is built without memory for weights and takes those of the file, so that sizes in plans cost nothing.

    Args:
        plans: The model's plans.
        weights: State dict.
        channels: Input channels.
        outputs: Output channels.
        where: File of the weights, for messages.

    Raises:
        UserError: If the network is not one of :data:`NETWORKS` or has layers that are not of :data:`LAYERS`, or the
            weights do not fit.
        MissingPackage: If ``dynamic-network-architectures`` is not installed.
    """
    architecture = _read(plans)
    check_extra("nnunet", "predicting with a model of nnU-Net", where=plans.path)
    from dynamic_network_architectures.architectures import unet

    name, given = architecture.network_class_name, architecture.arch_kwargs.model_dump(exclude_none=True)
    for key in ("conv_op", "norm_op", "dropout_op", "nonlin"):
        if key in given:
            given[key] = _layer(given[key], plans)
    try:
        with on_meta():
            kind = getattr(unet, name.rpartition(".")[2])
            network: nn.Module = kind(input_channels=channels, num_classes=outputs, deep_supervision=False, **given)
    except Exception as error:  # the package checks by assertions
        what = f"the network cannot be built: {cause_of(error, LONGEST_CAUSE)}"
        raise UserError(what, where=plans.path, hint="give the plans.json with which the model was trained") from None
    try:
        network.load_state_dict(dict(weights), assign=True)
    except RuntimeError as error:
        cause = first_of([line.strip() for line in str(error).splitlines()[1:]], 2)
        hint = "predict with nnU-Net itself: trainers of nnU-Net may build another network than the plans say"
        raise UserError(
            f"its weights do not fit the network of the plans: {cause[:LONGEST_CAUSE]}", where=where, hint=hint
        ) from None
    return network.float().eval().requires_grad_(False)


def _read(plans: NnunetPlans) -> _Architecture:
    content = plans.configuration.architecture
    if content is None:
        what = "the plans have no architecture, as nnU-Net wrote them before 2.5"
        raise UserError(what, where=plans.path, hint=NOT_READ)
    name = content.get("network_class_name")
    known = [f"{_ARCHITECTURES}.{place}.{network}" for place in _PLACES for network in NETWORKS]
    if name not in known:
        what = f"the network is {repr(name)[:100]}; these are known: {', '.join(NETWORKS)}"
        raise UserError(what, where=plans.path, hint=NOT_READ)
    try:
        return _Architecture.model_validate(content)
    except ValidationError as error:
        what = f"the network cannot be built: {'; '.join(wrong_fields(error))}"
        raise UserError(what, where=plans.path, hint=NOT_READ) from None


def _layer(name: str, plans: NnunetPlans) -> type[nn.Module]:
    if name not in LAYERS:
        known = ", ".join(sorted({kind.__name__ for kind in LAYERS.values()}))
        what = f"the network has layers {name[:60]!r}; these are known: {known}"
        raise UserError(what, where=plans.path, hint=NOT_READ)
    return LAYERS[name]
