"""What is skipped when predicting again, output files, and warnings about images that are unlike those of training."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_balls import make_dataset
from made_work import add_run, ball_plan, make_work, tiny_labels

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.data.dataset import Case, Dataset, find_cases
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.inference import predictions
from seg_transfer.inference.outputs import Outputs
from seg_transfer.inference.predictions import PredictionLog
from seg_transfer.planning.examine import examine
from seg_transfer.planning.rules.training_images import training_images
from seg_transfer.util import locks
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.usefixtures("one_thread")
LOCAL = {"device": "cpu", "workers": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "balls")


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    """Two folds of random weights, whose plan knows its training images."""
    work = make_work(tmp_path_factory.mktemp("trained") / "work", data)
    dataset = Dataset.load(work.dataset)
    known = training_images(examine(dataset, workers=0).site.images, 3)
    add_run(work, ball_plan(dataset, "2d").model_copy(update={"training_images": known}))
    return work


@pytest.fixture
def work(trained: WorkFolder, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.path, tmp_path / "work"))


@pytest.fixture
def images(data: Path, tmp_path: Path) -> Path:
    """Three images to predict."""
    (tmp_path / "images").mkdir()
    for name, file in zip("abc", sorted((data / "imagesTr").iterdir()), strict=False):
        shutil.copy(file, tmp_path / "images" / f"{name}.nii.gz")
    return tmp_path / "images"


def record(folder: Path) -> dict:
    return json.loads((folder / "predictions.json").read_text())["label_maps"]


def change(image: Path) -> None:
    loaded = nibabel.load(image)
    nibabel.save(nibabel.Nifti1Image(np.asarray(loaded.dataobj)[::-1] * 2, loaded.affine), image)


def test_only_what_this_model_made_of_this_image_is_skipped(
    work: Path, images: Path, tmp_path: Path, predicted: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    out = tmp_path / "out"

    def run(**options: object) -> list[str]:
        assert seg_transfer.predict(images, out, work=work, **LOCAL | options) == out
        return predicted()

    assert run() == ["a", "b", "c"]
    assert list(record(out)) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    before = (out / "a.nii.gz").stat().st_mtime_ns
    caplog.clear()
    assert run() == [] and (out / "a.nii.gz").stat().st_mtime_ns == before
    assert "3 of 3 cases are in" in caplog.text and "made by this model of the same images" in caplog.text

    change(images / "b.nii.gz")  # another image under an old name
    caplog.clear()
    assert run() == ["b"]
    assert "predicted again, since this model did not make them of these images: b" in caplog.text
    first = (out / "c.nii.gz").read_bytes()
    assert run(folds=[0]) == ["a", "b", "c"] and run(folds=[0]) == []  # another model
    assert (out / "c.nii.gz").read_bytes() != first
    assert run(folds=[0], tta=False) == ["a", "b", "c"]
    assert run(folds=[1], keep=True, tta=False) == []
    shutil.copy(images / "a.nii.gz", images / "d.nii.gz")
    assert run(folds=[1], keep=True, tta=False) == ["d"]
    assert run(folds=[0], tta=False) == ["d"]
    assert run(folds=[0], tta=False, overwrite=True) == ["a", "b", "c", "d"]
    (out / "a.nii.gz").unlink()
    assert run(folds=[0], tta=False) == ["a"]
    (out / "predictions.json").unlink()  # made by an earlier version, or by hand
    assert run(folds=[0], tta=False) == ["a", "b", "c", "d"]


def test_the_same_file_name_of_another_exported_model(
    work: Path, images: Path, tmp_path: Path, predicted: Callable
) -> None:
    model, out = tmp_path / "model.segtl", tmp_path / "out"
    for fold in (0, 1):
        seg_transfer.export(model, work=work, folds=[fold])
        seg_transfer.predict(images, out, model=model, **LOCAL)
        assert predicted() == ["a", "b", "c"]
    seg_transfer.predict(images, out, model=model, **LOCAL)
    assert predicted() == []


def test_probabilities_belong_to_their_label_maps(
    work: Path, images: Path, tmp_path: Path, predicted: Callable
) -> None:
    out = tmp_path / "out"

    def run(**options: object) -> list[str]:
        seg_transfer.predict(images, out, work=work, **LOCAL | options)
        return sorted(set(predicted()))

    run(folds=[0])
    assert run(folds=[0], probabilities=True) == ["a", "b", "c"] and run(folds=[0], probabilities=True) == []
    assert run(folds=[0]) == []
    old = (out / "probabilities" / "a.nii.gz").read_bytes()
    assert run(folds=[1]) == ["a", "b", "c"]
    assert list((out / "probabilities").iterdir()) == []  # those of the other model are gone
    (out / "probabilities" / "a.nii.gz").write_bytes(old)
    assert run(folds=[1], probabilities=True) == ["a", "b", "c"]
    assert (out / "probabilities" / "a.nii.gz").read_bytes() != old


def test_a_label_map_that_was_corrected_is_not_replaced_unasked(
    work: Path, images: Path, tmp_path: Path, predicted: Callable
) -> None:
    out = tmp_path / "out"
    seg_transfer.predict(images, out, work=work, **LOCAL)
    change(out / "b.nii.gz")
    mine = (out / "b.nii.gz").read_bytes()
    predicted()
    for options in ({}, {"folds": [0]}):
        with pytest.raises(UserError, match=r"changed since it was predicted: b\.nii\.gz\n  hint: --keep keeps"):
            seg_transfer.predict(images, out, work=work, **LOCAL | options)
    seg_transfer.predict(images, out, work=work, keep=True, **LOCAL)
    assert predicted() == [] and (out / "b.nii.gz").read_bytes() == mine
    seg_transfer.predict(images, out, work=work, overwrite=True, **LOCAL)
    assert (out / "b.nii.gz").read_bytes() != mine


def test_an_interruption_leaves_no_wrong_record(
    work: Path, images: Path, tmp_path: Path, predicted: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the other model's map is written and before it is recorded: it is not taken for the first one's."""
    out = tmp_path / "out"
    seg_transfer.predict(images, out, work=work, folds=[0], **LOCAL)
    with monkeypatch.context() as killed:
        killed.setattr("seg_transfer.inference.predictions.PredictionLog.add", lambda *_: None)
        seg_transfer.predict(images, out, work=work, folds=[1], **LOCAL)
    predicted()
    seg_transfer.predict(images, out, work=work, folds=[0], **LOCAL)
    assert predicted() == ["a", "b", "c"]


