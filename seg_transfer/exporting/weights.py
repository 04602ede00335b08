"""The weights of a model file as arrays, for programs that change them, such as averaging over sites."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from numpy.typing import NDArray
from safetensors import safe_open

from seg_transfer.errors import UserError
from seg_transfer.planning.model_file import ModelFile, prefix, read_model_file
from seg_transfer.training.checkpoint import Tensors, add_to_checksum, save_state

CHANGED = "**The weights were changed after the export. Figures in this card are those of the model before.**"


def read_weights(path: Path | str) -> dict[str, NDArray]:
    """The weights of a model file: name -> array, float32 or int64.

    Raises:
        UserError: If it is no model file.
    """
    return {name: tensor.numpy() for name, tensor in _tensors(read_model_file(Path(path))).items()}


def write_weights(path: Path | str, weights: Mapping[str, NDArray], *, like: Path | str) -> None:
    """Write a model file with other weights; its card tells so.

    Args:
        path: The new file.
        weights: Name -> array; values are converted to the types in the other file.
        like: A model file of the same network, whose plan and card are taken.

    Raises:
        UserError: If it is no model file, or names or shapes of the weights are not its own.
    """
    file = read_model_file(Path(like))
    if {name: tuple(weights[name].shape) for name in weights} != file.shapes:
        hint = "average models of one plan"
        raise UserError("its weights have other names or shapes than those given", where=like, hint=hint)
    before = _tensors(file)
    tensors: Tensors = {name: torch.tensor(weights[name]).to(before[name].dtype) for name in before}
    checksum = hashlib.sha256()
    for index, member in enumerate(file.header.members):
        for fold in range(len(member.folds)):
            start = prefix(index, fold)
            add_to_checksum(checksum, {name: tensors[start + name] for name in file.of_fold(index, fold)})
    card = file.header.card
    if CHANGED not in card:
        front = card.find("\n---\n") + len("\n---\n") if card.startswith("---\n") else 0
        card = f"{card[:front]}\n{CHANGED}\n\n{card[front:].lstrip()}"
    header = file.header.model_copy(update={"weights": checksum.hexdigest(), "card": card})
    save_state(Path(path), "exported", tensors, header.model_dump(mode="json"))


def _tensors(file: ModelFile) -> Tensors:
    with safe_open(file.path, framework="pt") as tensors:
        return {name: tensors.get_tensor(name) for name in file.shapes}
