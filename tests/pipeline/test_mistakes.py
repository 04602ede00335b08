"""What clumsy users did to the command line: one message, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from made_discs import write_discs

import seg_transfer
import seg_transfer as api
from seg_transfer.cli.app import main
from seg_transfer.errors import UserError
from seg_transfer.evaluation import score_files as evaluation
from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.preprocessing.store import Store
from seg_transfer.workflow import measure as measuring
from seg_transfer.workflow import output_files
from seg_transfer.workflow.status import status
from seg_transfer.workflow.work_folder import WorkFolder

LOCAL = ["--workers", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small volumes with the labels 0, 1 and 4."""
    folder = tmp_path_factory.mktemp("data") / "cubes"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    for number in range(2):
        label = np.zeros((16, 16, 6), np.uint8)
        label[4:12, 4:12] = 1
        label[6:9, 6:9] = 4
        image = np.random.default_rng(number).normal(40.0 * label, 5).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / "imagesTr" / f"c{number}_0000.nii.gz")
        nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), folder / "labelsTr" / f"c{number}.nii.gz")
    description = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1, "b": 4}}
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("trained") / "work"
    seg_transfer.plan(
        data, work=work, config="2d", weights="none", epochs=1, folds=2, memory=10**9, device="cpu", workers=0
    )
    edit(work, lambda plan: plan["recipe"].update(steps_per_epoch=1))
    seg_transfer.train("full", work=work, device="cpu", workers=0)
    return work


@pytest.fixture
def mine(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "work"))


def edit(work: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((work / "plan.json").read_text())
    change(content)
    (work / "plan.json").write_text(json.dumps(content))


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail with exit code 2; what it said."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "hint:" in err and "Traceback" not in err
    return err


def contents(work: Path) -> dict[Path, bytes]:
    """The files of a work folder; commands may add to its log."""
    return {file: file.read_bytes() for file in work.rglob("*") if file.is_file() and file.name != "segtl.log"}


def test_a_work_folder_that_is_a_file(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "examine", None)  # said before the long checks
    (tmp_path / "work").write_text("mine")
    assert "a folder is needed" in refused(capsys, "plan", data, "-w", tmp_path / "work", *LOCAL)
    assert (tmp_path / "work").read_text() == "mine"


def test_a_disk_that_is_full(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "x"))

    monkeypatch.setattr(api, "preprocess", full)
    assert "No space left" in refused(capsys, "preprocess", "-w", tmp_path)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--weights nowhere.safetensors", "no such weights file"),
        ("--normalization US=zscore", "there is no channel 'US'"),
        ("--normalization MRI=nice", "unknown choice 'nice'"),
        ("--strategy scratch --weights bundled", "scratch starts from random weights"),
        ("--cases {binary}", "not a text file"),
        ("--groups {binary}", "not a text file"),
        ("--groups {groups}", "groups.json: no group for c1"),
        ("--groups nowhere.json", "nowhere.json: there is no such file"),
        ("--splits nowhere.json", "nowhere.json: there is no such file"),
    ],
)
def test_a_wrong_option_is_said_before_long_measuring(
    option: str,
    said: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measuring, "examine", None)
    binary = data / "imagesTr" / "c0_0000.nii.gz"
    groups = data / "groups.json"
    groups.write_text('{"c0": "anna"}')
    options = option.format(binary=binary, groups=groups).split()
    err = refused(capsys, "plan", data, "-w", tmp_path / "work", *LOCAL, *options)
    assert said in err and err.count("hint:") == 1 and "JSON: " not in err
    assert list(tmp_path.iterdir()) == []


def test_a_seed_larger_than_generators_take(data: Path, tmp_path: Path) -> None:
    assert main(["plan", str(data), "-w", str(tmp_path), "--seed", str(2**70), *LOCAL]) == 2


