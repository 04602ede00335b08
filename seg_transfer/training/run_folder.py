"""Paths of runs and their files, and which runs a plan has. Imports no torch, so that ``segtl status`` is fast.

A run is one fold of one plan. The runs of a plan are in one folder with their plan::

    <config>-<encoder>-<strategy or head>-<hash>/
      plan.json
      fold_0/ … or full/
      fold_0.lock          who trains or validates it at the moment

The folder's name is the identity of the plan's runs. The hash is computed once, when the folder is made.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from seg_transfer.errors import UserError
from seg_transfer.planning.evidence_record import RaceEvidence
from seg_transfer.planning.fields import Fold
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.variants import with_strategy
from seg_transfer.training.checkpoint_header import MODEL_NAME, model_digests
from seg_transfer.training.manifest import Manifest
from seg_transfer.util.local_files import remove_temporaries
from seg_transfer.util.locks import locked
from seg_transfer.util.records import is_whole, parse_object

logger = logging.getLogger(__name__)

PLAN_FILE = "plan.json"
SCORES_FILE = "scores.json"


def fold_name(fold: Fold) -> str:
    """Name of a fold's folder."""
    return "full" if fold == "full" else f"fold_{fold}"


class _RunFile:
    """A path below a :class:`RunFolder`, as an attribute of it."""

    def __init__(self, *parts: str) -> None:
        self.parts = parts

    def __get__(self, run: RunFolder, owner: type[RunFolder]) -> Path:
        return run.path.joinpath(*self.parts)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: The folder, which may not exist yet.
        fold: The fold that is trained in it.
    """

    path: Path
    fold: Fold

    model = _RunFile(MODEL_NAME)
    """Averaged weights for prediction, and the plan."""
    resume = _RunFile("resume.safetensors")
    """Checkpoint to resume from."""
    manifest = _RunFile("manifest.json")
    """The run's :class:`Manifest`."""
    log = _RunFile("log.csv")
    """One row per epoch, as CSV."""
    progress_plot = _RunFile("progress.png")
    """The log as a plot."""
    tensorboard = _RunFile("tensorboard")
    """Folder of TensorBoard's log."""
    wandb = _RunFile("wandb")
    """Folder of the files of Weights & Biases."""
    validation = _RunFile("validation")
    """Folder of the held-out cases' label maps and scores."""
    scores = _RunFile("validation", SCORES_FILE)
    """Scores of the held-out cases."""
    score_table = _RunFile("validation", "scores.csv")
    """The scores as CSV."""
    overlay = _RunFile("validation", "overlay.png")
    """Overlays of some held-out cases."""
    control = _RunFile("validation", "control.json")
    """Comparison with the from-scratch control; deleted with the scores."""
    race = _RunFile("race.json")
    """Evidence of the race at the run's start."""
    _race_candidates = _RunFile("race")

    def race_candidate(self, index: int) -> RunFolder:
        """Folder of one candidate during the race."""
        return RunFolder(self._race_candidates / str(index), 0)

    @property
    def started(self) -> bool:
        """Whether the folder exists."""
        return self.path.is_dir()

    @property
    def finished(self) -> bool:
        """Whether the run is trained to the end of its budget.

        Raises:
            UserError: If the manifest is damaged.
        """
        return self.manifest.is_file() and Manifest.load(self.manifest).result.finished

    @property
    def validated(self) -> bool:
        """Whether the run is finished and its held-out cases were scored with this very model.

        Raises:
            UserError: If the manifest or the model's header is damaged.
        """
        return self.model.is_file() and are_scores_of(self.scores, [self.model]) and self.finished

    @property
    def lock(self) -> Path:
        """Lock of the process that trains or validates the run."""
        return self.path.with_name(f"{self.path.name}.lock")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run's lock, and remove what a killed process left half-written.

        Raises:
            UserError: If another process holds it.
        """
        with locked(self.lock, f"{self.path.name} is being trained"):
            for folder in (self.path, *(path for path in self.path.rglob("*") if path.is_dir())):
                remove_temporaries(folder)
            yield

    def clear(self) -> None:
        """Delete the files of training and validation; the race stays."""
        for file in (self.resume, self.model, self.manifest, self.log, self.progress_plot):
            file.unlink(missing_ok=True)
        for folder in (self.tensorboard, self.wandb, self.validation):
            shutil.rmtree(folder, ignore_errors=True)

    def clear_race(self) -> None:
        """Delete the race's evidence and candidates."""
        self.race.unlink(missing_ok=True)
        self.clear_race_candidates()

    def clear_race_candidates(self) -> None:
        """Delete the folders of the race's candidates."""
        shutil.rmtree(self._race_candidates, ignore_errors=True)


