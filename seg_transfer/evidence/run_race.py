"""The race at the start of a fold: train each candidate strategy for a short time and choose the best.

Every candidate takes the same number of steps on the same patches in the same order, from the same random seed, on most
of the fold's training cases; the others score it. Cases that the fold holds out are not used. Results are saved in
``race.json`` of the fold's folder after each candidate, so that an interrupted race resumes and a finished one is not
repeated.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from statistics import median

import torch

from seg_transfer.data.splits import Split
from seg_transfer.evidence.overlap import Overlaps
from seg_transfer.inference.classes import decide
from seg_transfer.inference.predictor import Predictor
from seg_transfer.options.train_options import RunOptions
from seg_transfer.planning.evidence_record import CandidateResult, RaceEvidence
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.rules import race as rules
from seg_transfer.planning.strategy import Strategy
from seg_transfer.planning.variants import scratch_control, shortened, with_strategy
from seg_transfer.preprocessing.store import Store, StoredCase
from seg_transfer.training.batches import sampler_of
from seg_transfer.training.loop import train_fold
from seg_transfer.training.manifest import Cases
from seg_transfer.training.run_folder import RunFolder
from seg_transfer.training.task import Task
from seg_transfer.training.trainer import Trainer
from seg_transfer.util.progress import track
from seg_transfer.util.statistics import none_if_undefined

logger = logging.getLogger(__name__)

TIMED_STEPS = 3
"""After one step to warm up."""


def run_race(plan: Plan, store: Store, run: RunFolder, *, options: RunOptions) -> tuple[Plan, RunOptions]:
    """Run a plan's race, or resume it.

    Args:
        plan: The plan; without a race it is returned unchanged.
        store: The preprocessed cases.
        run: The fold and its folder.
        options: Options of this run, with a resolved device.

    Returns:
        The plan with the winning strategy, and the options with the remaining budget. If the budget gives the race too
        few steps: the plan's own strategy and the whole budget.

    Raises:
        UserError: If the fold was started with other options, or the budget is too small to be divided.
        KeyboardInterrupt: If the user asked to stop.
    """
    race = plan.recipe.race
    if race is None:
        return plan, options
    if options.restart:
        run.clear()
        run.clear_race()
    evidence, task = _load_or_start(plan, store, run, options)
    used = task.model_dump(exclude={"fold"}) | {"epochs": None, "time_budget": None}
    options = options.model_copy(update={"restart": False, **used})
    if evidence.winner is None:
        evidence = _train_candidates(evidence, plan, store, run, options)
    assert evidence.winner is not None
    chosen = with_strategy(plan, plan.recipe.candidates[evidence.winner], evidence.reason)
    if not evidence.results:
        logger.warning(evidence.reason)
        return chosen, options.model_copy(update={"epochs": task.epochs, "time_budget": task.time_budget})
    logger.info(f"race won by {evidence.reason}")
    if task.time_budget is None:
        assert task.epochs is not None, "a budget is in epochs or in seconds"
        spent = int(rules.spend(race.share, epochs=task.epochs, time_budget=None))
        return chosen, options.model_copy(update={"epochs": task.epochs - spent})
    seconds = sum(result.seconds for result in evidence.results)
    remaining = rules.time_left(task.time_budget, seconds)
    logger.info(f"the race took {seconds:.0f} s of {task.time_budget:.0f}; {remaining:.0f} s are left for training")
    return chosen, options.model_copy(update={"time_budget": remaining})


def _load_or_start(plan: Plan, store: Store, run: RunFolder, options: RunOptions) -> tuple[RaceEvidence, Task]:
    """The new or resumed race, and the fold's task with its whole budget."""
    task = Task.of(plan, run.fold, options)
    if run.race.is_file():
        evidence = RaceEvidence.load(run.race)
        return evidence, task.resumed({name: getattr(evidence, name) for name in Task.model_fields}, options, run)
    race, recipe = plan.recipe.race, plan.recipe
    assert race is not None
    held_out = race.held_out[-1 if run.fold == "full" else run.fold]
    train = tuple(case for case in Cases.of(plan, run.fold).train if case not in held_out)
    spent = rules.spend(race.share, epochs=task.epochs, time_budget=task.time_budget)
    each = spent / len(recipe.candidates)
    if task.time_budget is None:
        steps = int(each * recipe.steps_per_epoch)
    else:
        steps = int(each / _seconds_per_step(plan, store, train, task.seed, options.device))
    evidence = RaceEvidence(**task.model_dump(), steps=steps, train=train, held_out=held_out)
    if steps < rules.FEWEST_STEPS:
        reason = (
            f"no race: {steps} step(s) of each candidate are too few (at least {rules.FEWEST_STEPS}), so that "
            f"{recipe.strategy.name} is trained for the whole budget; give it more time, or a larger --race-share"
        )
        evidence = evidence.model_copy(update={"winner": 0, "reason": reason})
    evidence.save(run.race)
    return evidence, task