def test_what_failed_is_tried_again(work: Path, images: Path, tmp_path: Path, predicted: Callable) -> None:
    whole = (images / "b.nii.gz").read_bytes()
    (images / "b.nii.gz").write_bytes(whole[:200])
    with pytest.raises(SomeCasesFailed, match="b: "):
        seg_transfer.predict(images, tmp_path / "out", work=work, **LOCAL)
    assert predicted() == ["a", "c"] and list(record(tmp_path / "out")) == ["a.nii.gz", "c.nii.gz"]
    (images / "b.nii.gz").write_bytes(whole)
    seg_transfer.predict(images, tmp_path / "out", work=work, **LOCAL)
    assert predicted() == ["b"]


def test_two_calls_share_a_folder(work: Path, images: Path, tmp_path: Path, predicted: Callable) -> None:
    for name in "abc":
        seg_transfer.predict(images / f"{name}.nii.gz", tmp_path / "out", work=work, **LOCAL)
    predicted()
    seg_transfer.predict(images, tmp_path / "out", work=work, **LOCAL)
    assert predicted() == []


def test_parts_do_every_case_once_in_any_order(
    work: Path, images: Path, tmp_path: Path, predicted: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    each = []
    for part in (3, 1, 2, 4):
        arguments = ["-i", str(images), "-o", str(tmp_path / "out"), "-w", str(work), "--device", "cpu"]
        assert main(["predict", *arguments, "--part", f"{part}/4"]) == 0
        each.append(predicted())
    assert each == [["c"], ["a"], ["b"], []]
    assert set(record(tmp_path / "out")) == {"a.nii.gz", "b.nii.gz", "c.nii.gz"}
    seg_transfer.predict(images, tmp_path / "out", work=work, **LOCAL)
    assert predicted() == []
    for wrong in ("0/4", "5/4", "1", "1/0", "-1/4", "x/2", "1/2/3"):
        assert main(["predict", *arguments, "--part", wrong]) == 2
        assert "--part" in capsys.readouterr().err


def test_processes_that_record_at_the_same_time_lose_nothing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "POLL", 0.002)
    monkeypatch.setattr(predictions, "SECONDS_BETWEEN_SAVES", 0.0)
    outputs = Outputs(tmp_path / "out")
    outputs.folder.mkdir()
    cases = find_cases([images], 1)
    names = [[f"{thread}_{number}" for number in range(8)] for thread in range(4)]

    def log(mine: list[str]) -> None:
        recorded = PredictionLog(outputs, model="m", tta=True)
        for name in mine:
            case = Case(name, cases[0].images, None)
            outputs.label_map(case).write_bytes(b"labels")
            made = {"model": "m", "tta": True, "images": ("digest",), "warnings": (), "confidence": None}
            recorded.add(case, predictions.record_of(case, outputs, **made))
        recorded.save()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(log, names))
    assert set(record(outputs.folder)) == {f"{name}.nii.gz" for mine in names for name in mine}


