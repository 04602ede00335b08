"""Trains one fold: from a plan and a preprocessed store to a run folder with a model in it.

The run folder holds ``manifest.json``, ``model.safetensors`` (averaged weights, the plan in its header),
``resume.safetensors``, ``log.csv``, ``tensorboard/`` and ``progress.png``. Each is replaced as a whole every minute,
when training is interrupted and at its end; the logs at the end of each epoch.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from seg_transfer.errors import UserError
from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.store import Store
from seg_transfer.training.batches import PatchSampler, ReadAhead
from seg_transfer.training.checkpoint import MODEL_FILE, RESUME_FILE, load_header, load_state, save_state
from seg_transfer.training.history import LOG_FILE, TENSORBOARD_FOLDER, Row, TensorBoard, mean_dice, write_csv
from seg_transfer.training.interrupt import stop_requests
from seg_transfer.training.manifest import (
    MANIFEST_FILE,
    build_manifest,
    describe_frozen,
    describe_weights,
    installed_versions,
)
from seg_transfer.training.progress_plot import PROGRESS_FILE, draw_progress
from seg_transfer.training.state import Fold, RunOptions, State, Task
from seg_transfer.training.trainer import Trainer
from seg_transfer.util.files import write_text
from seg_transfer.util.progress import meter

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_SAVES = 60.0
VALIDATION_BATCHES = 8
RECALIBRATION_BATCHES = 20
MOST_SKIPPED = 10
SHARE_OF_FREE_MEMORY = 0.25


@dataclass(frozen=True)
class RunResult:
    """What came of a run; ``dice`` is that of random validation patches at the end (None: label absent)."""

    folder: Path
    model: Path
    epochs: int
    steps: int
    seconds: float
    dice: dict[str, float | None]


def train_fold(plan: Plan, store: Store, run_folder: Path, *, fold: Fold, options: RunOptions) -> RunResult:
    """Train a fold to the end of its budget; goes on where an earlier call stopped, returns at once where it finished.

    On the CPU with a budget in epochs and a fixed number of threads, a training that was stopped and goes on equals an
    uninterrupted one to the bit.

    Args:
        plan: What to train.
        store: The preprocessed cases.
        run_folder: Made if need be.
        fold: Which split; ``full`` trains on every case and holds none out.
        options: Of this run.

    Raises:
        UserError: If what is there is of another run, a case is not preprocessed, or the loss stays not finite.
        KeyboardInterrupt: On SIGINT or SIGTERM, after the step at hand is finished and everything is saved.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.restart:
        clear_run(run_folder)
    run = _Run(plan, store, run_folder, fold, options)
    if not run.finished:
        run.train()
    return run.result()


