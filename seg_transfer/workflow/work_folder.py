"""What lies where in a work folder; the only place that knows.

::

    segtl-work/
      dataset.json                     which cases, files, channels and labels
      fingerprint.json                 what was measured; fingerprint.stamp: on which files
      plan.json                        the plan in force: change it by planning again or by hand
      preprocessed/<data hash>/<case>/ arrays ready for training; shared by all plans with the same data part
      runs/<config>-<encoder>-<strategy or head>-<hash of the plan>/
        plan.json                      the plan that these runs were trained on
        fold_0/ … or full/             model.safetensors, log.csv, progress.png, validation/, …; race.json of a race
      segtl.log                        tracebacks of cases that failed, if there were any
      summary.json                     cross-validated scores of all runs
      evidence.json                    what `segtl plan` and `segtl probe` measured on the data about transfer
      probe.png                        the probe's as a plot
      choice.json                      what `predict` and `export` use by default; without it the plan in force
      ensembles/<run>+<run>/           label maps and scores of the held-out cases, by two configurations together
"""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seg_transfer.errors import UserError
from seg_transfer.options.common import DEFAULT_WORK
from seg_transfer.planning.evidence_record import RACE_FILE, RaceEvidence
from seg_transfer.planning.fields import part_hash
from seg_transfer.planning.plan import Plan, edited_parts
from seg_transfer.planning.variants import with_strategy

logger = logging.getLogger(__name__)

Fold = int | Literal["full"]
MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.safetensors"
SCORES_FILE = "scores.json"


@dataclass(frozen=True)
class Work:
    """The work folder of one data set."""

    path: Path

    @property
    def dataset(self) -> Path:
        return self.path / "dataset.json"

    @property
    def fingerprint(self) -> Path:
        return self.path / "fingerprint.json"

    @property
    def stamp(self) -> Path:
        """Hash over the names, sizes and times of the files that the fingerprint was measured on."""
        return self.path / "fingerprint.stamp"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def log(self) -> Path:
        return self.path / "segtl.log"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def choice(self) -> Path:
        return self.path / "choice.json"

    @property
    def evidence(self) -> Path:
        return self.path / "evidence.json"

    @property
    def probe_plot(self) -> Path:
        return self.path / "probe.png"

    @property
    def ensembles(self) -> Path:
        return self.path / "ensembles"

    @property
    def option(self) -> str:
        """What to append to a command so that it means this work folder."""
        return "" if self.path == DEFAULT_WORK else f" -w {shlex.quote(str(self.path))}"

    def load_plan(self) -> Plan:
        """Read the plan in force, and say which of its parts were edited by hand.

        Raises:
            UserError: If there is none, or it was edited into something impossible.
        """
        plan = Plan.load(self.plan)
        if edited := edited_parts(self.plan):
            logger.info(f"{self.plan}: edited by hand: {', '.join(edited)}")
        return plan

    def store_folder(self, plan: Plan) -> Path:
        """Folder of the preprocessed arrays: shared by every plan with the same data part."""
        return self.path / "preprocessed" / part_hash(plan.data)

    def plan_folder(self, plan: Plan) -> Path:
        """Folder of all runs of a plan."""
        model = plan.model
        parts = (model.configuration, model.encoder, plan.strategy_name, plan.hash[:8])
        return self.runs / "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", part) for part in parts)

    def run_folder(self, plan: Plan, fold: Fold) -> Path:
        """Folder of one run."""
        return self.plan_folder(plan) / fold_name(fold)

    def model(self, plan: Plan, fold: Fold) -> Path:
        """A run's trained model."""
        return self.run_folder(plan, fold) / MODEL_FILE

    def keep_plan(self, plan: Plan) -> None:
        """Save the plan beside its runs, so that they can be read after planning again."""
        path = self.plan_folder(plan) / "plan.json"
        if not path.is_file():
            plan.save(path)

    def trained_plan(self, plan: Plan, folds: Sequence[Fold]) -> Plan:
        """The plan as its folds were trained; unchanged where their races differ.

        Args:
            plan: As it was made, perhaps with a race.
            folds: Trained ones.
        """
        if plan.recipe.race is None:
            return plan
        won = [RaceEvidence.load(self.run_folder(plan, fold) / RACE_FILE) for fold in folds]
        winners = {race.winner or 0 for race in won}
        if len(winners) > 1:
            return plan
        return with_strategy(plan, plan.recipe.candidates[winners.pop()], won[0].reason)

    def planned_runs(self) -> list[Plan]:
        """Every plan that has runs, sorted by the name of its folder; those that cannot be read are said aloud."""
        plans = []
        for path in sorted(self.runs.glob("*/plan.json")):
            try:
                plans.append(Plan.load(path))
            except UserError as error:
                logger.warning(str(error))
        return plans

    def finished(self, plan: Plan, fold: Fold) -> bool:
        """Whether a fold is trained to the end of its budget."""
        manifest = self.run_folder(plan, fold) / MANIFEST_FILE
        if not manifest.is_file():
            return False
        try:
            return bool(json.loads(manifest.read_text(encoding="utf-8"))["result"]["finished"])
        except (ValueError, KeyError, TypeError):
            hint = "delete this file and train again: what is trained is kept"
            raise UserError("not a run's manifest, or damaged", where=manifest, hint=hint) from None

    def validated(self, plan: Plan) -> list[int]:
        """Folds that are trained to the end and whose held-out cases are scored with this very model."""
        found = []
        for fold in range(len(plan.recipe.splits)):
            scores = self.scores_file(plan, fold)
            model = self.model(plan, fold)
            if scores.is_file() and model.is_file() and scores.stat().st_mtime_ns >= model.stat().st_mtime_ns:
                found.append(fold)
        return [fold for fold in found if self.finished(plan, fold)]

    def scores_file(self, plan: Plan, fold: Fold) -> Path:
        """Scores of a fold's held-out cases; their label maps lie beside."""
        return self.run_folder(plan, fold) / "validation" / SCORES_FILE

    def started(self, plan: Plan) -> list[Fold]:
        """Folds of a plan that have a folder, trained to the end or not."""
        return [fold for fold in folds_of(plan) if self.run_folder(plan, fold).is_dir()]


def folds_of(plan: Plan) -> list[Fold]:
    """Every fold that a plan can be trained on: ``0 … K-1`` and ``full``."""
    return [*range(len(plan.recipe.splits)), "full"]


def fold_name(fold: Fold) -> str:
    """Name of a fold's folder."""
    return "full" if fold == "full" else f"fold_{fold}"


def fold_from_text(text: str, plan: Plan, *, option: str) -> Fold:
    """Read ``0 … K-1`` or ``full``.

    Raises:
        UserError: If the plan has no such fold.
    """
    if text == "full":
        return "full"
    count = len(plan.recipe.splits)
    if text.isdecimal() and int(text) < count:
        return int(text)
    known = "0" if count == 1 else f"0 to {count - 1}"
    raise UserError(f"no fold {text!r}", where=option, hint=f"this plan has {known}, and full for every case")