def test_label_maps_never_go_among_the_images(data: Path, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = mine.parent / "images"
    images.mkdir()
    shutil.copy(data / "imagesTr" / "c0_0000.nii.gz", images / "c0.nii.gz")
    before = (images / "c0.nii.gz").read_bytes()
    arguments = ("predict", "-i", images, "-w", mine, "--device", "cpu", "--overwrite")
    assert "the images are in this folder" in refused(capsys, *arguments, "-o", images / ".." / "images")
    assert (images / "c0.nii.gz").read_bytes() == before
    for kept in ("runs", "runs/new", "preprocessed", "ensembles/a.nii.gz"):
        assert f"kept here by the work folder {mine}" in refused(capsys, *arguments, "-o", mine / kept)


@pytest.mark.parametrize("name", ["plan.json", "fingerprint.json", "summary.json", "runs/b.json", "preprocessed"])
def test_no_output_replaces_what_a_work_folder_keeps(
    data: Path, mine: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(mine)
    labels, images, output = data / "labelsTr", data / "imagesTr", mine / name
    for command in (
        ("predict", "-i", images, "-w", mine, "--device", "cpu", "-o", output),
        ("predict", "-i", images, "-w", mine, "--device", "cpu", "-o", mine.parent / "new", "--volumes", output),
        ("evaluate", labels, labels, "--json", output),
        ("evaluate", labels, labels, "--csv", output),
        ("export", "-w", mine, "-o", output),
        ("export", "-w", mine, "--onnx", output),
        ("export", "-w", mine, "--bundle", output),
        ("pretrain", images, "-o", output),
        ("report", "-w", mine, "-o", output),
        ("inspect", "c0", "-w", mine, "-o", output),
        ("mesh", labels, "-o", output),
    ):
        error = refused(capsys, *command)
        assert "kept here" in error or "is a folder" in error or "is a file" in error
    assert contents(mine) == before


def test_no_output_replaces_a_file_of_another_kind(
    data: Path, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """But an empty one, one of its own kind, and a damaged one of its own ending.

    test_export.py and test_report.py have the ONNX files and pages.
    """
    labels = data / "labelsTr"
    predict = ("predict", "-i", data / "imagesTr", "-w", mine, "--device", "cpu", "-o", tmp_path / "new", "--volumes")
    commands = {
        ("evaluate", labels, labels, "--json"): output_files.SCORES,
        ("evaluate", labels, labels, "--csv"): output_files.CSV,
        ("export", "-w", mine, "-o"): output_files.MODEL_FILE,
        ("export", "-w", mine, "--onnx"): None,
        ("report", "-w", mine, "-o"): None,
        ("inspect", "c0", "-w", mine, "-o"): output_files.PNG,
        predict: output_files.CSV,
        ("pull", "someone/model", "-o"): None,
    }
    image, plan = data / "imagesTr" / "c0_0000.nii.gz", shutil.copy(mine / "plan.json", tmp_path / "my.plan.json")
    for number, (command, kind) in enumerate(commands.items()):
        for precious in (image, data / "dataset.json", plan):
            before = precious.read_bytes()
            assert "would replace this file" in refused(capsys, *command, precious)
            assert precious.read_bytes() == before
        if kind is not None:
            own = tmp_path / str(number)
            own.touch()
            code = main([str(argument) for argument in (*command, own)])
            assert code == 0, capsys.readouterr().err
            capsys.readouterr()
            assert own.stat().st_size
            output_files.check_output(own, kind)
            if kind.ending is not None:
                damaged = own.with_suffix(kind.ending)
                damaged.write_bytes(own.read_bytes()[20:])
                output_files.check_output(damaged, kind)


def test_no_output_has_the_ending_of_another_kind(
    data: Path, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = data / "labelsTr"
    commands: dict[tuple[object, ...], str] = {
        ("export", "-w", mine, "-o"): "model.onnx",
        ("export", "-w", mine, "--onnx"): "model.segtl",
        ("report", "-w", mine, "-o"): "report.segtl",
        ("evaluate", labels, labels, "--csv"): "scores.HTML",
        ("evaluate", labels, labels, "--json"): "scores.onnx",
        ("inspect", "c0", "-w", mine, "-o"): "c0.html",
    }
    for command, name in commands.items():
        assert "would be written under the name of" in refused(capsys, *command, tmp_path / name)
    assert list(tmp_path.iterdir()) == [mine]


def test_an_overlay_replaces_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both are PNG."""
    data = write_discs(tmp_path / "data", range(2), side=24, count=2)
    seg_transfer.plan(data, work=tmp_path / "work", weights="none", workers=0, device="cpu")
    image = data / "imagesTr" / "disc_000_0000.png"
    before = image.read_bytes()
    error = refused(capsys, "inspect", "disc_000", "-w", tmp_path / "work", "-o", image)
    assert "a file of the data set" in error and image.read_bytes() == before


def test_an_edited_plans_labels_are_those_of_its_arrays(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(mine, lambda plan: plan["data"]["labels"].pop())
    assert "label values 4 occur, but only 0, 1 are declared" in refused(capsys, "train", 0, "-w", mine, *LOCAL)
    edit(
        mine,
        lambda plan: plan["data"].update(labels=[{"name": n, "value": v} for n, v in (("0", 0), ("b", 4), ("a", 1))]),
    )
    seg_transfer.preprocess(work=mine, workers=0)
    plan = Plan.load(mine / "plan.json")
    stored = Store.open(WorkFolder(mine).store_folder(plan), plan.data).case("c0")
    assert stored.voxels[2] > stored.voxels[1] > 0


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"encoder": "resnet999"}, "'resnet999'"),
        ({"stages": 6, "decoder_channels": [8] * 6}, "stages is 6, but tf_efficientnet_lite0 has 5"),
        ({"weights": {"source": "file", "path": "{work}/dataset.json"}}, "not readable as weights"),
        ({"weights": {"source": "file", "path": "{work}/nowhere"}}, "no weights file"),
    ],
)
def test_a_model_that_cannot_be_built_leaves_no_run(
    model: dict[str, Any], said: str, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = json.dumps(model).replace("{work}", str(mine))
    edit(mine, lambda plan: plan["model"].update(json.loads(text)))
    if "weights" in model:
        edit(mine, lambda plan: plan["recipe"]["strategy"].update(pretrained_stages=plan["model"]["stages"]))
    assert said in refused(capsys, "train", 0, "-w", mine, *LOCAL)
    if "weights" in model:
        assert {run.state for run in status(work=mine).runs if run.current} == {"not started"}


def test_a_damaged_manifest_and_its_hint(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (manifest,) = mine.glob("runs/*/full/manifest.json")
    manifest.write_text("{")
    assert main(["status", "-w", str(mine)]) == 0
    out, err = capsys.readouterr()
    assert " damaged " in out and f"{manifest}: " in err
    manifest.unlink()
    assert main(["train", "full", "-w", str(mine), *LOCAL, "-q"]) == 0
    assert [run.state for run in status(work=mine).runs if run.fold == "full"] == ["trained"]


@pytest.mark.parametrize("name", ["image.b2nd", "label.b2nd", "locations.npy"])
def test_a_damaged_case_of_the_store_is_named(name: str, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file,) = mine.glob(f"preprocessed/*/c1/{name}")
    file.write_bytes(b"cut off")
    err = refused(capsys, "train", 0, "-w", mine, *LOCAL)
    assert f"{file}: this file of a preprocessed case is damaged" in err and "run `segtl preprocess`" in err


def test_a_case_without_a_readable_record_is_made_again(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file,) = mine.glob("preprocessed/*/c1/case.json")
    whole = file.read_bytes()
    file.write_bytes(b"cut off")
    assert main(["train", "0", "-w", str(mine), *LOCAL]) == 0
    assert f"preprocessed again: {file}" in capsys.readouterr().err and file.read_bytes() == whole


def test_scores_that_could_not_be_written_are_not_computed(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "evaluate_folders", None)
    labels = data / "labelsTr"
    assert "is a file" in refused(capsys, "evaluate", labels, labels, "--csv", data / "dataset.json" / "scores.csv")


def test_an_array_that_is_none(mine: Path) -> None:
    volume = np.zeros((16, 16, 6))
    for array, spacing in ((volume[:0], (1, 1, 1)), (volume, 1.0), (volume, ("a", 1, 1)), ([1, 2], (1, 1, 1))):
        with pytest.raises(UserError, match=r"image array is|spacing must be"):
            seg_transfer.predict(array, spacing=spacing, work=mine, device="cpu")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--epochs: 0 is out of range"):
        seg_transfer.train(0, work=mine, epochs=0)


def test_data_that_moved_away_is_known_before_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = Path(shutil.copytree(data, tmp_path / "data"))
    work = tmp_path / "work"
    options = {"config": "2d", "weights": "none", "epochs": 1, "folds": 2, "memory": 10**9, "device": "cpu"}
    before = seg_transfer.plan(moved, work=work, workers=0, **options)
    seg_transfer.preprocess(work=work, workers=0)
    moved.rename(tmp_path / "elsewhere")
    with monkeypatch.context() as patch:
        patch.setattr("seg_transfer.workflow.train.preprocess_missing", None)  # nothing is begun
        said = refused(capsys, "train", "cv", "-w", work, "--device", "cpu")
    assert "are gone" in said and str(moved) in said

    # by its content it is the same data set under another name: nothing is preprocessed again
    after = seg_transfer.plan(tmp_path / "elsewhere", work=work, workers=0, **options)
    assert after.hash == before.hash and after.data.dataset == "data"
    monkeypatch.setattr(CaseTransform, "fit", None)
    seg_transfer.preprocess(work=work, workers=0)
    assert len(list((work / "preprocessed").iterdir())) == 1