class _Run:
    def __init__(self, plan: Plan, store: Store, folder: Path, fold: Fold, options: RunOptions) -> None:
        self.plan, self.store, self.folder, self.fold, self.options = plan, store, folder, fold, options
        recipe = plan.recipe
        self.train_cases = plan.data.cases if fold == "full" else recipe.splits[fold].train
        self.validation_cases = () if fold == "full" else recipe.splits[fold].validation
        self.resume_file, self.model_file = folder / RESUME_FILE, folder / MODEL_FILE
        self.task = Task.of(plan, fold, options)
        self.state = State()
        if self.resume_file.is_file():
            header = load_header(self.resume_file, "resume")
            self.task = self.task.resumed(header["task"], options, folder)
            self.state = State(**header["state"])
        self.budget = self.task.budget(recipe.steps_per_epoch)

    @property
    def progress(self) -> float:
        return self.budget.progress(self.state.step, self.state.seconds)

    @property
    def finished(self) -> bool:
        return self.progress >= 1 and self.model_file.is_file() and (self.folder / MANIFEST_FILE).is_file()

    def train(self) -> None:
        goes_on = self.state.step > 0
        self.trainer = Trainer(self.plan, seed=self.task.seed, device=self.options.device, load=not goes_on)
        draw = partial(sampler_of, self.plan, self.store, seed=self.task.seed)
        self.sampler = draw(self.train_cases)
        self.validation = draw(self.validation_cases) if self.validation_cases else None
        if goes_on:
            self.trainer.load(load_state(self.resume_file, "resume")[0])
            logger.info(f"going on after step {self.state.step}")
        else:
            self.state.weights = describe_weights(self.trainer.report)
            logger.info(str(self.trainer.report))
            if self.plan.recipe.strategy.recalibrates:
                # Not timed: a small time budget would be used up before the first step.
                steps = range(RECALIBRATION_BATCHES)
                self.trainer.recalibrate(self.sampler.batch(step, "recalibrate").image for step in steps)
        self._save_manifest()
        self.board = TensorBoard(self.folder / TENSORBOARD_FOLDER, self.state.step)
        batches = ReadAhead(self.sampler.batch, workers=self.options.workers)
        try:
            self._loop(batches)
        finally:
            batches.close()
            self.board.close()
        if not self.model_file.is_file():  # deleted since
            self._save_model()

    def result(self) -> RunResult:
        rows = self.state.rows
        dice = rows[-1]["dice"] if rows else {}
        state = self.state
        return RunResult(self.folder, self.model_file, len(rows), state.step, state.seconds, dice)

    def _loop(self, batches: ReadAhead) -> None:
        state, per_epoch = self.state, self.plan.recipe.steps_per_epoch
        saved = time.monotonic()
        with stop_requests() as stop, meter(total=1.0, title="training") as show:
            while (before := self.progress) < 1:
                with self._timed():
                    loss, learned = self.trainer.step(batches(state.step), state.step, before)
                state.step += 1
                self._note(loss, learned)
                if state.step % per_epoch == 0 or self.progress >= 1:
                    self._end_epoch(before)
                if stop.requested or self.progress >= 1 or time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    self._save()
                    saved = time.monotonic()
                if stop.requested:
                    raise KeyboardInterrupt
                show(self.progress, self._note_for_user())

    def _note(self, loss: float, learned: bool) -> None:
        state = self.state
        if learned:
            state.losses.append(loss)
            state.skipped_in_a_row = 0
            return
        state.skipped += 1
        state.skipped_in_a_row += 1
        logger.debug(f"step {state.step}: loss {loss} or its gradient is not finite, skipped")
        if state.skipped_in_a_row == MOST_SKIPPED:
            raise UserError(
                f"loss or gradient was not finite in {MOST_SKIPPED} steps in a row, the last one step {state.step}",
                where=self.folder,
                hint="lower recipe.learning_rate, or set recipe.precision to float32, and train with --restart",
            )

    def _end_epoch(self, progress: float) -> None:
        state = self.state
        fixed = range(VALIDATION_BATCHES)
        dice: dict[str, float | None] = dict.fromkeys(self.plan.data.scored)
        if self.validation is not None:
            dice = self.trainer.dice(self.validation.batch(step, "validate") for step in fixed)
        row = Row(
            epoch=len(state.rows) + 1,
            step=state.step,
            seconds=state.seconds,
            progress=self.progress,
            loss=sum(state.losses) / len(state.losses) if state.losses else None,
            dice=dice,
            rates=self.trainer.rates(progress),
            stages={str(stage): what for stage, what in self.trainer.schedule.describe(progress).items()},
            skipped=state.skipped,
        )
        state.rows.append(row)
        state.losses.clear()
        self.board.add(row)
        write_csv(self.folder / LOG_FILE, state.rows)

    def _save(self) -> None:
        """Write everything; the resume state last, so that a finished one means that the rest is there."""
        if self.state.rows:
            draw_progress(self.folder / PROGRESS_FILE, self.state.rows, title=self._title())
        self._save_model()
        self._save_manifest()
        resume = {"task": asdict(self.task), "state": asdict(self.state)}
        save_state(self.resume_file, "resume", self.trainer.tensors(), resume)

    def _save_model(self) -> None:
        header = {
            "plan": self.plan.model_dump(mode="json"),
            "task": asdict(self.task),
            "weights": "averaged",
            **self._how_far(),
        }
        save_state(self.model_file, "model", self.trainer.averaged.network.state_dict(), header)

    def _save_manifest(self) -> None:
        last = self.state.rows[-1] if self.state.rows else None
        manifest = build_manifest(
            plan=self.plan,
            fold=self.fold,
            train=self.train_cases,
            validation=self.validation_cases,
            options={name: getattr(self.task, name) for name in ("seed", "epochs", "time_budget")}
            | {"workers": self.options.workers, "threads": torch.get_num_threads()},
            versions=installed_versions(),
            device=_device_name(self.options.device),
            weights=self.state.weights,
            frozen=describe_frozen(self.trainer.schedule),
            result=self._how_far()
            | {"skipped": self.state.skipped, "dice": last and last["dice"], "mean_dice": last and mean_dice(last)},
        )
        write_text(self.folder / MANIFEST_FILE, json.dumps(manifest, indent=2) + "\n")

    def _how_far(self) -> dict[str, Any]:
        progress = self.progress
        return {
            "finished": progress >= 1,
            "progress": progress,
            "epochs": len(self.state.rows),
            "steps": self.state.step,
            "seconds": self.state.seconds,
        }

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.state.seconds += time.perf_counter() - start

    def _title(self) -> str:
        plan = self.plan
        fold = "all cases" if self.fold == "full" else f"fold {self.fold}"
        return (
            f"{plan.data.dataset}, {plan.model.configuration} {plan.model.encoder} {plan.recipe.strategy.name}, {fold}"
        )

    def _note_for_user(self) -> str:
        rows, losses = self.state.rows, self.state.losses
        loss = losses[-1] if losses else rows[-1]["loss"] if rows else None
        dice = mean_dice(rows[-1]) if rows else None
        shown = [f"step {self.state.step}"]
        if loss is not None:
            shown.append(f"loss {loss:.3f}")
        if dice is not None:
            shown.append(f"Dice {dice:.3f}")
        return ", ".join(shown)


def sampler_of(plan: Plan, store: Store, cases: Sequence[str], *, seed: int) -> PatchSampler:
    """What draws the batches of a plan's training from some cases."""
    sampler = PatchSampler(
        store,
        cases,
        plan.model,
        batch_size=plan.recipe.batch_size,
        foreground_share=plan.recipe.foreground_share,
        seed=seed,
        cache_bytes=int(SHARE_OF_FREE_MEMORY * psutil.virtual_memory().available),
    )
    logger.debug(f"{len(cases)} cases, {'held in memory' if sampler.cached else 'read patch by patch'}")
    return sampler


def clear_run(folder: Path) -> None:
    """Delete what a run left, and nothing else."""
    for name in (RESUME_FILE, MODEL_FILE, MANIFEST_FILE, LOG_FILE, PROGRESS_FILE):
        (folder / name).unlink(missing_ok=True)
    for name in (TENSORBOARD_FOLDER, "validation"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
