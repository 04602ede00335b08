"""On a GPU: training, resuming, prediction and export give what they give on the CPU, within a stated tolerance.

Run them with ``pytest -m gpu``; ``--device cpu`` tries the tests themselves where there is no GPU.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from made_balls import make_dataset
from safetensors.torch import load_file

import seg_transfer
from seg_transfer.errors import UserError
from seg_transfer.planning.plan import Plan
from seg_transfer.training import loop
from seg_transfer.training.trainer import Trainer
from seg_transfer.util.environment import resolve_device
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.gpu

LOSS = {"float32": 0.01, "bfloat16": 0.05}
"""Largest relative difference of an epoch's loss from the CPU's: TF32 and bfloat16 keep 10 and 7 bits of a product."""
PROBABILITY = {"float32": 0.01, "bfloat16": 0.1}
"""Largest difference of a probability of the same model."""
SAME_LABELS = {"float32": 0.999, "bfloat16": 0.99}
"""Least share of voxels with the same label."""
RESUMED = 1e-2
"""Largest difference of a weight after a few steps: sums on a GPU have no fixed order."""
EPOCHS, STEPS = 2, 3
CONFIGURATIONS = ("2d", "2.5d", "3d")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "balls")


def planned(data: Path, folder: Path, device: str, **options: Any) -> WorkFolder:
    """A work folder with a plan of a few steps of the bundled encoder, and everything preprocessed."""
    settings = {"epochs": EPOCHS, "folds": 2, "strategy": "finetune", "device": device, "seed": 1}
    seg_transfer.plan(data, work=folder, **(settings | options))
    return WorkFolder(folder)


def edited(work: WorkFolder, **recipe: Any) -> Plan:
    """The plan with another recipe, a few steps an epoch."""
    content = json.loads(work.plan.read_text())
    content["recipe"] |= {"steps_per_epoch": STEPS} | recipe
    work.plan.write_text(json.dumps(content))
    return work.load_plan()


def losses(work: WorkFolder, plan: Plan) -> list[float]:
    with work.plan_folder(plan).run(0).log.open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module", params=[(c, p) for c in CONFIGURATIONS for p in LOSS], ids="-".join)
def trained(
    request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory, device: str
) -> tuple[Plan, WorkFolder, WorkFolder]:
    """A plan, and work folders in which the device and the CPU trained fold 0 of it."""
    configuration, precision = request.param
    folders = []
    for name in (device, "cpu"):
        folder = tmp_path_factory.mktemp("work") / name.replace(":", "")
        # planned for the CPU both times, so that both train the same plan
        work = planned(data, folder, "cpu", config=configuration)
        plan = edited(work, precision=precision)
        seg_transfer.train("0", work=folder, device=name)
        folders.append(work)
    return plan, folders[0], folders[1]


def test_training_follows_the_cpu(trained: tuple[Plan, WorkFolder, WorkFolder]) -> None:
    plan, mine, theirs = trained
    found, expected = losses(mine, plan), losses(theirs, plan)
    assert len(found) == EPOCHS and all(np.isfinite(found))
    assert found == pytest.approx(expected, rel=LOSS[plan.recipe.precision])


def test_predictions_of_one_model_are_the_cpus(
    trained: tuple[Plan, WorkFolder, WorkFolder], data: Path, tmp_path: Path, device: str
) -> None:
    plan, work, _ = trained
    for name in (device, "cpu"):
        out = tmp_path / name.replace(":", "")
        seg_transfer.predict(data / "imagesTr", out, work=work.path, folds=["0"], device=name, probabilities=True)
    mine, theirs = tmp_path / device.replace(":", ""), tmp_path / "cpu"
    files = sorted(theirs.glob("*.nii.gz"))
    assert len(files) == len(plan.data.cases)
    same = [
        np.mean(np.asarray(nibabel.load(mine / file.name).dataobj) == np.asarray(nibabel.load(file).dataobj))
        for file in files
    ]
    assert min(same) >= SAME_LABELS[plan.recipe.precision]
    for file in sorted(theirs.glob("*.npz")):
        found, expected = np.load(mine / file.name)["probabilities"], np.load(file)["probabilities"]
        assert np.abs(found - expected).max() <= PROBABILITY[plan.recipe.precision]


def test_an_exported_model_predicts_on_the_cpu(
    trained: tuple[Plan, WorkFolder, WorkFolder], data: Path, tmp_path: Path, device: str
) -> None:
    plan, work, _ = trained
    file = tmp_path / "balls.segtl"
    seg_transfer.export(file, work=work.path, folds=["0"])
    for name in (device, "cpu"):
        seg_transfer.predict(data / "imagesTr", tmp_path / f"out {name}", model=file, device=name)
    pairs = [(tmp_path / f"out {device}" / path.name, path) for path in (tmp_path / "out cpu").glob("*.nii.gz")]
    same = [
        np.mean(np.asarray(nibabel.load(one).dataobj) == np.asarray(nibabel.load(other).dataobj))
        for one, other in pairs
    ]
    assert len(same) == len(plan.data.cases) and min(same) >= SAME_LABELS[plan.recipe.precision]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_interrupted_and_resumed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, configuration: str
) -> None:
    weights = []
    for name in ("whole", "parts"):
        work = planned(data, tmp_path / name, "cpu", config=configuration)
        plan = edited(work, precision="float32")
        if name == "parts":
            original = Trainer.step

            def stopping(self: Trainer, batch: Any, at: int, progress: float, step: Any = original) -> Any:
                if at == EPOCHS * STEPS // 2:
                    raise KeyboardInterrupt
                return step(self, batch, at, progress)

            with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
                patched.setattr(Trainer, "step", stopping)
                patched.setattr(loop, "SECONDS_BETWEEN_SAVES", 0.0)
                seg_transfer.train("0", work=work.path, device=device)
        seg_transfer.train("0", work=work.path, device=device)
        weights.append(load_file(work.plan_folder(plan).run(0).model))
    for name, value in weights[0].items():
        assert torch.allclose(value.float(), weights[1][name].float(), atol=RESUMED, rtol=RESUMED), name


@pytest.mark.parametrize("limit", [2 * 10**9, 4 * 10**9])
def test_a_plan_keeps_to_the_memory(data: Path, tmp_path: Path, cuda: str, limit: int) -> None:
    work = planned(data, tmp_path, cuda, config="3d", memory=limit)
    edited(work)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(cuda)
    seg_transfer.train("0", work=work.path, device=cuda)
    assert torch.cuda.max_memory_reserved(cuda) <= limit


def test_memory_that_runs_out_is_told_with_what_would_fit(data: Path, tmp_path: Path, cuda: str) -> None:
    work = planned(data, tmp_path, cuda, config="3d")
    edited(work)
    torch.cuda.empty_cache()
    share = 300 * 10**6 / torch.cuda.get_device_properties(cuda).total_memory
    torch.cuda.set_per_process_memory_fraction(share, cuda)
    try:
        with pytest.raises(UserError, match=r"ran out[\s\S]*--memory [\d.]+[MG]B"):
            seg_transfer.train("0", work=work.path, device=cuda)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, cuda)


def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    with pytest.raises(UserError, match=r"CUDA"):
        resolve_device(f"cuda:{count}")
