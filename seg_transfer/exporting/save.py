"""Write trained folds into a model file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from seg_transfer.evaluation.scores import Scores
from seg_transfer.exporting.anonymise import anonymise
from seg_transfer.exporting.card import write_card
from seg_transfer.planning.model_file import NOTHING, Member, ModelHeader, Postprocessing, prefix
from seg_transfer.training.checkpoint import Tensors, add_to_checksum, load_state, save_state
from seg_transfer.training.run_folder import TrainedRuns
from seg_transfer.version import VERSION


def make_header(
    trained: Sequence[TrainedRuns],
    *,
    name: str = "unnamed",
    dice: Mapping[str, float] | None = None,
    validated: int = 0,
    chosen: bool = False,
    postprocessing: Postprocessing = NOTHING,
    scores: Scores | None = None,
    licence: str | None = None,
) -> ModelHeader:
    """Make the header of a model file, without the checksum of the weights.

    Args:
        trained: Folds of one or more plans with the same data part.
        name: Name of the model.
        dice: Label -> mean Dice by cross-validation.
        validated: Number of cases that ``dice`` is over.
        chosen: Whether the models were chosen by ``dice``.
        postprocessing: Postprocessing of label maps.
        scores: The scores that ``dice`` is the mean of, where they are known.
        licence: Licence of the model, as an SPDX identifier.
    """
    members = tuple(
        Member(plan=anonymise(runs.plan_as_trained, name=name), folds=tuple(map(str, runs.folds))) for runs in trained
    )
    card = write_card(
        members,
        name=name,
        dice=dice,
        validated=validated,
        chosen=chosen,
        postprocessing=postprocessing,
        scores=scores,
        licence=licence,
    )
    return ModelHeader(segtl=VERSION, members=members, postprocessing=postprocessing, card=card)


def save_model_file(path: Path, header: ModelHeader, trained: Sequence[TrainedRuns]) -> None:
    """Write the header and the weights of every fold into one file, whole or not at all.

    Args:
        path: The model file.
        header: The result of :func:`make_header`.
        trained: The folds that the header was made of.

    Raises:
        UserError: If a fold's model cannot be read.
    """
    tensors: Tensors = {}
    checksum = hashlib.sha256()
    for index, runs in enumerate(trained):
        for fold, file in enumerate(runs.models):
            state, _ = load_state(file, "model")
            add_to_checksum(checksum, state)
            tensors |= {prefix(index, fold) + name: tensor for name, tensor in state.items()}
    header = header.model_copy(update={"weights": checksum.hexdigest()})
    save_state(path, "exported", tensors, header.model_dump(mode="json"))
