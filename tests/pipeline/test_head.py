"""A classifier in place of the U-Net goes the whole way: planned, fitted, validated, predicted with, exported."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from made_balls import LOCAL, make_dataset

import seg_transfer
from seg_transfer.errors import UserError
from seg_transfer.exporting.load import load_folds
from seg_transfer.planning.model_file import read_model_file
from seg_transfer.planning.plan import Plan
from seg_transfer.training.checkpoint import load_state
from seg_transfer.workflow.status import status
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = {"encoder": "tf_efficientnet_lite0", "weights": "bundled", "folds": 2, "memory": 10**9} | LOCAL


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("balls"))


@pytest.fixture(scope="module")
def work(data: Path, tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    work = WorkFolder(tmp_path_factory.mktemp("work"))
    seg_transfer.plan(data, work=work.path, config="2d", head="bayes", **QUICK)
    seg_transfer.train("cv", work=work.path, **LOCAL)
    return work


def test_the_plan_says_what_is_fitted(work: WorkFolder) -> None:
    plan = Plan.load(work.plan)
    assert (plan.model.head, plan.recipe.strategy.name, plan.recipe.tta_axes) == ("bayes", "frozen", ())
    reasons = {reason.field: reason.reason for reason in plan.reasons}
    assert "augmentation and deep supervision are not used" in reasons["model.head"]


def test_a_fold_is_finished_and_validated(work: WorkFolder) -> None:
    found = status(work=work.path)
    assert [run.state for run in found.runs if run.fold != "full"] == ["validated", "validated"]
    assert all((run.mean_dice or 0) > 0.35 for run in found.runs if run.fold != "full")
    plan = Plan.load(work.plan)
    folder = work.plan_folder(plan).run(0).path
    assert folder.parent.name.startswith("2d-tf_efficientnet_lite0-bayes-")
    manifest = json.loads((folder / "manifest.json").read_text())
    result = manifest["result"]
    assert (result["finished"], result["steps"], result["head"]["kind"]) == (True, 0, "bayes")
    assert 0.36 < result["head"]["balanced_accuracy"] <= 1 and result["head"]["voxels"] <= 2 * 3 * 300
    assert manifest["frozen"]["elements_never_learning"] == manifest["frozen"]["elements"]
    (row,) = csv.DictReader((folder / "log.csv").open())
    assert (row["step"], float(row["progress"])) == ("0", 1.0)


def test_it_is_not_fitted_again_unless_asked(work: WorkFolder) -> None:
    model = work.plan_folder(Plan.load(work.plan)).run(0).model
    before, (tensors, header) = model.stat().st_mtime_ns, load_state(model, "model")
    (run,) = seg_transfer.train(0, work=work.path, **LOCAL)
    assert model.stat().st_mtime_ns == before and run.strategy == "bayes"
    with pytest.raises(UserError, match="seed 0"):
        seg_transfer.train(0, work=work.path, seed=1, **LOCAL)
    seg_transfer.train(0, work=work.path, restart=True, **LOCAL)
    assert model.stat().st_mtime_ns > before
    again, its_header = load_state(model, "model")
    assert tensors.keys() == again.keys() and all(torch.equal(tensors[name], again[name]) for name in tensors)
    assert header | {"seconds": 0} == its_header | {"seconds": 0}


def test_predicted_and_exported(work: WorkFolder, data: Path, tmp_path: Path) -> None:
    seg_transfer.summary(work=work.path, **LOCAL)
    (model,) = seg_transfer.export(tmp_path / "model.segtl", work=work.path)
    header = read_model_file(model).header
    assert "2d bayes classifier of single voxels on tf_efficientnet_lite0" in header.card
    images = data / "imagesTr"
    found = [
        seg_transfer.predict(images, tmp_path / name, device="cpu", workers=0, **source)
        for name, source in (("of_work", {"work": work.path}), ("of_file", {"model": model}))
    ]
    for case in ("case_0", "case_3"):
        first, second = (np.asarray(nibabel.load(folder / f"{case}.nii.gz").dataobj) for folder in found)
        assert np.array_equal(first, second) and set(np.unique(first)) == {0, 1, 4}
    again = seg_transfer.plan(
        data, work=tmp_path / "next", from_model=model, config="2d", **(QUICK | {"weights": "auto"})
    )
    assert (again.model.head, again.model.weights.carry) == ("unet", "encoder")


@pytest.mark.slow
def test_onnx(work: WorkFolder, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    (file,) = seg_transfer.export(onnx=tmp_path / "model.onnx", work=work.path, folds=["0"])
    session = runtime.InferenceSession(file)
    plan = Plan.load(work.plan)
    image = np.random.default_rng(0).normal(size=(3, 1, *plan.model.patch)).astype(np.float32)
    (found,) = session.run(None, {"image": image})
    (network,) = load_folds(plan, [work.plan_folder(plan).run(0).model])
    with torch.no_grad():
        expected = network(torch.from_numpy(image)).softmax(1).numpy()
    assert expected.std() > 0.1 and np.allclose(found, expected, atol=1e-4)


def test_no_control(work: WorkFolder) -> None:
    with pytest.raises(UserError, match="bayes classifier is fitted"):
        seg_transfer.train(0, work=work.path, control=True, **LOCAL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "tree"}, "unknown choice 'tree'"),
        ({"head": "svm", "strategy": "race"}, "excludes --strategy race"),
        ({"head": "svm", "strategy": "finetune"}, "excludes --strategy finetune"),
        ({"head": "svm", "carry": "all"}, "excludes --carry all"),
    ],
)
def test_options_that_do_not_go_together(data: Path, tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        seg_transfer.plan(data, work=tmp_path, **(QUICK | options))
    assert not (tmp_path / "plan.json").exists()


def test_regions_and_single_cases_are_refused(data: Path, tmp_path: Path) -> None:
    description = json.loads((data / "dataset.json").read_text())
    folder = make_dataset(tmp_path / "regions")
    description["labels"] = {"background": 0, "whole": [1, 4], "core": [4]}
    description["regions_class_order"] = [1, 4]
    (folder / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="this data set has regions"):
        seg_transfer.plan(folder, work=tmp_path / "work", head="svm", **QUICK)
    with pytest.raises(UserError, match="fold 0 trains on a single one"):
        seg_transfer.plan(data, work=tmp_path / "work", head="svm", cases=["case_0", "case_1"], **QUICK)


def test_impossible_edits_are_refused(work: WorkFolder) -> None:
    content = Plan.load(work.plan).model_dump(mode="json")
    stages = content["model"]["stages"]
    content["recipe"]["strategy"] |= {"name": "finetune", "start": [None] * (stages - 1) + [0.0]}
    content["recipe"]["strategy"]["rate"][-1] = 0.1
    with pytest.raises(ValueError, match=r"bayes needs a frozen encoder, but recipe\.strategy is finetune"):
        Plan.model_validate(content)
