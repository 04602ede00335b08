"""Evidence about transfer, measured while planning."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import UserError
from seg_transfer.planning.evidence_record import Evidence, TransferEvidence
from seg_transfer.planning.fields import part_hash
from seg_transfer.planning.plan import Plan
from seg_transfer.util import environment
from seg_transfer.util.files import file_stamp
from seg_transfer.workflow.preprocess import preprocess_missing
from seg_transfer.workflow.work_folder import WorkFolder

logger = logging.getLogger(__name__)

CASES = 10


def gather_evidence(
    plan: Plan, work: WorkFolder, dataset: Dataset, *, device: str, workers: int
) -> TransferEvidence | None:
    """Measure the frozen encoder on some cases, or read ``evidence.json`` if it was measured on the same data.

    Cases that are not preprocessed yet are preprocessed; nothing else is written.

    Args:
        plan: A plan with pretrained weights, made without evidence.
        work: The work folder.
        dataset: The cases' files.
        device: Device of the encoder.
        workers: Processes that preprocess cases.

    Returns:
        The evidence; None, with a log message, if there are too few cases.

    Raises:
        UserError: If cases cannot be prepared, or weights cannot be loaded.
    """
    environment.check_torch()
    import torch

    from seg_transfer.evidence.labelled_voxels import TooFewError, case_groups, choose_cases
    from seg_transfer.evidence.transfer_evidence import gather
    from seg_transfer.preprocessing.store import Store

    seed = plan.recipe.seed
    try:
        chosen = choose_cases(plan, CASES, seed)
        groups = case_groups(plan)
        digest = _digest(plan, dataset, {case: groups[case] for case in chosen})
        earlier = earlier_evidence(work).transfer
        if earlier is not None and earlier.measured_on == digest:
            return earlier
        preprocess_missing(work, plan, dataset, workers, cases=chosen)
        store = Store.open(work.store_folder(plan), plan.data)
        torch.set_num_threads(environment.cores())
        return gather(plan, store, chosen, measured_on=digest, seed=seed, device=device)
    except TooFewError as error:
        logger.info(f"no evidence about transfer: {error.what}")
        return None


def earlier_evidence(work: WorkFolder) -> Evidence:
    """The evidence of earlier calls; empty, with a warning, if it cannot be read, so that it is measured again."""
    try:
        return Evidence.load(work.evidence)
    except UserError as error:
        logger.warning(f"{work.evidence} is not used and will be replaced: {error.what}")
        return Evidence()


def _digest(plan: Plan, dataset: Dataset, cases: Mapping[str, int]) -> str:
    """Hash of everything that the evidence depends on; ``cases`` maps each case to the number of its group."""
    files = [part for case in dataset.cases if case.id in cases for part in case.stored]
    if plan.model.weights.path is not None:
        files.append(Path(plan.model.weights.path))
    stamps = [file_stamp(path) for path in files]
    recipe = plan.recipe
    settings = (recipe.strategy.batchnorm == "source", recipe.batch_size, recipe.foreground_share, recipe.precision)
    text = f"{part_hash(plan.data, plan.model)} {settings} {recipe.seed} {cases} {stamps}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]
