"""The files of a work folder.

::

    segtl-work/
      dataset.json                     cases, files, channels and labels
      fingerprint.json                 measurements of the data set
      site.json                        the same summed up over the cases, without names: for plans of several sites
      fingerprint.stamp                hash of names, sizes and times of the files that were measured, and digests of
                                       the three files above
      plan.json                        the current plan: change it by planning again or by hand
      preprocessed/<data hash>/<case>/ arrays ready for training; shared by all plans with the same data part
      runs/<plan's runs>/              see :mod:`seg_transfer.training.run_folder`
      segtl.log                        what commands said, and tracebacks of cases that failed
      summary.json                     cross-validated scores of all runs
      evidence.json                    evidence about transfer that `segtl plan` and `segtl probe` measured
      probe.png                        plot of the probe
      choice.json                      runs that `predict` and `export` use by default; without it the current plan's
      ensembles/<run>+<run>/           label maps and scores of held-out cases, by two configurations together
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from seg_transfer.errors import UserError
from seg_transfer.options.common import DEFAULT_WORK
from seg_transfer.planning.fields import Fold, part_hash
from seg_transfer.planning.plan import Plan, edited_parts
from seg_transfer.preprocessing.store_record import STORE_FILE, store_data
from seg_transfer.training.run_folder import PLAN_FILE, PlanFolder, fold_name

logger = logging.getLogger(__name__)


class WorkFolder:
    """The work folder of one data set; its attributes are the paths of its files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dataset = path / "dataset.json"
        self.fingerprint = path / "fingerprint.json"
        self.site = path / "site.json"
        self.stamp = path / "fingerprint.stamp"
        self.plan = path / PLAN_FILE
        self.log = path / "segtl.log"
        self.preprocessed = path / "preprocessed"
        self.runs = path / "runs"
        self.summary = path / "summary.json"
        self.choice = path / "choice.json"
        self.evidence = path / "evidence.json"
        self.probe_plot = path / "probe.png"
        self.ensembles = path / "ensembles"

    def keeps(self, path: Path) -> bool:
        """Whether a path is a file or folder that only segtl writes, or inside such a folder."""
        apart = (self.path, self.probe_plot)
        own = [each.resolve() for each in vars(self).values() if each not in apart]
        return any(path.resolve().is_relative_to(each) for each in own)

    @property
    def option(self) -> str:
        """The option that selects this work folder, to be appended to a command."""
        return "" if self.path == DEFAULT_WORK else f" -w {shlex.quote(str(self.path))}"

    def load_plan(self) -> Plan:
        """Read the current plan, and log which of its parts were edited by hand.

        Raises:
            UserError: If there is no plan, or it was edited into something impossible.
        """
        plan = Plan.load(self.plan)
        if edited := edited_parts(self.plan):
            logger.info(f"{self.plan}: edited by hand: {', '.join(edited)}")
        return plan

    def store_folder(self, plan: Plan) -> Path:
        """Folder of the preprocessed store, shared by all plans with the same data part."""
        name = part_hash(plan.data)
        return _matching(self.preprocessed, STORE_FILE, lambda file: store_data(file) == plan.data, name)

    def plan_folder(self, plan: Plan) -> PlanFolder:
        """Folder of a plan's runs: an existing one with the same plan, else a new one with a hash in its name."""
        model = plan.model
        parts = (model.configuration, model.encoder, plan.strategy_name, plan.hash[:8])
        name = "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", part) for part in parts)
        path = _matching(self.runs, PLAN_FILE, lambda file: not Plan.load(file).differs_in(plan), name)
        return PlanFolder(path, plan)

    def plan_folders(self) -> list[PlanFolder]:
        """Folders of all plans with runs, sorted by name; unreadable ones are left out with a warning."""
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
    """The folder in ``parent`` whose record is the same, else a new one called ``name``, numbered if that is taken.

    Names are not recomputed to find a folder, since an earlier release may have computed another hash.
    """
    taken = {file.parent.name: file for file in sorted(parent.glob(f"*/{record}"))}
    for file in taken.values():
        with suppress(UserError):
            if is_same(file):
                return file.parent
    names = (name, *(f"{name}-{number}" for number in range(2, len(taken) + 2)))
    return parent / next(candidate for candidate in names if candidate not in taken)


def fold_from_text(text: str, plan: Plan, *, option: str) -> Fold:
    """Parse ``0 … K-1`` or ``full``.

    Raises:
        UserError: If the plan has no such fold.
    """
    if text == "full":
        return "full"
    count = len(plan.recipe.splits)
    if text.isdecimal() and int(text) < count:
        return int(text)
    folds = "0" if count == 1 else f"0 to {count - 1}"
    raise UserError(f"no fold {text!r}", where=option, hint=f"this plan has {folds}, and full for every case")
