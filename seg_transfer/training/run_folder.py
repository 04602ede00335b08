"""Where everything of a run lies, and which runs a plan has; no torch, so that a status is quick.

A run is one fold of one plan. The runs of a plan lie in one folder, beside the plan that they were trained on::

    <config>-<encoder>-<strategy or head>-<hash>/
      plan.json
      fold_0/ … or full/

The folder's name is the identity of the plan's runs. It is made once and read from then on, never computed again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seg_transfer.planning.evidence_record import RaceEvidence
from seg_transfer.planning.fields import Fold
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.variants import with_strategy
from seg_transfer.training.manifest import Manifest

PLAN_FILE = "plan.json"
SCORES_FILE = "scores.json"


def fold_name(fold: Fold) -> str:
    """Name of a fold's folder."""
    return "full" if fold == "full" else f"fold_{fold}"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: The folder; it need not be there yet.
        fold: Which fold is trained in it.
    """

    path: Path
    fold: Fold

    @property
    def model(self) -> Path:
        """Averaged weights to predict with, and the plan."""
        return self.path / "model.safetensors"

    @property
    def resume(self) -> Path:
        """What going on needs."""
        return self.path / "resume.safetensors"

    @property
    def manifest(self) -> Path:
        """The run's :class:`Manifest`."""
        return self.path / "manifest.json"

    @property
    def log(self) -> Path:
        """A row per epoch, as CSV."""
        return self.path / "log.csv"

    @property
    def progress_plot(self) -> Path:
        """The log as a plot."""
        return self.path / "progress.png"

    @property
    def tensorboard(self) -> Path:
        """Folder of the log for TensorBoard."""
        return self.path / "tensorboard"

    @property
    def validation(self) -> Path:
        """Folder of the held-out cases' label maps and scores."""
        return self.path / "validation"

    @property
    def scores(self) -> Path:
        """Scores of the held-out cases."""
        return self.validation / SCORES_FILE

    @property
    def score_table(self) -> Path:
        """The scores as CSV."""
        return self.validation / "scores.csv"

    @property
    def overlay(self) -> Path:
        """Drawings of some held-out cases."""
        return self.validation / "overlay.png"

    @property
    def control(self) -> Path:
        """Comparison with the from-scratch control; beside the scores, so that it goes with them."""
        return self.validation / "control.json"

    @property
    def race(self) -> Path:
        """Evidence of the race at the run's start."""
        return self.path / "race.json"

    def race_candidate(self, index: int) -> RunFolder:
        """Folder of one candidate while the race goes on."""
        return RunFolder(self._race_candidates / str(index), 0)

    @property
    def _race_candidates(self) -> Path:
        return self.path / "race"

    @property
    def started(self) -> bool:
        """Whether there is anything of the run."""
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
        """Whether the run is trained to its end and its held-out cases are scored with this very model."""
        return are_newer(self.scores, [self.model]) and self.finished

    def clear(self) -> None:
        """Delete what training left, and nothing else; the race stays."""
        for file in (self.resume, self.model, self.manifest, self.log, self.progress_plot):
            file.unlink(missing_ok=True)
        for folder in (self.tensorboard, self.validation):
            shutil.rmtree(folder, ignore_errors=True)

    def clear_race(self) -> None:
        """Delete what the race left."""
        self.race.unlink(missing_ok=True)
        self.clear_race_candidates()

    def clear_race_candidates(self) -> None:
        """Delete what the candidates needed."""
        shutil.rmtree(self._race_candidates, ignore_errors=True)


@dataclass(frozen=True)
class PlanFolder:
    """The folder of a plan's runs; its name is their identity.

    Attributes:
        path: The folder; it need not be there yet.
        plan: What the runs are trained on.
    """

    path: Path
    plan: Plan

    @property
    def name(self) -> str:
        """The identity of the plan's runs."""
        return self.path.name

    @property
    def plan_file(self) -> Path:
        """The plan, so that its runs can be read after planning again."""
        return self.path / PLAN_FILE

    def keep_plan(self) -> None:
        """Save the plan unless it is there."""
        if not self.plan_file.is_file():
            self.plan.save(self.plan_file)

    def run(self, fold: Fold) -> RunFolder:
        """One run."""
        return RunFolder(self.path / fold_name(fold), fold)

    @property
    def runs(self) -> list[RunFolder]:
        """Every run that the plan can have: folds ``0 … K-1`` and ``full``."""
        return [self.run(fold) for fold in (*range(len(self.plan.recipe.splits)), "full")]

    @property
    def validated_folds(self) -> tuple[int, ...]:
        """Folds that are trained to the end and validated."""
        return tuple(run.fold for run in self.runs if run.fold != "full" and run.validated)


@dataclass(frozen=True)
class TrainedRuns:
    """Trained runs of one plan, which predict together.

    Attributes:
        folder: The plan's.
        folds: At least one.
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
        """The plan as it was made, perhaps with a race."""
        return self.folder.plan

    @property
    def plan_as_trained(self) -> Plan:
        """The plan with the winner of its folds' races; unchanged where they differ.

        Raises:
            UserError: If a race's evidence is gone or damaged.
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


def are_newer(file: Path, than: Sequence[Path]) -> bool:
    """Whether a file and all of the others are there, and none of the others was written after it."""
    files = (file, *than)
    return all(each.is_file() for each in files) and file.stat().st_mtime_ns >= max(
        each.stat().st_mtime_ns for each in than
    )