def _train_candidates(
    evidence: RaceEvidence, plan: Plan, store: Store, run: RunFolder, options: RunOptions
) -> RaceEvidence:
    """Train and score the remaining candidates, and choose the winner."""
    candidates = plan.recipe.candidates
    names = _names(candidates)
    logger.info(
        f"race of {', '.join(names)}: {evidence.steps} steps each on {len(evidence.train)} cases, scored on "
        f"{len(evidence.held_out)} others"
    )
    split = Split(train=evidence.train, validation=evidence.held_out)
    for index in range(len(evidence.results), len(candidates)):
        logger.info(f"race: {names[index]}")
        short = shortened(with_strategy(plan, candidates[index], "races"), split, evidence.steps)
        candidate = run.race_candidate(index)
        trained = train_fold(short, store, candidate, options=options)
        started = time.perf_counter()
        predictor = Predictor.load([candidate.model], options.device)
        dice = {
            case: dice_on_grid(predictor, store.case(case))
            for case in track(evidence.held_out, total=len(evidence.held_out), title="scoring")
        }
        seconds = trained.seconds + time.perf_counter() - started
        result = CandidateResult(strategy=candidates[index], seconds=seconds, dice=dice)
        evidence = evidence.model_copy(update={"results": (*evidence.results, result)})
        evidence.save(run.race)
    winner, reason = rules.choose(names, [list(result.case_dice().values()) for result in evidence.results])
    evidence = evidence.model_copy(update={"winner": winner, "reason": reason})
    evidence.save(run.race)
    run.clear_race_candidates()
    return evidence


def _names(candidates: Sequence[Strategy]) -> list[str]:
    """Names of the candidates; full descriptions of those that share a name."""
    names = [candidate.name for candidate in candidates]
    return [name if names.count(name) == 1 else str(each) for name, each in zip(names, candidates, strict=True)]


def _seconds_per_step(plan: Plan, store: Store, cases: Sequence[str], seed: int, device: str) -> float:
    """Median time of a step in which all stages learn: an upper bound for every candidate."""
    trainer = Trainer(scratch_control(plan), seed=seed, device=device, load=False)
    sampler = sampler_of(plan, store, cases, seed=seed)
    seconds = []
    for step in range(1 + TIMED_STEPS):
        start = time.perf_counter()
        trainer.step(sampler.batch(step), step, 0.5)
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])


@torch.inference_mode()
def dice_on_grid(predictor: Predictor, stored: StoredCase) -> dict[str, float | None]:
    """Dice of a preprocessed case on the network's grid, without mirroring.

    Cheaper than validation, since nothing is resampled or written.

    Args:
        predictor: A predictor whose plan has the store's data part.
        stored: The case.

    Returns:
        Label or region -> Dice over annotated voxels; None where neither prediction nor reference has it.
    """
    data = predictor.plan.data
    overlaps = Overlaps(data, segmentations=1)
    overlaps.begin_case()
    axis = predictor.slab_axis(stored.shape)
    for start, slab in predictor.slabs(stored.image[:], axis=axis, tta=False):
        box = [slice(None)] * 3
        box[axis] = slice(start, start + slab.shape[axis + 1])
        overlaps.add(0, decide(slab.cpu().numpy(), data), stored.label[tuple(box)])
    return {name: none_if_undefined(dice) for name, dice in overlaps.mean_dice(0).items()}
