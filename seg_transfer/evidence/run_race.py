"""A race at the start of a fold: several strategies, trained for a short time on the data itself, of which one wins.

Every candidate takes as many steps on the same patches in the same order, from the same seed, on most of the fold's
training cases; the others score it. No case that the fold holds out is opened. What is done stands in ``race.json`` of
the fold's folder, candidate by candidate, so that an interrupted race goes on and a finished one is not held again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
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
from seg_transfer.training.loop import sampler_of, train_fold
from seg_transfer.training.manifest import Cases
from seg_transfer.training.run_folder import RunFolder
from seg_transfer.training.task import Task
from seg_transfer.training.trainer import Trainer
from seg_transfer.util.progress import track
from seg_transfer.util.statistics import none_if_undefined

logger = logging.getLogger(__name__)

TIMED_STEPS = 3
"""After one that is not timed."""


def run_race(plan: Plan, store: Store, run: RunFolder, *, options: RunOptions) -> tuple[Plan, RunOptions]:
    """Hold the race that a plan asks for; goes on where an earlier call stopped.

    Args:
        plan: What to train; nothing happens if it asks for no race.
        store: The preprocessed cases.
        run: Which fold, and its folder.
        options: Of this run; its device is resolved.

    Returns:
        The plan with the strategy that won, and the options with the rest of the budget; the plan's own strategy and
        the whole budget where this gives the race too few steps.

    Raises:
        UserError: If the fold was started with other options, or the budget is too small to be divided.
        KeyboardInterrupt: As in training.
    """
    race = plan.recipe.race
    if race is None:
        return plan, options
    if options.restart:
        run.clear()
        run.clear_race()
    evidence, task = _load_or_start(plan, store, run, options)
    own = options.model_copy(update={"restart": False, "seed": task.seed, "epochs": None, "time_budget": None})
    if evidence.winner is None:
        evidence = _train_candidates(evidence, plan, store, run, own)
    assert evidence.winner is not None
    chosen = with_strategy(plan, plan.recipe.candidates[evidence.winner], evidence.reason)
    if not evidence.results:
        logger.warning(evidence.reason)
        return chosen, own.model_copy(update={"epochs": task.epochs, "time_budget": task.time_budget})
    logger.info(f"race won by {evidence.reason}")
    if task.time_budget is None:
        assert task.epochs is not None, "a budget is in epochs or in seconds"
        spent = int(rules.spend(race.share, epochs=task.epochs, time_budget=None))
        return chosen, own.model_copy(update={"epochs": task.epochs - spent})
    taken = sum(result.seconds for result in evidence.results)
    rest = rules.time_left(task.time_budget, taken)
    logger.info(f"it took {taken:.0f} s of {task.time_budget:.0f}; {rest:.0f} s are left to train")
    return chosen, own.model_copy(update={"time_budget": rest})


def _load_or_start(plan: Plan, store: Store, run: RunFolder, options: RunOptions) -> tuple[RaceEvidence, Task]:
    """The race as far as it has come, and what the fold is to spend altogether."""
    task = Task.of(plan, run.fold, options)
    if run.race.is_file():
        evidence = RaceEvidence.load(run.race)
        return evidence, task.resumed({name: getattr(evidence, name) for name in asdict(task)}, options, run)
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
    evidence = RaceEvidence(**asdict(task), steps=steps, train=train, held_out=held_out)
    if steps < rules.FEWEST_STEPS:
        reason = (
            f"no race: {steps} step(s) of each candidate (needs {rules.FEWEST_STEPS}) would say nothing, so that "
            f"{recipe.strategy.name} is trained for the whole budget; give it more time, or a larger --race-share"
        )
        evidence = evidence.model_copy(update={"winner": 0, "reason": reason})
    evidence.save(run.race)
    return evidence, task


def _train_candidates(
    evidence: RaceEvidence, plan: Plan, store: Store, run: RunFolder, options: RunOptions
) -> RaceEvidence:
    """Train and score the candidates that are not done yet, and choose."""
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
    """Their names; where two have the same, everything that they say."""
    names = [candidate.name for candidate in candidates]
    return [name if names.count(name) == 1 else str(each) for name, each in zip(names, candidates, strict=True)]


def _seconds_per_step(plan: Plan, store: Store, cases: Sequence[str], seed: int, device: str) -> float:
    """Median time of a step in which everything learns, which no candidate's exceeds."""
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
    """Dice of a preprocessed case per label or region, on the network's grid and without mirroring.

    Cheaper than what validation does, since nothing is resampled or written.

    Args:
        predictor: Of the plan that the store was made with.
        stored: The case.

    Returns:
        Name -> Dice over annotated voxels; None where neither prediction nor reference has it.
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
