"""What people meet every day: JSON alone on stdout, a log in the work folder, what comes next, several inputs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_balls import make_dataset
from made_work import add_run, ball_plan, make_work
from scipy import ndimage

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.data.dataset import Dataset, find_dataset
from seg_transfer.errors import UserError
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.usefixtures("one_thread")
LOCAL = ["--device", "cpu", "--workers", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("daily") / "balls", cases=4)


@pytest.fixture
def work(data: Path, tmp_path: Path) -> WorkFolder:
    place = make_work(tmp_path / "work", data)
    made = ball_plan(find_dataset(data), "2d")
    recipe = made.recipe.model_copy(update={"steps_per_epoch": 2})  # trained again, since a checkpoint is missing
    add_run(place, made.model_copy(update={"recipe": recipe}), folds=(0,))
    return place


def run(*arguments: object) -> int:
    return main(list(map(str, arguments)))


def test_every_table_is_json_alone_on_request(
    data: Path, work: WorkFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def content(*arguments: object) -> dict | list:
        assert run(*arguments) == 0
        return json.loads(capsys.readouterr().out)

    place = ("-w", work.path)
    assert content("status", *place, "--json")["next"]
    assert content("summary", *place, "--workers", "0", "--json")["best"]
    assert content("check", data, "--workers", "0", "--json")["cases"] == 4
    assert content("evaluate", data / "labelsTr", data / "labelsTr", "--json", "-")["mean_dice"] == 1
    assert content("encoders", "--json")[0]["entry"]["name"]
    assert content("info", "--json")["packages"]["numpy"]
    assert content("plan", data, "-w", tmp_path / "other", *LOCAL, "--json")["data"]["cases"]
    assert content("inspect", "case_0", "-w", tmp_path / "other", "--json")["case"] == "case_0"
    [fold] = content("train", "0", *place, *LOCAL, "--json")
    assert (
        fold["run"]["path"] == str(work.plan_folder(work.load_plan()).run(0).path)
        and 0 < fold["scores"]["mean_dice"] <= 1
    )


def test_training_ends_with_its_pictures_and_what_comes_next(
    work: WorkFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = work.plan_folder(work.load_plan()).run(0).overlay
    overlay.write_bytes(b"")
    assert run("train", "0", "-w", work.path, *LOCAL) == 0
    out, err = capsys.readouterr()
    assert f"picture: {overlay}" in out
    said = err.splitlines()
    assert said[-2:] == [
        f"next: `segtl predict -i IMAGES -o PREDICTIONS{work.option}`",
        f"next: `segtl train cv{work.option}`",
    ]


def test_a_summary_of_one_fold_of_two_says_so(work: WorkFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("summary", "-w", work.path, "--workers", "0") == 0
    assert "warning: scores are of 1 of 2 folds only" in capsys.readouterr().err
    add_run(work, work.load_plan(), folds=(1,))
    assert run("summary", "-w", work.path, "--workers", "0") == 0
    assert "folds only" not in capsys.readouterr().err


def test_a_card_counts_the_cases_that_were_trained_on(work: WorkFolder, tmp_path: Path) -> None:
    plan = work.load_plan()
    seg_transfer.export(tmp_path / "one.segtl", work=work.path)
    assert f"Trained on: {len(plan.recipe.splits[0].train)} labelled" in seg_transfer.card(tmp_path / "one.segtl")
    add_run(work, plan, folds=(1,))
    seg_transfer.export(tmp_path / "both.segtl", work=work.path)
    assert f"Trained on: {len(plan.data.cases)} labelled" in seg_transfer.card(tmp_path / "both.segtl")


def test_the_log_keeps_what_commands_said(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = WorkFolder(tmp_path / "work")
    assert run("plan", tmp_path / "nothing", "-w", work.path) == 2
    assert not work.path.exists()
    assert run("plan", data, "-w", work.path, *LOCAL) == 0
    assert run("plan", data, "-w", work.path, *LOCAL, "--folds", "9") == 0
    text = work.log.read_text()
    assert text.count("segtl plan ") == 2 and "folds=9" in text and text.count("4 cases, layout nnunet") == 2
    assert "4 folds instead of 9" in text and "segtl plan" in text.splitlines()[0]


def test_several_inputs_are_predicted_together(
    data: Path, work: WorkFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = data / "imagesTr"
    first, second = images / "case_0_0000.nii.gz", images / "case_2_0000.nii.gz"
    assert run("predict", "-w", work.path, "-i", first, "-i", second, "-i", first, "-o", tmp_path / "out", "-q") == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["case_0.nii.gz", "case_2.nii.gz"]
    seg_transfer.predict([first, images], tmp_path / "all", work=work.path, device="cpu")
    assert len(list((tmp_path / "all").glob("*.nii.gz"))) == len(Dataset.load(work.dataset).cases)
    other = tmp_path / "other"
    other.mkdir()
    (other / first.name).write_bytes(second.read_bytes())
    with pytest.raises(UserError, match="would be the same case, case_0"):
        seg_transfer.predict([first, other], tmp_path / "both", work=work.path, device="cpu")


def test_references_without_a_prediction_can_be_left_out(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    (predictions / "case_0.nii.gz").write_bytes((data / "labelsTr/case_0.nii.gz").read_bytes())
    assert run("evaluate", predictions, data / "labelsTr") == 3
    err = capsys.readouterr().err
    assert "3 of 4 references have no prediction; --only-predicted leaves them out" in err
    assert "3 of 4 cases failed, the others are done:" in err
    assert run("evaluate", predictions, data / "labelsTr", "--only-predicted") == 0
    assert "failed" not in capsys.readouterr().err


def test_volumes_and_components_are_written_for_all_cases(data: Path, work: WorkFolder, tmp_path: Path) -> None:
    images, out = data / "imagesTr", tmp_path / "out"
    one = images / "case_1_0000.nii.gz"
    assert run("predict", "-w", work.path, "-i", one, "-o", out, "-q") == 0
    assert run("predict", "-w", work.path, "-i", images, "-o", out, "--volumes", tmp_path / "v.csv", "-q") == 0
    assert run("predict", "-w", work.path, "-i", images, "-o", out, "--volumes", tmp_path / "v.json", "-q") == 0
    with (tmp_path / "v.csv").open() as file:
        rows = list(csv.DictReader(file))
    in_json = json.loads((tmp_path / "v.json").read_text())
    assert [{name: "" if value is None else str(value) for name, value in row.items()} for row in in_json] == rows
    assert {row["case"] for row in rows} == {f"case_{number}" for number in range(4)}
    for row in in_json:
        volume = nibabel.load(out / f"{row['case']}.nii.gz")
        mask = np.asarray(volume.dataobj) == work.load_plan().data.scored[row["label"]][0]
        assert row["voxels"] == mask.sum()
        assert row["ml"] == pytest.approx(mask.sum() * np.prod(volume.header.get_zooms()) / 1000, abs=1e-3)
        assert row["components"] == ndimage.label(mask, np.ones((3, 3, 3)))[1]
