"""Plans the training on a data set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, cast

from seg_transfer.catalogue.encoders import imagenet_cached
from seg_transfer.data.case_folders import FileNames
from seg_transfer.data.dataset import Dataset, find_dataset
from seg_transfer.data.naming import case_name
from seg_transfer.errors import UserError
from seg_transfer.options.calls import takes
from seg_transfer.options.choices import Precision
from seg_transfer.options.plan_options import PlanOptions
from seg_transfer.planning.cost import DeviceKind, Machine
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.folds import FoldFiles, assign_folds, read_fold_files
from seg_transfer.planning.given_grid import GivenGrid
from seg_transfer.planning.model_file import read_model_file
from seg_transfer.planning.option_checks import check_before_measuring
from seg_transfer.planning.other_sites import add_sites, read_sites
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.planner import decides_by_evidence, make_plan
from seg_transfer.planning.resources import Resources
from seg_transfer.planning.rules.earlier_model import EarlierModel, choose_member
from seg_transfer.planning.rules.strategy import ON_RANDOM_WEIGHTS, scratch
from seg_transfer.transfer.encoder_entry import encoder_entry
from seg_transfer.transfer.fetch import is_offline
from seg_transfer.util import environment
from seg_transfer.util.files import file_digest
from seg_transfer.util.local_files import check_folder
from seg_transfer.util.machine_speed import remembered
from seg_transfer.util.remote import fetch
from seg_transfer.util.text_files import read_text
from seg_transfer.workflow.gather_evidence import earlier_evidence, gather_evidence
from seg_transfer.workflow.measure import check_and_measure
from seg_transfer.workflow.work_folder import WorkFolder

logger = logging.getLogger(__name__)


@takes(PlanOptions)
def plan(options: PlanOptions) -> Plan:
    """Check and measure a data set, decide how to train on it, and write the plan.

    Nothing but preprocessed cases is written unless all of it succeeds; the measurements are written before the plan.
    Planning again replaces the plan; runs of earlier plans stay.

    Raises:
        UserError: If the data set has problems (all of them are listed), or an option does not fit it; while evidence
            is measured, if cases cannot be preprocessed or weights cannot be loaded.
    """
    check_folder(WorkFolder(options.work).path)
    environment.resolve_device(options.device)
    names = FileNames(options.image_names, options.label_name)
    dataset = find_dataset(options.dataset, workers=options.workers, names=names)
    return plan_dataset(options, _selected(dataset, options.cases))


def plan_dataset(
    options: PlanOptions,
    dataset: Dataset,
    *,
    files: FoldFiles | None = None,
    given: Callable[[Fingerprint], GivenGrid] | None = None,
) -> Plan:
    """Plan a data set as :func:`plan` does.

    Args:
        options: Planning options.
        dataset: The data set with the selected cases.
        files: Groups and folds; by default those that the options name.
        given: Makes the decisions to take over from another program, from the measurements.

    Raises:
        UserError: As :func:`plan` does.
    """
    work = WorkFolder(options.work)
    device = environment.resolve_device(options.device)
    fetch(dataset.files())
    workers = environment.case_workers(options.workers, dataset.files())
    dataset = dataset.model_copy(update={"fill_nan": options.nan == "fill"})
    logger.info(f"{dataset.root}: {len(dataset.cases)} cases, layout {dataset.layout}")
    if dataset.label_map_note:
        logger.info(dataset.label_map_note)
    if options.encoder != "auto":
        encoder_entry(options.encoder, "--encoder")
    resources = _resources(options, device)
    check_before_measuring(
        options,
        dataset=dataset.name,
        dimension=dataset.dimension,
        channels=dataset.channel_names,
        resources=resources,
    )
    if files is None:
        files = read_fold_files(options, [case.id for case in dataset.cases], listed=dataset.groups)
    earlier = None if options.from_model is None else _earlier(options.from_model, options.config, dataset.dimension)
    sites = read_sites(options.with_sites, dataset)
    measured = check_and_measure(dataset, work, skip_broken=options.skip_broken, workers=workers)
    fingerprint = measured.fingerprint.with_sites(add_sites(measured.site, sites))
    if sites:
        logger.info(f"with {len(sites)} other site(s): {fingerprint.site().cases} cases")
    logger.info(f"median case: {fingerprint.median_text()}")
    if unseen := [label.name for label in measured.fingerprint.labels if not label.cases]:
        logger.warning(f"declared, but in no case, so that they cannot be learned: {', '.join(unseen)}")
    folds = assign_folds(options, files, measured.fingerprint)
    grid = None if given is None else given(fingerprint)
    decide = partial(make_plan, fingerprint, options, folds, resources, earlier=earlier, given=grid)
    decided = decide()
    if decides_by_evidence(options, decided):
        decided = decide(evidence=gather_evidence(decided, work, measured.dataset, device=device, workers=workers))
    if decided.model.weights.source == "none" and decided.recipe.strategy != scratch(decided.model):
        option = f"--strategy {options.strategy}" if options.head == "unet" else f"--head {options.head}"
        logger.warning(f"{option}: {ON_RANDOM_WEIGHTS} (otherwise take --strategy scratch, or pretrained --weights)")
    for note in folds.notes:
        logger.warning(note)
    measured.save(work)
    if decided.evidence is not None:
        earlier_evidence(work).model_copy(update={"transfer": decided.evidence}).save(work.evidence)
    decided.save(work.plan)
    return decided


def _resources(options: PlanOptions, device: str) -> Resources:
    """The resources of this machine for training on a device."""
    kind, _, _ = device.partition(":")
    return Resources(
        machine=Machine(cast(DeviceKind, kind), environment.cores(), environment.bfloat16_gain(device)),
        memory_bytes=environment.device_memory(device) if options.memory is None else options.memory,
        imagenet_cached=imagenet_cached,
        offline=is_offline(),
        depthwise_gain=_depthwise_gain,
    )


def _depthwise_gain(dimensions: Literal[2, 3], precision: Precision) -> float:
    """Measured once on a machine; torch's own gradients in 2D and float32 need no measuring."""
    if dimensions == 2 and precision == "float32":
        return 1.0

    def measure() -> float:
        environment.check_torch()
        from seg_transfer.network.depthwise import depthwise_gain

        return depthwise_gain(dimensions, precision)

    return remembered(f"depthwise_gain {dimensions}D {precision}", measure)


