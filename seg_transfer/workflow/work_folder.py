"""What lies where in a work folder.

::

    segtl-work/
      dataset.json                     which cases, files, channels and labels
      fingerprint.json                 what was measured; fingerprint.stamp: on which files
      plan.json                        the current plan: change it by planning again or by hand
      preprocessed/<data hash>/<case>/ arrays ready for training; shared by all plans with the same data part
      runs/<plan's runs>/              see :mod:`seg_transfer.training.run_folder`
      segtl.log                        tracebacks of cases that failed, if there were any
      summary.json                     cross-validated scores of all runs
      evidence.json                    what `segtl plan` and `segtl probe` measured on the data about transfer
      probe.png                        the probe's as a plot
      choice.json                      what `predict` and `export` use by default; without it the current plan
      ensembles/<run>+<run>/           label maps and scores of the held-out cases, by two configurations together
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seg_transfer.errors import UserError
from seg_transfer.options.common import DEFAULT_WORK
from seg_transfer.planning.fields import Fold, part_hash
from seg_transfer.planning.plan import Plan, edited_parts
from seg_transfer.preprocessing.store_record import STORE_FILE, store_data
from seg_transfer.training.run_folder import PLAN_FILE, PlanFolder, fold_name

logger = logging.getLogger(__name__)


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
        return self.path / PLAN_FILE

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
        """Read the current plan, and say which of its parts were edited by hand.

        Raises:
            UserError: If there is none, or it was edited into something impossible.
        """
        plan = Plan.load(self.plan)
        if edited := edited_parts(self.plan):
            logger.info(f"{self.plan}: edited by hand: {', '.join(edited)}")
        return plan

    def store_folder(self, plan: Plan) -> Path:
        """Folder of the preprocessed arrays: shared by every plan with the same data part."""
        name = part_hash(plan.data)
        return _matching(self.path / "preprocessed", STORE_FILE, lambda file: store_data(file) == plan.data, name)

    def plan_folder(self, plan: Plan) -> PlanFolder:
        """Folder of a plan's runs: the one whose plan is the same, else a new one with a hash in its name."""
        model = plan.model
        parts = (model.configuration, model.encoder, plan.strategy_name, plan.hash[:8])
        name = "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", part) for part in parts)
        path = _matching(self.runs, PLAN_FILE, lambda file: not Plan.load(file).differs_in(plan), name)
        return PlanFolder(path, plan)

    def plan_folders(self) -> list[PlanFolder]:
        """The folders of every plan that has runs, sorted by name; a warning names those that cannot be read."""
        folders = []
        for path in sorted(self.runs.glob(f"*/{PLAN_FILE}")):
            try:
                folders.append(PlanFolder(path.parent, Plan.load(path)))
            except UserError as error:
                logger.warning(str(error))
        return folders

    def pair_folder(self, names: Sequence[str], fold: Fold) -> Path:
        """Folder of label maps and scores of two plans' runs together, by a fold of the first."""
        return self.ensembles / "+".join(names) / fold_name(fold)


def _matching(parent: Path, record: str, is_same: Callable[[Path], bool], name: str) -> Path:
    """The folder in ``parent`` whose record is the same; where there is none, a new one, of this name if it is free.

    Names are not recomputed to find a folder: its name may come from a segtl that computed another hash.
    """
    taken = {file.parent.name: file for file in sorted(parent.glob(f"*/{record}"))}
    for file in taken.values():
        with suppress(UserError):
            if is_same(file):
                return file.parent
    names = (name, *(f"{name}-{number}" for number in range(2, len(taken) + 2)))
    return parent / next(each for each in names if each not in taken)


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
