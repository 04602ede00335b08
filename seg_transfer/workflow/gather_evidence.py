"""Evidence about transfer, gathered on the data while it is planned for."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

from seg_transfer.data.dataset import Dataset
from seg_transfer.planning.evidence_record import Evidence, TransferEvidence
from seg_transfer.planning.fields import part_hash
from seg_transfer.planning.plan import Plan
from seg_transfer.util import environment
from seg_transfer.util.files import file_stamp
from seg_transfer.workflow.preprocess import prepare
from seg_transfer.workflow.work_folder import Work

logger = logging.getLogger(__name__)

CASES = 10


def gather_evidence(made: Plan, place: Work, dataset: Dataset, *, device: str, workers: int) -> TransferEvidence | None:
    """Try the frozen encoder on some cases, or take what ``evidence.json`` says of the same ones.

    Cases are prepared where that is missing, as training needs them too; nothing else is written.

    Args:
        made: A plan with pretrained weights, made without evidence.
        place: The work folder.
        dataset: The cases that are planned for.
        device: Where the encoder computes.
        workers: Processes that prepare cases.

    Returns:
        None where the cases are too few, which is said.

    Raises:
        UserError: If cases cannot be prepared, or weights cannot be loaded.
    """
    environment.check_torch()
    import torch

    from seg_transfer.evidence.labelled_voxels import TooFewError, case_groups, choose_cases
    from seg_transfer.evidence.transfer_evidence import gather
    from seg_transfer.preprocessing.store import Store

    seed = made.recipe.seed
    try:
        chosen = choose_cases(made, CASES, seed)
        groups = case_groups(made)
        digest = _digest(made, dataset, {case: groups[case] for case in chosen})
        known = Evidence.load(place.evidence).transfer
        if known is not None and known.measured_on == digest:
            return known
        prepare(place, made, dataset, workers, cases=chosen)
        store = Store.open(place.store_folder(made), made.data)
        torch.set_num_threads(environment.cores())
        return gather(made, store, chosen, measured_on=digest, seed=seed, device=device)
    except TooFewError as error:
        logger.info(f"no evidence about transfer: {error.what}")
        return None


def _digest(made: Plan, dataset: Dataset, cases: Mapping[str, int]) -> str:
    """Changes with all that evidence depends on: plan, files of cases and weights, and which cases are kept together.

    Args:
        made: As given.
        dataset: As given.
        cases: Each with the number of its group.
    """
    files = [path for case in dataset.cases if case.id in cases for path in (*case.images, case.label) if path]
    if made.model.weights.path is not None:
        files.append(Path(made.model.weights.path))
    stamps = [file_stamp(path) for path in files]
    recipe = made.recipe
    read = (recipe.strategy.batchnorm == "source", recipe.batch_size, recipe.foreground_share, recipe.precision)
    text = f"{part_hash(made.data, made.model)} {read} {recipe.seed} {cases} {stamps}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]
