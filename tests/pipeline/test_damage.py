"""Changed bytes in a work folder: named with the command that mends them, which does."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from made_balls import make_dataset
from made_work import ball_plan, make_work

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import UserError
from seg_transfer.training.checkpoint import load_state
from seg_transfer.workflow.status import status
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.usefixtures("one_thread")

LOCAL = {"device": "cpu", "workers": 0}


def change(file: Path, *, at: float) -> None:
    """Change one bit at this share of a file."""
    content = bytearray(file.read_bytes())
    content[int(at * len(content))] ^= 4
    file.write_bytes(content)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "balls", cases=4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    work = make_work(tmp_path_factory.mktemp("work") / "work", data)
    made = ball_plan(Dataset.load(work.dataset), "2d")
    recipe = made.recipe.model_copy(update={"epochs": 1, "steps_per_epoch": 2})
    made.model_copy(update={"recipe": recipe}).save(work.plan)
    seg_transfer.train(0, work=work.path, **LOCAL)
    return work.path


@pytest.fixture
def work(trained: Path, tmp_path: Path) -> WorkFolder:
    shutil.copytree(trained, tmp_path / "work")
    return WorkFolder(tmp_path / "work")


@pytest.mark.parametrize("at", [1e-4, 0.9], ids=["header", "weights"])
def test_a_damaged_model_is_refused_and_written_again(work: WorkFolder, at: float) -> None:
    run = work.plan_folder(work.load_plan()).run(0)
    whole = {name: tensor.clone() for name, tensor in load_state(run.model, "model")[0].items()}  # not mapped
    change(run.model, at=at)
    array = np.zeros((20, 24, 8), np.float32)
    with pytest.raises(UserError, match=r"model\.safetensors: .*damaged(.|\n)*segtl train"):
        seg_transfer.predict(array, spacing=(1.0, 1.0, 2.5), work=work.path, device="cpu")
    steps = (run.log.read_bytes(), run.resume.read_bytes())
    (again,) = seg_transfer.train(0, work=work.path, **LOCAL)
    found, _ = load_state(run.model, "model")
    assert all(np.array_equal(found[name], whole[name]) for name in whole)
    assert steps == (run.log.read_bytes(), run.resume.read_bytes()) and run.validated and again.scores is not None
    seg_transfer.predict(array, spacing=(1.0, 1.0, 2.5), work=work.path, device="cpu")


def test_damaged_scores_are_made_again(work: WorkFolder, capsys: pytest.CaptureFixture[str]) -> None:
    run = work.plan_folder(work.load_plan()).run(0)
    whole = run.scores.read_text()
    changed = whole.replace('"dice": 0.', '"dice": 0.9', 1)
    assert changed != whole
    run.scores.write_text(changed)
    assert status(work=work.path).runs[0].state == "trained"
    assert main(["summary", "-w", str(work.path), "--workers", "0"]) == 2
    assert "damaged" in capsys.readouterr().err
    seg_transfer.train(0, work=work.path, **LOCAL)
    assert run.scores.read_text() == whole


@pytest.mark.parametrize("name", ["image.b2nd", "label.b2nd", "locations.npy"])
def test_training_stops_at_a_damaged_store(work: WorkFolder, capsys: pytest.CaptureFixture[str], name: str) -> None:
    store = work.store_folder(work.load_plan())
    for case in store.glob(f"*/{name}"):
        change(case, at=0.7)
    arguments = ["-w", str(work.path), "--workers", "0"]
    assert main(["train", "1", *arguments, "--device", "cpu"]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert name in shown and "run `segtl preprocess`" in shown and "Traceback" not in shown
    assert main(["preprocess", *arguments]) == 0
    assert main(["train", "1", *arguments, "--device", "cpu"]) == 0


@pytest.mark.parametrize("name", ["dataset.json", "fingerprint.json", "site.json", "fingerprint.stamp"])
@pytest.mark.parametrize("how", ["empty", "digit", "gone", "binary"])
def test_plan_measures_again_what_is_damaged(data: Path, tmp_path: Path, name: str, how: str) -> None:
    options = {"config": "2d", "encoder": "resnet18", "weights": "none", "epochs": 1, **LOCAL}
    work = WorkFolder(tmp_path / "work")
    first = seg_transfer.plan(data, work=work.path, **options)
    whole = {file: file.read_bytes() for file in (work.dataset, work.fingerprint, work.site, work.stamp)}
    file = work.path / name
    if how == "gone":
        file.unlink()
    else:
        text = file.read_text()
        place = next(index for index, letter in enumerate(text) if letter.isdecimal() and index > 60)
        digit = f"{text[:place]}{9 - int(text[place])}{text[place + 1 :]}"
        file.write_bytes({"empty": b"", "digit": digit.encode(), "binary": b"\xff\xfe\x00"}[how])
    assert not seg_transfer.plan(data, work=work.path, **options).differs_in(first)
    assert {file: file.read_bytes() for file in whole} == whole
