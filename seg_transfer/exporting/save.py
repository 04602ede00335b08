"""From trained folds to a model file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from seg_transfer.exporting.anonymise import stripped
from seg_transfer.exporting.card import write_card
from seg_transfer.planning.model_file import NOTHING, Member, ModelHeader, Postprocessing, prefix
from seg_transfer.training.checkpoint import Tensors, add_to_checksum, load_state, save_state
from seg_transfer.training.run_folder import TrainedRuns

UNNAMED = "unnamed"


def make_header(
    trained: Sequence[TrainedRuns],
    *,
    name: str = UNNAMED,
    dice: Mapping[str, float] | None = None,
    validated: int = 0,
    chosen: bool = False,
    postprocessing: Postprocessing = NOTHING,
) -> ModelHeader:
    """Say everything about exported models but their weights.

    Args:
        trained: Folds of one or more plans that prepare images alike.
        name: What the model is called.
        dice: Label -> mean Dice by cross-validation.
        validated: Cases that ``dice`` is over.
        chosen: Whether the models were chosen by ``dice``.
        postprocessing: What is done to label maps.
    """
    members = tuple(
        Member(plan=stripped(each.plan_as_trained, name=name), folds=tuple(map(str, each.folds))) for each in trained
    )
    card = write_card(members, name=name, dice=dice, validated=validated, chosen=chosen, postprocessing=postprocessing)
    version = metadata.version("seg-transfer")
    return ModelHeader(segtl=version, members=members, postprocessing=postprocessing, card=card)


def save_model_file(path: Path, header: ModelHeader, trained: Sequence[TrainedRuns]) -> None:
    """Write the header and the weights of every fold into one file, whole or not at all.

    Args:
        path: Where to.
        header: From :func:`make_header`.
        trained: The same folds.

    Raises:
        UserError: If a fold's model cannot be read.
    """
    tensors: Tensors = {}
    checksum = hashlib.sha256()
    for index, each in enumerate(trained):
        for fold, file in enumerate(each.models):
            state, _ = load_state(file, "model")
            add_to_checksum(checksum, state)
            tensors |= {prefix(index, fold) + name: tensor for name, tensor in state.items()}
    header = header.model_copy(update={"weights": checksum.hexdigest()})
    save_state(path, "exported", tensors, header.model_dump(mode="json"))