def test_a_record_that_takes_long_to_write_is_written_seldom(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A case a second; writing takes 3 seconds, as with many cases: at most a twentieth of the time goes into it."""
    now, written = [0.0], []
    monkeypatch.setattr(predictions.time, "monotonic", lambda: now[0])
    outputs = Outputs(tmp_path / "out")
    outputs.folder.mkdir()
    cases = find_cases([images], 1)
    log = PredictionLog(outputs, model="m", tta=True)
    made = predictions.Prediction(model="m", tta=True, images=("digest",), label_map="digest", warnings=())

    def save(record: predictions.Predictions, path: Path) -> None:
        now[0] += 3
        written.append(now[0])

    monkeypatch.setattr(predictions.Predictions, "save", save)
    for _ in range(200):
        now[0] += 1
        log.add(cases[0], made)
    gaps = [after - before for before, after in pairwise(written)]
    assert written[0] < 10 and len(written) == 4
    assert all(60 <= gap - 3 <= 62 for gap in gaps)


def test_the_lock_of_a_killed_process_is_removed_even_where_nothing_is_left_to_do(
    work: Path, images: Path, tmp_path: Path, predicted: Callable
) -> None:
    """Killed after its last record was written and before the lock went: the same command cleans up."""
    out = tmp_path / "out"
    seg_transfer.predict(images, out, work=work, **LOCAL)
    before, lock = record(out), out / ".predictions.json.lock"
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    dead = locks.Holder.this_process().model_copy(update={"pid": ended.pid, "started": 1})
    lock.write_text(dead.model_dump_json())
    predicted()
    seg_transfer.predict(images, out, work=work, **LOCAL)
    assert predicted() == [] and record(out) == before
    assert not lock.exists()
    lock.write_text(locks.Holder.this_process().model_dump_json())
    seg_transfer.predict(images, out, work=work, **LOCAL)
    assert lock.exists(), "the lock of a process that is alive was taken"


@pytest.mark.parametrize("content", ["{", "[]", '{"label_maps": {"a.nii.gz": 3}}', '{"version": 99}'])
def test_a_damaged_record_is_an_error(content: str, work: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.json").write_text(content)
    with pytest.raises(UserError, match=r"predictions\.json: ") as error:
        seg_transfer.predict(images, tmp_path / "out", work=work, **LOCAL)
    assert error.value.hint
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["predictions.json"]


@pytest.mark.parametrize("name", ["seg.nii.gz", "seg.NII.GZ", "seg.nii", "seg.mha", "new/seg.nrrd"])
def test_one_image_goes_into_one_file(name: str, work: Path, images: Path, tmp_path: Path, predicted: Callable) -> None:
    target = tmp_path / name
    arguments = ["predict", "-i", str(images / "a.nii.gz"), "-o", str(target), "-w", str(work), "--device", "cpu"]
    assert main([*arguments, "--probabilities"]) == 0
    assert target.is_file() and (target.parent / "probabilities" / "seg.nii.gz").is_file()
    seg_transfer.predict(images / "a.nii.gz", tmp_path / "out", work=work, **LOCAL)
    whole = seg_transfer.evaluate(target, tmp_path / "out" / "a.nii.gz", workers=0)
    assert whole.mean_dice == 1
    predicted()
    assert main([*arguments, "--probabilities"]) == 0 and predicted() == []


def test_an_output_file_beside_its_image(work: Path, images: Path) -> None:
    seg_transfer.predict(images / "a.nii.gz", images / "a_seg.nii.gz", work=work, **LOCAL)
    assert (images / "a_seg.nii.gz").is_file()


def test_output_files_that_cannot_be(work: Path, images: Path, data: Path, tmp_path: Path) -> None:
    def refused(output: Path, image: Path = images / "a.nii.gz") -> str:
        before = {path: path.read_bytes() for path in (*images.iterdir(), *(data / "labelsTr").iterdir())}
        with pytest.raises(UserError) as error:
            seg_transfer.predict(image, output, work=work, **LOCAL)
        assert {path: path.read_bytes() for path in (*images.iterdir(), *(data / "labelsTr").iterdir())} == before
        assert error.value.hint
        return error.value.what

    assert refused(tmp_path / "seg.nii.gz", images) == "one file for 3 images: a, b, c"
    assert refused(tmp_path / "seg.png") == "not a format for volumes such as a.nii.gz"
    assert "JPEG" in refused(tmp_path / "seg.jpg")
    assert "an image to predict" in refused(images / "a.nii.gz")
    label = sorted((data / "labelsTr").iterdir())[0]
    assert "a label of the data set" in refused(label)
    raw = sorted((data / "imagesTr").iterdir())[0]
    assert "a label of the data set" in refused(data / "labelsTr", raw)
    assert "is a file" in refused(images / "a.nii.gz" / "seg.nii.gz")
    assert not (tmp_path / "seg.nii.gz").exists()


def test_images_unlike_those_of_training_get_a_warning_in_console_and_record(
    work: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    loaded = nibabel.load(images / "b.nii.gz")
    array = np.array(loaded.dataobj, np.float32)
    odd = nibabel.Nifti1Image(array * 1e4, loaded.affine @ np.diag([3, 3, 3, 1]))
    nibabel.save(odd, images / "b.nii.gz")
    seg_transfer.predict(images, tmp_path / "out", work=work, **LOCAL)
    found = {name: entry["warnings"] for name, entry in record(tmp_path / "out").items()}
    assert found["a.nii.gz"] == found["c.nii.gz"] == []
    assert [text.partition(":")[0] for text in found["b.nii.gz"]] == ["MRI", "spacing in mm", "size in mm"]
    assert all(f"b is unlike the training images: {text}" in caplog.text for text in found["b.nii.gz"])
    assert "a is unlike" not in caplog.text
    caplog.clear()
    seg_transfer.predict(array, spacing=loaded.header.get_zooms(), work=work, device="cpu")
    assert caplog.text == ""
    seg_transfer.predict(array * 1e4, spacing=loaded.header.get_zooms(), work=work, device="cpu")
    assert "the array is unlike the training images: MRI: " in caplog.text


def test_labels_of_unlike_volumes_get_a_warning_in_console_and_record(
    data: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    work = make_work(tmp_path / "work", data)
    dataset = Dataset.load(work.dataset)
    add_run(work, tiny_labels(ball_plan(dataset, "2d"), dataset))
    seg_transfer.predict(images, tmp_path / "out", work=work.path, **LOCAL)
    for name, entry in record(tmp_path / "out").items():
        assert {re.split(" is|:", text)[0] for text in entry["warnings"]} == {"ball", "core"}
        case = name.removesuffix(".nii.gz")
        assert all(f"{case} is unlike the training images: {text}" in caplog.text for text in entry["warnings"])
        assert caplog.text.count(f"{case} is unlike") == 2
    caplog.clear()
    loaded = nibabel.load(images / "b.nii.gz")
    array = np.array(loaded.dataobj, np.float32)
    seg_transfer.predict(array, spacing=loaded.header.get_zooms(), work=work.path, device="cpu")
    assert caplog.text.count("the array is unlike the training images: ") == 2


def test_a_further_channel_is_refused_on_the_command_line(
    work: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(images / "a.nii.gz", images / "a_0000.nii.gz")
    shutil.copy(images / "b.nii.gz", images / "a_0001.nii.gz")
    arguments = ["predict", "-i", str(images), "-o", str(tmp_path / "out"), "-w", str(work), "--device", "cpu"]
    assert main(arguments) == 2
    assert "there is a further one: a_0001.nii.gz" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
