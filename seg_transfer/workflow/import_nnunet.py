"""Plans the training on a data set that nnU-Net planned, with nnU-Net's grid, patch and folds."""

from __future__ import annotations

import logging
from functools import partial

from seg_transfer.data.dataset import find_dataset
from seg_transfer.data.nnunet import SPLITS, find_folders, read_folds, read_plans, same_description
from seg_transfer.options.calls import takes
from seg_transfer.options.import_options import ImportNnunetOptions
from seg_transfer.planning.folds import FoldFiles, check_cases
from seg_transfer.planning.nnunet_grid import nnunet_grid
from seg_transfer.planning.plan import Plan
from seg_transfer.util.local_files import check_folder
from seg_transfer.workflow.plan import plan_dataset
from seg_transfer.workflow.work_folder import WorkFolder

logger = logging.getLogger(__name__)


@takes(ImportNnunetOptions)
def import_nnunet(options: ImportNnunetOptions) -> Plan:
    """Write a plan with spacing, patch, normalization and folds of nnU-Net v2, and a pretrained encoder.

    Everything else is decided as :func:`seg_transfer.plan` does. Nothing is written unless all of it succeeds.

    Raises:
        UserError: If plans or images are missing, damaged or not of the same data set, the configuration is a stage of
            a cascade, its patch does not fit into the memory, or the data set has problems.
    """
    check_folder(WorkFolder(options.work).path)
    images, planned = find_folders(options.folder, options.raw, options.plans)
    dataset = find_dataset(images, workers=options.workers)
    plans = read_plans(planned, options.plans, options.config, dataset.channel_names)
    logger.info(f"{plans.path}: {plans.configuration.name}")
    cases = [case.id for case in dataset.cases]
    splits, source = read_folds(planned, cases)
    where = planned / SPLITS if (planned / SPLITS).exists() else None
    check_cases(splits, cases, where=where)
    if not same_description(images, planned):
        logger.warning(f"channels or labels in {planned / 'dataset.json'} are not those in {images}, which are used")
    return plan_dataset(
        options.plan_options(images).model_copy(
            update={"config": "3d" if len(plans.configuration.patch_size) == 3 else "2d"}
        ),
        dataset,
        files=FoldFiles(groups=dataset.groups, splits=splits, where=where, source=source),
        given=partial(nnunet_grid, plans),
    )
