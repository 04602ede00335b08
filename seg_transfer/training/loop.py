"""Trains one fold: from a plan and a preprocessed store to a run folder with a model.

The files of a run are listed in :mod:`~seg_transfer.training.run_folder`. Each is replaced as a whole every minute, on
interruption and at the end; the logs after each epoch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch

from seg_transfer.errors import UserError
from seg_transfer.options.train_options import RunOptions
from seg_transfer.planning.fields import Fold
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.rules.optimization import TARGET_STEPS
from seg_transfer.preprocessing.store import Store
from seg_transfer.training.batches import ReadAhead, sampler_of
from seg_transfer.training.checkpoint import is_whole_model, load_header, load_state, save_state
from seg_transfer.training.follow import Following
from seg_transfer.training.history import Row, mean_dice, write_csv
from seg_transfer.training.interrupt import stop_requests
from seg_transfer.training.manifest import (
    Cases,
    LearningStages,
    LoadedWeights,
    Manifest,
    RunResult,
    UsedOptions,
    installed_versions,
)
from seg_transfer.training.progress_plot import draw_progress
from seg_transfer.training.ranks import current
from seg_transfer.training.run_folder import RunFolder
from seg_transfer.training.task import Task, check_plan
from seg_transfer.training.trackers import Trackers
from seg_transfer.training.trainer import Trainer
from seg_transfer.util.environment import training_workers
from seg_transfer.util.locks import check_held
from seg_transfer.util.progress import meter
from seg_transfer.util.units import bytes_text

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_SAVES = 60.0
VALIDATION_BATCHES = 8
MOST_LABELS = 4
"""Labels whose Dice the progress display has room for."""
RECALIBRATION_BATCHES = 20
MOST_SKIPPED = 10
LESS_MEMORY = 0.8
"""Of the memory that was there or planned: what to plan with after it ran out. A guess, not measured."""
CUT_SHORT = 0.5
"""A schedule with a smaller share of its planned steps, and less than the steps that plans aim at, was cut short."""


def train_fold(plan: Plan, store: Store, run: RunFolder, *, options: RunOptions) -> RunResult:
    """Train a fold to the end of its budget; resumes an interrupted run and returns at once for a finished one.

    On the CPU with a budget in epochs and a fixed number of threads, a resumed run equals an uninterrupted one to the
    bit.

    Args:
        plan: The plan to train.
        store: The preprocessed cases.
        run: The fold and its folder.
        options: Options of this run, with a resolved device.

    Raises:
        UserError: If the folder has another run, a case is not preprocessed, or the loss is not finite for some steps.
        KeyboardInterrupt: On Ctrl-C, or a signal to end, after the current step is finished and everything is saved.
    """
    if options.restart:
        run.clear()
    training = _Training(plan, store, run, options)
    if not training.is_done:
        training.run_to_end()
    return training.result()


@dataclass
class State:
    """Progress of a run; with the trainer's tensors, all that resuming needs.

    Attributes:
        step: Steps done, skipped ones included.
        seconds: Training time.
        losses: Losses of the current epoch.
        skipped: Steps whose loss or gradient was not finite.
        skipped_in_a_row: Such steps since the last one that was finite.
        rows: Finished epochs.
        weights: How the encoder's weights were loaded.
    """

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    skipped: int = 0
    skipped_in_a_row: int = 0
    rows: list[Row] = field(default_factory=list)
    weights: dict[str, Any] = field(default_factory=dict)


class _Training:
    def __init__(self, plan: Plan, store: Store, run: RunFolder, options: RunOptions) -> None:
        self.plan, self.store, self.run, self.options = plan, store, run, options
        self.cases = Cases.of(plan, run.fold)
        self.task = Task.of(plan, run.fold, options)
        self.state = State()
        if run.resume.is_file():
            header = load_header(run.resume, "resume")
            check_plan(plan, header, run)
            self.task = self.task.resumed(header["task"], options, run)
            self.state = State(**header["state"])
        self.budget = self.task.budget(plan.recipe.steps_per_epoch)
        self.ranks = current()

    @property
    def progress(self) -> float:
        return self.budget.progress(self.state.step, self.state.seconds)

    @property
    def is_done(self) -> bool:
        return self.progress >= 1 and self.run.manifest.is_file() and is_whole_model(self.run.model)

    def run_to_end(self) -> None:
        resumes = self.state.step > 0
        seed, device = self.task.seed, self.options.device
        self.trainer = Trainer(self.plan, seed=seed, device=device, load=not resumes, ranks=self.ranks)
        make_sampler = partial(sampler_of, self.plan, self.store, seed=seed, processes=self.ranks.here)
        self.sampler = make_sampler(self.cases.train)
        self.validation = make_sampler(self.cases.validation) if self.cases.validation else None
        if resumes:
            self.trainer.load(load_state(self.run.resume, "resume")[0])
            logger.info(f"resuming after step {self.state.step}")
        else:
            self.state.weights = LoadedWeights.of(self.trainer.report).model_dump(mode="json")
            logger.info(str(self.trainer.report))
            if self.plan.recipe.strategy.recalibrates:
                # Not timed, since it could use up a small time budget.
                steps = range(RECALIBRATION_BATCHES)
                self.trainer.recalibrate(self.sampler.batch(step, "recalibrate").image for step in steps)
        self._save_manifest()
        self.trackers = Trackers(self.options.track, self.run, self.state.step)
        batches = ReadAhead(
            partial(self.sampler.batch, rows=self.ranks.rows()),
            workers=training_workers(device, self.options.workers),
            pinned=device.startswith("cuda"),
        )
        self._call_others()
        try:
            self._train(batches)
        except torch.OutOfMemoryError as error:
            raise self._memory_ran_out() from error
        finally:
            batches.close()
            self.trackers.close()
        if not is_whole_model(self.run.model):  # deleted or damaged after the last save
            self._save_model()

    def result(self) -> RunResult:
        last = self.state.rows[-1] if self.state.rows else None
        planned = self._planned_steps()
        return RunResult(
            **self._progress_fields(),
            planned_steps=planned,
            cut_short=planned is not None
            and self.progress >= 1
            and self.state.step < min(TARGET_STEPS, CUT_SHORT * planned),
            skipped=self.state.skipped,
            dice=last and last["dice"],
            mean_dice=last and mean_dice(last),
        )

    def _train(self, batches: ReadAhead) -> None:
        state, per_epoch = self.state, self.plan.recipe.steps_per_epoch
        saved = time.monotonic()
        with stop_requests() as stop, meter(total=1.0, title="training") as show:
            while (before := self.progress) < 1:
                start = time.perf_counter()
                loss, learned = self.trainer.step(batches(state.step), state.step, before)
                state.seconds += time.perf_counter() - start
                state.step += 1
                self._count(loss, learned)
                _, stopping = self.ranks.agree(self.progress, stop.requested)
                if state.step % per_epoch == 0 or self.progress >= 1:
                    self._end_epoch(before)
                    _, stopping = self.ranks.agree(self.progress, stop.requested)
                if self.progress >= 1 or stopping:
                    self.ranks.done()
                if stopping or self.progress >= 1 or time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    self._save()
                    saved = time.monotonic()
                if stopping:
                    raise KeyboardInterrupt
                show(self.progress, self._status())

    def _call_others(self) -> None:
        """Let the other ranks take part, with the state of this one."""
        if self.ranks.size > 1 and self.progress < 1:
            following = Following(
                plan=self.plan,
                store=self.store.folder.absolute(),
                cases=self.cases,
                seed=self.task.seed,
                workers=self.options.workers,
                step=self.state.step,
                progress=self.progress,
                validation_batches=VALIDATION_BATCHES,
                tensors={name: tensor.cpu() for name, tensor in self.trainer.tensors().items()},
            )
            self.ranks.call(following)

    def _memory_ran_out(self) -> UserError:
        """What to tell about a GPU whose memory ran out, with a limit for the next plan."""
        device, expected = self.options.device, self.plan.expected
        free, total = torch.cuda.mem_get_info(device)
        mine = torch.cuda.memory_reserved(device)
        needed = mine if expected is None else expected.memory_bytes
        fits = int(LESS_MEMORY * min(free + mine, needed))
        what = (
            f"step {self.state.step}: the memory of {device} ran out: of its {bytes_text(total)} this training holds "
            f"{bytes_text(mine)}, and {bytes_text(free)} are free"
        )
        hint = f"plan again with `--memory {bytes_text(fits).replace(' ', '')}`, or end other programs on the GPU"
        return UserError(what, where=self.run.path, hint=hint)

    def _count(self, loss: float, learned: bool) -> None:
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
                where=self.run.path,
                hint="lower recipe.learning_rate, or set recipe.precision to float32, and train with --restart",
            )

    def _end_epoch(self, progress: float) -> None:
        state = self.state
        loss: float | None = None
        dice: dict[str, float | None] = dict.fromkeys(self.plan.data.scored)
        if self.validation is not None:
            steps = range(VALIDATION_BATCHES)[self.ranks.rows()]  # the same ones after every epoch
            loss, dice = self.trainer.validate(self.validation.batch(step, "validate") for step in steps)
        row = Row(
            epoch=len(state.rows) + 1,
            step=state.step,
            seconds=state.seconds,
            progress=self.progress,
            loss=sum(state.losses) / len(state.losses) if state.losses else None,
            validation_loss=loss,
            dice=dice,
            rates=self.trainer.rates(progress),
            stages={str(stage): what for stage, what in self.trainer.schedule.describe(progress).items()},
            skipped=state.skipped,
        )
        state.rows.append(row)
        state.losses.clear()
        self.trackers.add(row)
        write_csv(self.run.log, state.rows)

    def _save(self) -> None:
        """Write everything, the resume state last: a finished one implies that the other files are complete."""
        check_held(self.run.lock)
        if self.state.rows:
            draw_progress(self.run.progress_plot, self.state.rows, title=title_of(self.plan, self.run.fold))
        self._save_model()
        self._save_manifest()
        header = self._header() | {"state": asdict(self.state)}
        save_state(self.run.resume, "resume", self.trainer.tensors(), header)

    def _save_model(self) -> None:
        header = self._header() | {"weights": "averaged", **self._progress_fields()}
        save_state(self.run.model, "model", self.trainer.averaged.network.state_dict(), header)

    def _header(self) -> dict[str, Any]:
        return {"plan": self.plan.model_dump(mode="json"), "task": self.task.model_dump()}

    def _save_manifest(self) -> None:
        manifest = Manifest(
            plan=self.plan.hash,
            fold=self.run.fold,
            cases=self.cases,
            options=UsedOptions.of(self.task, self.options, threads=torch.get_num_threads()),
            versions=installed_versions(),
            device=_device_name(self.options.device),
            weights=LoadedWeights.model_validate(self.state.weights),
            frozen=LearningStages.of(self.trainer.schedule),
            result=self.result(),
        )
        manifest.save(self.run.manifest)

    def _progress_fields(self) -> dict[str, Any]:
        return {
            "finished": self.progress >= 1,
            "progress": self.progress,
            "epochs": len(self.state.rows),
            "steps": self.state.step,
            "seconds": self.state.seconds,
        }

    def _planned_steps(self) -> int | None:
        """Steps that fit into the time budget by the plan's estimate; None without either."""
        if self.task.time_budget is None or self.plan.expected is None:
            return None
        return max(1, round(self.task.time_budget / self.plan.expected.seconds_per_step))

    def _status(self) -> str:
        """Step, loss and Dice of validation patches, also per label where these are few, for the progress display."""
        rows, losses = self.state.rows, self.state.losses
        loss = losses[-1] if losses else rows[-1]["loss"] if rows else None
        dice = mean_dice(rows[-1]) if rows else None
        parts = [f"step {self.state.step}"]
        if loss is not None:
            parts.append(f"loss {loss:.3f}")
        if dice is not None:
            labels = {name: value for name, value in rows[-1]["dice"].items() if value is not None}
            few = 1 < len(labels) <= MOST_LABELS
            each = f" ({', '.join(f'{name} {value:.2f}' for name, value in labels.items())})" if few else ""
            parts.append(f"Dice of validation patches {dice:.3f}{each}")
        return ", ".join(parts)


def add_scores_to_plot(plan: Plan, run: RunFolder, scores: Mapping[str, float | None]) -> None:
    """Draw the run's progress again, with the Dice of whole held-out cases; nothing where its state is not kept.

    Args:
        plan: The plan that was trained.
        run: The run.
        scores: Label -> mean Dice.
    """
    if run.progress_plot.is_file() and run.resume.is_file():
        rows = load_header(run.resume, "resume")["state"]["rows"]
        draw_progress(run.progress_plot, rows, title=title_of(plan, run.fold), scores=scores)


def title_of(plan: Plan, fold: Fold) -> str:
    """Title of a run's plot."""
    of = "all cases" if fold == "full" else f"fold {fold}"
    return f"{plan.data.dataset}, {plan.model.configuration} {plan.model.encoder} {plan.recipe.strategy.name}, {of}"


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
