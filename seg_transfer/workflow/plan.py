"""From a data set's folder to a plan."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from seg_transfer.catalogue.encoders import entry, imagenet_cached
from seg_transfer.data.dataset import Dataset, find_dataset
from seg_transfer.data.splits import read_text
from seg_transfer.errors import UserError
from seg_transfer.planning.evidence_record import Evidence
from seg_transfer.planning.folds import FoldWishes, deal
from seg_transfer.planning.model_file import file_digest, read_model_file
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.planner import PlanRequest, decides_by_evidence, make_plan
from seg_transfer.planning.request import check_options
from seg_transfer.planning.rules.earlier_model import EarlierModel, choose_member
from seg_transfer.planning.rules.strategy import ON_RANDOM_WEIGHTS, scratch
from seg_transfer.transfer.fetch import is_offline
from seg_transfer.util import environment
from seg_transfer.util.files import check_folder
from seg_transfer.workflow.gather_evidence import gather_evidence
from seg_transfer.workflow.measure import check_and_measure
from seg_transfer.workflow.options import at_most_one
from seg_transfer.workflow.work_folder import DEFAULT, Work

logger = logging.getLogger(__name__)


def plan(
    dataset: Path | str,
    *,
    work: Path | str = DEFAULT,
    config: str = "auto",
    encoder: str = "auto",
    weights: str = "auto",
    from_model: Path | str | None = None,
    carry: str = "auto",
    strategy: str = "auto",
    evidence: bool = True,
    race_share: float | None = None,
    head: str = "unet",
    normalization: Mapping[str, str] | None = None,
    memory: int | None = None,
    epochs: int | None = None,
    time_budget: float | None = None,
    cases: Path | str | Sequence[str] | None = None,
    folds: int = 5,
    group_by: str | None = None,
    groups: Path | str | None = None,
    splits: Path | str | None = None,
    skip_broken: bool = False,
    device: str = "auto",
    workers: int | None = None,
    seed: int = 0,
) -> Plan:
    """Check and measure a data set, decide how to train on it, and write the plan.

    Nothing but prepared cases is written unless all of it succeeds. Planning again replaces the plan; runs of earlier
    plans stay.

    Args:
        dataset: Folder in nnU-Net or MSD layout, or one with a folder of images and one of labels.
        work: Work folder; made if need be.
        config: ``auto``, ``2d``, ``2.5d`` or ``3d``.
        encoder: ``auto``, or a name in the catalogue.
        weights: ``auto``, ``bundled``, ``imagenet``, ``none``, or a file.
        from_model: File that :func:`seg_transfer.export` wrote, to start from, in place of ``weights``; labels,
            channels and spacing may be others. Scores are only honest if it has never seen the held-out cases.
        carry: What to take from it: ``encoder``, ``all`` for encoder and decoder, or ``auto`` for all that fits.
        strategy: ``auto``, ``frozen``, ``partial``, ``gradual``, ``finetune`` or ``scratch``; ``classic`` for the
            textbook's choice by size and similarity; or ``race``: each fold starts with a short training of several
            of them, whose winner it then trains.
        evidence: Try the pretrained encoder on some cases before the strategy is decided; they are prepared for that.
        race_share: Share of a fold's budget for its race; by default a tenth.
        head: ``unet``, or ``softmax``, ``svm`` or ``bayes``: a classifier of single voxels by the frozen encoder's
            features, which is fitted in seconds: the baseline against which training has to show its worth.
        normalization: Channel -> ``zscore``, ``clip_zscore``, ``minmax`` or ``none``; other channels stay automatic.
        memory: Bytes that training may use; by default 0.9 of the GPU's memory or half of the host's.
        epochs: Training budget in epochs.
        time_budget: Training budget in seconds per fold, in place of ``epochs``.
        cases: File with one case per line, or their identifiers; by default all.
        folds: Folds of the cross-validation; fewer where there are fewer cases.
        group_by: Regular expression on case identifiers; cases with the same match share a fold.
        groups: File with the group of each case, in place of ``group_by``.
        splits: JSON file with the folds themselves; with groups, those that leak are said.
        skip_broken: Go on without the cases that have problems.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``: what to plan for.
        workers: Processes; 0 works in this one, None takes as many as the machine bears.
        seed: Seed of all chance.

    Raises:
        UserError: If the data set has problems (all of them are listed), or an option does not fit it; while evidence
            is gathered, if cases cannot be prepared or weights cannot be loaded.
    """
    at_most_one(epochs=epochs, time_budget=time_budget)
    at_most_one(group_by=group_by, groups=groups)
    place = Work(Path(work))
    check_folder(place.path)
    if encoder != "auto":
        entry(encoder)
    device = environment.resolve_device(device)
    case_workers = environment.case_workers() if workers is None else workers
    found = _selected(find_dataset(Path(dataset), workers=case_workers), cases)
    _say_what_was_found(found)
    ids = [case.id for case in found.cases]
    wanted = FoldWishes(
        folds=folds,
        group_by=group_by,
        groups=None if groups is None else Path(groups),
        splits=None if splits is None else Path(splits),
        seed=seed,
    )
    request = PlanRequest(
        config=config,
        encoder=encoder,
        weights=str(Path(weights).absolute()) if Path(weights).is_file() else weights,
        strategy=strategy,
        race_share=race_share,
        head=head,
        normalization=dict(normalization or {}),
        memory_bytes=environment.device_memory(device) if memory is None else memory,
        epochs=epochs,
        time_budget=time_budget,
        splits=deal(wanted, ids).splits,
        device=device.partition(":")[0],
        cores=environment.cores(),
        bfloat16_gain=environment.bfloat16_gain(device),
        imagenet_cached=imagenet_cached,
        offline=is_offline(),
        earlier=None if from_model is None else _earlier(Path(from_model), config, found.dimension),
        carry=carry,
        seed=seed,
    )
    check_options(request, found.channel_names)  # and dealt above: what is wrong is said before long measuring
    measured = check_and_measure(found, place, skip_broken=skip_broken, workers=case_workers, seed=seed)
    dealt = deal(wanted, ids, measured.fingerprint)
    request = replace(request, splits=dealt.splits, groups=dealt.groups)
    made = make_plan(measured.fingerprint, request)
    if evidence and decides_by_evidence(request, made):
        known = gather_evidence(made, place, measured.dataset, device=device, workers=case_workers)
        made = make_plan(measured.fingerprint, replace(request, evidence=known))
    if made.model.weights.source == "none" and made.recipe.strategy != scratch(made.model):
        asked = f"--strategy {strategy}" if head == "unet" else f"--head {head}"
        logger.warning(f"{asked}: {ON_RANDOM_WEIGHTS} (otherwise take --strategy scratch, or pretrained --weights)")
    for note in dealt.notes:
        logger.warning(note)
    measured.save(place)
    if made.evidence is not None:
        Evidence.load(place.evidence).model_copy(update={"transfer": made.evidence}).save(place.evidence)
    made.save(place.plan)
    return made


def _earlier(path: Path, config: str, dimension: int) -> EarlierModel:
    """The member of a model file to start from."""
    plans = [member.plan for member in read_model_file(path).header.members]
    configurations = [plan.model.configuration for plan in plans]
    wanted = "2d" if dimension == 2 else configurations[0] if config == "auto" else config
    member = choose_member(configurations, wanted)
    return EarlierModel(path=str(path.absolute()), sha256=file_digest(path), plan=plans[member])


def _say_what_was_found(found: Dataset) -> None:
    logger.info(f"{found.root}: {len(found.cases)} cases, layout {found.layout}")
    if found.label_map_note:
        logger.info(found.label_map_note)


def _selected(dataset: Dataset, cases: Path | str | Sequence[str] | None) -> Dataset:
    """Cut the data set to the cases that the user wants; a path is a file with one case per line."""
    if cases is None:
        return dataset
    where: Path | str = "cases"
    if isinstance(cases, Path | str):
        where = Path(cases)
        lines = read_text(where, "write one case per line into it").splitlines()
        cases = [line.strip() for line in lines if line.strip()]
    unknown = sorted(set(cases) - {case.id for case in dataset.cases})
    if unknown or not cases:
        known = ", ".join(case.id for case in dataset.cases[:3])
        what = f"not in the data set: {', '.join(unknown[:5])}" if unknown else "names no case"
        raise UserError(what, where=where, hint=f"cases are named like {known}")
    return dataset.select(list(dict.fromkeys(cases)))
