"""A schedule that its time budget cut short is said after training, in the manifest and by ``segtl status``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_balls import LOCAL, QUICK, make_dataset

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.training.manifest import Manifest
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "balls")


def estimate(work: WorkFolder, seconds_per_step: float | None) -> None:
    """Let the plan have another estimate, as on a machine that was free when it was made; None: without one."""
    content = json.loads(work.plan.read_text())
    if seconds_per_step is None:
        content["expected"] = None
    else:
        content["expected"]["seconds_per_step"] = seconds_per_step
    work.plan.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("seconds_per_step", "planned", "cut_short"), [(1e-4, 5000, True), (0.5, 1, False), (None, None, False)]
)
def test_too_few_steps_are_said(
    seconds_per_step: float | None,
    planned: int | None,
    cut_short: bool,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work = WorkFolder(tmp_path / "work")
    seg_transfer.plan(data, work=work.path, **QUICK | LOCAL | {"time_budget": 0.5})
    estimate(work, seconds_per_step)
    for _ in range(2):  # a finished run says it again
        assert main(["train", "0", "-w", str(work.path), "--workers", "0", "--device", "cpu", "-q"]) == 0
        (file,) = work.runs.glob("*/fold_0/manifest.json")
        result = Manifest.load(file).result
        assert (result.finished, result.planned_steps, result.cut_short) == (True, planned, cut_short)
        text = f"cut short by its time budget: {result.steps} of about {planned} planned steps"
        assert (text in " ".join(capsys.readouterr().err.split())) == cut_short
    found = {run.fold: run.shortfall for run in seg_transfer.status(work=work.path).runs}
    assert found == {0: text if cut_short else None, 1: None, "full": None}
    assert main(["status", "-w", str(work.path)]) == 0
    assert (text in " ".join(capsys.readouterr().err.split())) == cut_short


def test_a_budget_in_epochs_is_never_cut_short(data: Path, tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "work")
    seg_transfer.plan(data, work=work.path, **QUICK | LOCAL | {"time_budget": None, "epochs": 1})
    content = json.loads(work.plan.read_text())
    content["recipe"]["steps_per_epoch"] = 1
    work.plan.write_text(json.dumps(content))
    estimate(work, 1e-4)
    seg_transfer.train(0, work=work.path, **LOCAL)
    (file,) = work.runs.glob("*/fold_0/manifest.json")
    assert (Manifest.load(file).result.planned_steps, Manifest.load(file).result.cut_short) == (None, False)
