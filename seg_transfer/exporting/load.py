"""Load a predictor from a model file; allocations are bounded by the file's size, and no code of the file runs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from seg_transfer.errors import UserError
from seg_transfer.inference.ensemble import Ensemble
from seg_transfer.inference.predictor import Predictor
from seg_transfer.inference.trained_network import ready_network
from seg_transfer.network.build import blank_network
from seg_transfer.planning.model_file import HINT, ModelFile, prefix, read_model_file
from seg_transfer.planning.plan import Plan
from seg_transfer.training.checkpoint import add_to_checksum, load_state
from seg_transfer.transfer.on_meta import on_meta


def load_model_file(path: Path, device: str | torch.device = "cpu") -> Predictor:
    """Load a model that `segtl export` wrote.

    Example:
        >>> predictor = load_model_file(Path("model.segtl"))
        >>> labels = predictor.array(volume, spacing=(1.0, 1.0, 3.0))  # (x, y, z), the user's label values

    Args:
        path: The file.
        device: Device to compute on.

    Raises:
        UserError: If the file is no model of segtl, is damaged, or its weights do not fit its plan's network.
    """
    file = read_model_file(path)
    device = torch.device(device)
    networks = load_networks(file, device)
    members = [
        Predictor(member.plan, folds, device) for member, folds in zip(file.header.members, networks, strict=True)
    ]
    predictor = members[0] if len(members) == 1 else Ensemble(members)
    predictor.postprocessing = file.header.postprocessing
    return predictor


def load_folds(plan: Plan, files: Sequence[Path]) -> list[nn.Module]:
    """The networks of a plan's folds from their ``model.safetensors``, on the CPU."""
    return [ready_network(load_state(file, "model")[0], plan, torch.device("cpu"), where=file) for file in files]


def load_networks(model: ModelFile, device: torch.device) -> list[list[nn.Module]]:
    """The networks of every member's folds.

    Raises:
        UserError: If the file's tensors do not fit the networks, which is checked before any network is allocated, or
            are damaged. The checksum is no signature: whoever changes the tensors can change it too.
    """
    shapes = 0
    for index, member in enumerate(model.header.members):
        expected = _network_shapes(member.plan, model.path)
        for fold in range(len(member.folds)):
            _check_shapes(model.of_fold(index, fold), expected, model.path)
            shapes += len(expected)
    if len(model.shapes) > shapes:
        raise UserError("contains tensors of no network", where=model.path, hint="export it again")
    networks: list[list[nn.Module]] = []
    checksum = hashlib.sha256()
    with safe_open(model.path, framework="pt") as file:
        for index, member in enumerate(model.header.members):
            networks.append([])
            for fold in range(len(member.folds)):
                start = prefix(index, fold)
                tensors = {name: file.get_tensor(start + name) for name in model.of_fold(index, fold)}
                add_to_checksum(checksum, tensors)
                networks[index].append(ready_network(tensors, member.plan, device, where=model.path))
    if checksum.hexdigest() != model.header.weights:
        raise UserError("its weights are damaged: the checksum differs", where=model.path, hint=HINT)
    return networks


def _network_shapes(plan: Plan, path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a plan's network, without allocating it: a plan from a file may ask for any size."""
    try:
        with on_meta():
            network = blank_network(plan.model, channels=len(plan.data.channels), classes=len(plan.data.outputs))
    except (RuntimeError, OverflowError) as error:
        what = f"its plan asks for an impossible network: {str(error).splitlines()[0]}"
        raise UserError(what, where=path, hint="export it again") from None
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _check_shapes(shapes: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]], path: Path) -> None:
    for name in sorted(shapes.keys() | expected.keys()):
        if shapes.get(name) != expected.get(name):
            actual, needed = (
                "absent" if shape is None else " x ".join(map(str, shape)) or "one"
                for shape in (shapes.get(name), expected.get(name))
            )
            what = f"its weights do not fit its plan's network: {name} is {actual}, the plan needs {needed}"
            raise UserError(what, where=path, hint="export it again with the version of segtl that predicts")
