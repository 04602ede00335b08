"""Models travel between real data sets, in a few steps of training; and ONNX on a real case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import seg_transfer
from seg_transfer.data.dataset import find_dataset
from seg_transfer.data.image import read_image
from seg_transfer.errors import UserError
from seg_transfer.exporting.load import load_model_file
from seg_transfer.inference.predictor import Predictor
from seg_transfer.planning.plan import Plan
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

LOCAL = {"device": "cpu", "workers": 0}


def train_a_little(shared: Path, name: str, folder: Path, **changes: Any) -> tuple[Plan, dict[str, Any], Path]:
    """Plan two cases, train on them for seconds, export: the plan, what the manifest says of weights, the file."""
    data = shared / "data" / name
    few_shot = json.loads((data / "splits.json").read_text())["few_shot"]  # never of its test cases
    cases = next(iter(few_shot.values()))[:2]
    work = folder / "work"
    options = {"cases": cases, "folds": 2, "time_budget": 60.0, "memory": 2 * 10**9}
    made = seg_transfer.plan(data, work=work, **(options | changes), **LOCAL)
    seg_transfer.train("full", work=work, time_budget=3.0, **LOCAL)
    manifest = json.loads(WorkFolder(work).plan_folder(made).run("full").manifest.read_text())
    (file,) = seg_transfer.export(folder / "model.segtl", work=work)
    for case in cases:
        assert case.encode() not in file.read_bytes()
    return made, manifest["weights"], file


def test_hippocampus_to_abdomen_and_back(shared: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "there", "back")]
    volumes, _, file = train_a_little(shared, "hippocampus", folders[0], config="3d")
    assert volumes.model.configuration == "3d" and set(volumes.model.slice_strides) == {2}
    with pytest.raises(UserError, match=r"a 3d model cannot start a 2\.5d one"):
        train_a_little(shared, "abdomen_mr", tmp_path / "flat", from_model=file, config="2.5d")

    there, carried, second = train_a_little(shared, "abdomen_mr", folders[1], from_model=file)
    assert there.model.configuration == "3d" and there.model.stages == volumes.model.stages
    assert there.model.weights.carry == "encoder"  # abdomen's slices are too far apart to stride along them at first
    assert carried["share"] == 1.0 and carried["random"] == []
    assert "encoder.stages.0.conv1.weight" in carried["adapted"]  # flat now

    back, carried, _ = train_a_little(shared, "hippocampus", folders[2], from_model=second)
    assert back.model.configuration == "3d" and carried["share"] == 1.0
    assert back.data.spacing != there.data.spacing and len(back.data.labels) != len(there.data.labels)


def test_2d_to_3d(shared: Path, tmp_path: Path) -> None:
    flat, _, file = train_a_little(shared, "hippocampus", tmp_path / "2d", config="2d")
    same, carried, _ = train_a_little(shared, "hippocampus", tmp_path / "again", from_model=file)
    assert same.model.weights.carry == "all" and same.model.configuration == flat.model.configuration
    assert carried["random"] and all(name.startswith("heads.") for name in carried["random"])
    volume, carried, _ = train_a_little(shared, "hippocampus", tmp_path / "3d", from_model=file, config="3d")
    assert volume.model.weights.carry == "encoder" and carried["share"] == 1.0


def test_onnx_segments_a_real_case_as_torch_does(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra [onnx] is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    made, _, file = train_a_little(shared, "hippocampus", tmp_path / "model", config="3d")
    seg_transfer.export(onnx=tmp_path / "model.onnx", work=tmp_path / "model" / "work")
    session = runtime.InferenceSession(tmp_path / "model.onnx")

    def logits(windows: torch.Tensor) -> torch.Tensor:
        """The softmax of the logarithm of probabilities gives them back."""
        (found,) = session.run(None, {"image": windows.numpy()})
        return torch.from_numpy(found).log()

    exact = made.model_copy(update={"recipe": made.recipe.model_copy(update={"precision": "float32"})})
    cpu = torch.device("cpu")
    by_torch = Predictor(exact, load_model_file(file).networks, cpu)
    by_onnx = Predictor(exact, [logits], cpu)
    case = next(case for case in find_dataset(shared / "data" / "hippocampus").cases if case.id in made.data.cases)
    transform, array = by_torch.prepare(read_image(case.images))
    wanted, found = by_torch.probabilities(array), by_onnx.probabilities(array)
    assert wanted.std() > 0.05
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    differ = by_torch.labels_of(transform, found) != by_torch.labels_of(transform, wanted)
    assert differ.mean() < 1e-4
