"""Reads ``checkpoint_final.pth`` of nnU-Net without running code in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from seg_transfer.errors import UserError
from seg_transfer.transfer.weight_files import read_content

HINT = "give a model folder that nnUNetv2_train wrote, with its checkpoints as they are"


class _Figure:
    """Stands for a number of numpy in nnU-Net's log of the training, which is not needed: its value is dropped."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


_OF_NUMPY = (
    "dtype",
    "ndarray",
    *(f"{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
)
HARMLESS = [(_Figure, f"numpy.{name}") for name in _OF_NUMPY]
"""What nnU-Net's files hold beside tensors and Python's own types: nothing of numpy itself is called."""


@dataclass(frozen=True)
class Checkpoint:
    """One trained fold.

    Attributes:
        weights: State dict of the network.
        configuration: Name of the configuration that was trained.
        mirror_axes: Axes of the patch along which training mirrored, so that prediction may.
    """

    weights: dict[str, Tensor]
    configuration: str
    mirror_axes: tuple[int, ...]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one fold.

    Raises:
        UserError: If the file is no checkpoint of nnU-Net, is damaged, or would run code when it is read.
    """
    content = read_content(path, HARMLESS, HINT)
    content = content if isinstance(content, dict) else {}
    weights, trained = content.get("network_weights"), content.get("init_args")
    configuration = trained.get("configuration") if isinstance(trained, dict) else None
    if not isinstance(weights, dict) or not weights or not isinstance(configuration, str):
        raise UserError("no checkpoint of nnU-Net v2", where=path, hint=HINT)
    if not all(isinstance(name, str) and _is_plain(tensor) for name, tensor in weights.items()):
        raise UserError("its network_weights are not tensors by their names", where=path, hint=HINT)
    axes = content.get("inference_allowed_mirroring_axes") or ()
    if not isinstance(axes, tuple | list) or not all(type(axis) is int and 0 <= axis < 3 for axis in axes):
        raise UserError(f"it mirrors along {repr(axes)[:60]}", where=path, hint=HINT)
    return Checkpoint(weights, configuration, tuple(axes))


def _is_plain(tensor: object) -> bool:
    return isinstance(tensor, Tensor) and tensor.device.type == "cpu" and not tensor.is_sparse
