"""From a model file to a predictor: allocates what the file's size allows, and runs no code of the file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from seg_transfer.errors import UserError
from seg_transfer.inference.ensemble import Ensemble
from seg_transfer.inference.predictor import Predictor, ready_network
from seg_transfer.network.build import blank_network
from seg_transfer.planning.model_file import HINT, ModelFile, prefix, read_model_file
from seg_transfer.planning.plan import Plan
from seg_transfer.training.checkpoint import add_to_checksum, load_state


def load_model_file(path: Path, device: str | torch.device = "cpu") -> Predictor:
    """Load a model that `segtl export` wrote.

    Example:
        >>> predictor = load_model_file(Path("model.segtl"))
        >>> labels = predictor.array(volume, spacing=(1.0, 1.0, 3.0))  # (x, y, z), the user's label values

    Args:
        path: The file.
        device: Where to compute.

    Raises:
        UserError: If the file is no model of segtl, is damaged, or its weights are not those of its plan's network.
    """
    found = read_model_file(path)
    device = torch.device(device)
    networks = load_networks(found, device)
    members = [
        Predictor(member.plan, folds, device) for member, folds in zip(found.header.members, networks, strict=True)
    ]
    predictor = members[0] if len(members) == 1 else Ensemble(members)
    predictor.postprocessing = found.header.postprocessing
    return predictor


def load_folds(plan: Plan, files: Sequence[Path]) -> list[nn.Module]:
    """The networks of a plan's folds from their ``model.safetensors``, on the CPU."""
    return [ready_network(load_state(file, "model")[0], plan, torch.device("cpu"), where=file) for file in files]


def load_networks(found: ModelFile, device: torch.device) -> list[list[nn.Module]]:
    """The networks of every member's folds.

    Raises:
        UserError: If the file's tensors are not those of the networks, which is said before any network is allocated,
            or a copy or a disk has changed them. The checksum is no signature: who changes a file can change both.
    """
    for index, member in enumerate(found.header.members):
        wanted = _expected(member.plan, found.path)
        for fold in range(len(member.folds)):
            _compare(found.of_fold(index, fold), wanted, found.path)
    if len(found.shapes) > sum(len(found.of_fold(*place)) for place in _places(found)):
        raise UserError("holds tensors of no network", where=found.path, hint="export it again")
    networks: list[list[nn.Module]] = [[] for _ in found.header.members]
    checksum = hashlib.sha256()
    with safe_open(found.path, framework="pt") as file:
        for index, fold in _places(found):
            start = prefix(index, fold)
            tensors = {name: file.get_tensor(start + name) for name in found.of_fold(index, fold)}
            add_to_checksum(checksum, tensors)
            plan = found.header.members[index].plan
            networks[index].append(ready_network(tensors, plan, device, where=found.path))
    if checksum.hexdigest() != found.header.weights:
        raise UserError("its weights are damaged: their checksum is another", where=found.path, hint=HINT)
    return networks


def _places(found: ModelFile) -> list[tuple[int, int]]:
    return [(index, fold) for index, member in enumerate(found.header.members) for fold in range(len(member.folds))]


def _expected(plan: Plan, path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the network that a plan asks for, without allocating it: its plan may ask for anything."""
    try:
        with torch.device("meta"):
            network = blank_network(plan.model, channels=len(plan.data.channels), classes=len(plan.data.outputs))
    except (RuntimeError, OverflowError) as error:
        what = f"its plan asks for an impossible network: {str(error).splitlines()[0]}"
        raise UserError(what, where=path, hint="export it again") from None
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _compare(there: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]], path: Path) -> None:
    for name in sorted(there.keys() | wanted.keys()):
        if there.get(name) != wanted.get(name):
            sizes = [
                " x ".join(map(str, shape)) or "one" if shape is not None else "absent"
                for shape in (there.get(name), wanted.get(name))
            ]
            what = f"its weights are not those of its plan's network: {name} is {sizes[0]}, the plan needs {sizes[1]}"
            raise UserError(what, where=path, hint="export it again, with the segtl that you predict with")