@dataclass(frozen=True)
class PlanFolder:
    """The folder of a plan's runs.

    Attributes:
        path: The folder, which may not exist yet.
        plan: The plan of its runs.
    """

    path: Path
    plan: Plan

    @property
    def name(self) -> str:
        """The identity of the plan's runs."""
        return self.path.name

    @property
    def plan_file(self) -> Path:
        """Copy of the plan, which remains when the current plan changes."""
        return self.path / PLAN_FILE

    def keep_plan(self) -> None:
        """Save the plan unless it is saved already."""
        if not self.plan_file.is_file():
            self.plan.save(self.plan_file)

    def run(self, fold: Fold) -> RunFolder:
        """The run of a fold."""
        return RunFolder(self.path / fold_name(fold), fold)

    @property
    def runs(self) -> list[RunFolder]:
        """Every possible run: folds ``0 … K-1`` and ``full``."""
        return [self.run(fold) for fold in (*range(len(self.plan.recipe.splits)), "full")]

    @property
    def validated_folds(self) -> tuple[int, ...]:
        """Folds whose runs are finished and validated."""
        return tuple(run.fold for run in self.runs if run.fold != "full" and run.validated)


@dataclass(frozen=True)
class TrainedRuns:
    """Trained runs of one plan, which predict together.

    Attributes:
        folder: The plan's folder.
        folds: At least one fold.
    """

    folder: PlanFolder
    folds: tuple[Fold, ...]

    @property
    def name(self) -> str:
        """The identity of the plan's runs."""
        return self.folder.name

    @property
    def models(self) -> list[Path]:
        """Each fold's model."""
        return [self.folder.run(fold).model for fold in self.folds]

    @property
    def plan(self) -> Plan:
        """The plan, possibly with a race."""
        return self.folder.plan

    @property
    def plan_as_trained(self) -> Plan:
        """The plan with the winner of its folds' races, or with the race if the winners differ.

        Raises:
            UserError: If a race's evidence is missing or damaged.
        """
        if self.plan.recipe.race is None:
            return self.plan
        races = [RaceEvidence.load(self.folder.run(fold).race) for fold in self.folds]
        winners = {race.winner or 0 for race in races}
        if len(winners) > 1:
            return self.plan
        return with_strategy(self.plan, self.plan.recipe.candidates[winners.pop()], races[0].reason)

    @property
    def held_out(self) -> dict[str, int]:
        """Held-out case -> the fold that held it out."""
        splits = self.plan.recipe.splits
        return {case: fold for fold in self.folds if fold != "full" for case in splits[fold].validation}


def are_scores_of(file: Path, models: Sequence[Path]) -> bool:
    """Whether a file of scores is there, is whole, and is of exactly these models.

    Scores of earlier releases name no models; they count. Times do not matter: clocks differ, and copies get new ones.

    Raises:
        UserError: If a model is missing or damaged.
    """
    if not file.is_file():
        return False
    try:
        content = parse_object(file.read_bytes(), "file of scores", where=file, hint="")
    except UserError:
        content = None
    if content is None or not is_whole(content):
        logger.warning(f"{file} is damaged and does not count: validate again, by the command that trained it")
        return False
    scored = content.get("models")
    return not scored or tuple(scored) == model_digests(models)