def _earlier(path: Path, config: str, dimension: int) -> EarlierModel:
    """The member of a model file to start from."""
    plans = [member.plan for member in read_model_file(path).header.members]
    configurations = [plan.model.configuration for plan in plans]
    configuration = "2d" if dimension == 2 else configurations[0] if config == "auto" else config
    member = choose_member(configurations, configuration)
    encoder_entry(plans[member].model.encoder)
    return EarlierModel(path=str(path.absolute()), sha256=file_digest(path), plan=plans[member])


def _selected(dataset: Dataset, cases: Path | Sequence[str] | None) -> Dataset:
    """The data set with the selected cases only; a path is a file with one case per line."""
    if cases is None:
        return dataset
    where: Path | str = "cases"
    if isinstance(cases, Path):
        where = cases
        lines = read_text(where, "write one case per line into it").splitlines()
        cases = [line.strip() for line in lines if line.strip()]
    cases = [case_name(case) for case in cases]
    unknown = sorted(set(cases) - {case.id for case in dataset.cases})
    if unknown or not cases:
        examples = ", ".join(case.id for case in dataset.cases[:3])
        what = f"not in the data set: {', '.join(unknown[:5])}" if unknown else "names no case"
        raise UserError(what, where=where, hint=f"cases are named like {examples}")
    return dataset.select(list(dict.fromkeys(cases)))
