"""What `segtl predict` shows besides label maps: overlays, entropy maps and the confidence."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_balls import make_dataset
from made_work import add_run, ball_plan, make_work
from PIL import Image

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.data.dataset import Dataset
from seg_transfer.data.image import read_image
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.inference.predictor import Predictor

pytestmark = pytest.mark.usefixtures("one_thread")
LOCAL = {"device": "cpu", "workers": 0}
HOSTILE = "_b $x\\frac{"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "balls", cases=2)


@pytest.fixture(scope="module")
def work(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds of random weights."""
    made = make_work(tmp_path_factory.mktemp("trained") / "work", data)
    add_run(made, ball_plan(Dataset.load(made.dataset), "2d"))
    return made.path


@pytest.fixture
def images(data: Path, tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name, file in zip(("a", HOSTILE), sorted((data / "imagesTr").iterdir()), strict=True):
        shutil.copy(file, tmp_path / "images" / f"{name}.nii.gz")
    return tmp_path / "images"


def files_in(folder: Path) -> dict[str, int]:
    """File -> when it was written."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in found}


def test_an_overlay_per_case_is_drawn_once_per_label_map(work: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    seg_transfer.predict(images, out, work=work, **LOCAL)
    seg_transfer.predict(images, out, work=work, pictures=True, **LOCAL)
    first = files_in(out)
    assert {name for name in first if name.startswith("overlays/")} == {"overlays/a.png", f"overlays/{HOSTILE}.png"}
    for name in ("a", HOSTILE):
        with Image.open(out / "overlays" / f"{name}.png") as drawn:
            drawn.load()
            assert drawn.width > 3 * drawn.height / 2  # two rows of three planes and the legend
    (out / "overlays/a.png").unlink()
    seg_transfer.predict(images, out, work=work, pictures=True, **LOCAL)
    again = files_in(out)
    assert again.pop("overlays/a.png") > first.pop("overlays/a.png") and again == first
    seg_transfer.predict(images, out, work=work, folds=[0], pictures=True, **LOCAL)  # other label maps
    drawn_of = files_in(out)
    assert all(drawn_of[name] > when for name, when in first.items() if name.startswith("overlays/"))
    seg_transfer.predict(images, out, work=work, folds=[1], **LOCAL)  # overlays of label maps that are gone go too
    assert not any(name.startswith("overlays/") for name in files_in(out))


def test_an_overlay_that_cannot_be_drawn_is_a_case_that_failed(
    work: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    seg_transfer.predict(images, out, work=work, **LOCAL)
    (out / "a.nii.gz").write_bytes((out / "a.nii.gz").read_bytes()[:200])
    with pytest.raises(SomeCasesFailed, match=r"1 of 2 cases failed.*\n  a: .*a\.nii\.gz"):
        seg_transfer.predict(images, out, work=work, keep=True, pictures=True, **LOCAL)
    assert [path.name for path in (out / "overlays").iterdir()] == [f"{HOSTILE}.png"]


@pytest.mark.parametrize("options", [{"pictures": True}, {"uncertainty": True}])
def test_what_is_in_the_way_is_told_before_anything_is_written(
    work: Path, images: Path, tmp_path: Path, options: dict[str, bool]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ("overlays" if "pictures" in options else "uncertainty")).write_text("a file")
    before = files_in(tmp_path)
    with pytest.raises(UserError, match="this is a file, a folder is needed"):
        seg_transfer.predict(images, out, work=work, **LOCAL, **options)
    assert files_in(tmp_path) == before


def test_an_entropy_map_replaces_no_image(work: Path, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "uncertainty"
    images.rename(folder)
    before = files_in(tmp_path)
    with pytest.raises(UserError, match="an image to predict, which a file of uncertainty/ would replace"):
        seg_transfer.predict(folder, tmp_path, work=work, uncertainty=True, **LOCAL)
    assert files_in(tmp_path) == before


def test_the_entropy_is_that_of_the_mean_probabilities(work: Path, images: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "out", tmp_path / "volumes.csv"
    options = {"work": work, "volumes": table, "uncertainty": True, **LOCAL}
    seg_transfer.predict(images, out, probabilities=True, **options)
    for name in ("a", HOSTILE):
        image, entropy = nibabel.load(images / f"{name}.nii.gz"), nibabel.load(out / "uncertainty" / f"{name}.nii.gz")
        np.testing.assert_array_equal(entropy.affine, image.affine)
        assert entropy.get_data_dtype() == np.uint8
        p = np.moveaxis(np.asarray(nibabel.load(out / "probabilities" / f"{name}.nii.gz").dataobj), -1, 0)
        expected = -100 * (p * np.log(p)).sum(axis=0) / np.log(len(p))
        np.testing.assert_allclose(np.asarray(entropy.dataobj), expected, atol=0.51)
    record = json.loads((out / "predictions.json").read_text())["label_maps"]
    with table.open(encoding="utf-8") as file:
        shown = {row["case"]: float(row["confidence"]) for row in csv.DictReader(file)}
    assert shown == {name: record[f"{name}.nii.gz"]["confidence"] for name in ("a", HOSTILE)}
    streamed = tmp_path / "streamed"
    seg_transfer.predict(images, streamed, **options)  # slab by slab
    assert (streamed / "uncertainty/a.nii.gz").read_bytes() == (out / "uncertainty/a.nii.gz").read_bytes()


def test_entropy_maps_are_resumed_and_go_with_their_label_maps(
    work: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    seg_transfer.predict(images, out, work=work, **LOCAL)
    seg_transfer.predict(images, out, work=work, uncertainty=True, **LOCAL)
    assert "predicted again" not in caplog.text  # by the same model, of the same images
    first = files_in(out)
    seg_transfer.predict(images, out, work=work, uncertainty=True, volumes=tmp_path / "v.json", **LOCAL)
    assert files_in(out) == first
    assert all(0 < row["confidence"] < 1 for row in json.loads((tmp_path / "v.json").read_text()))
    (out / "uncertainty/a.nii.gz").unlink()
    seg_transfer.predict(images, out, work=work, uncertainty=True, **LOCAL)
    again = files_in(out)
    same = f"uncertainty/{HOSTILE}.nii.gz"
    assert again["uncertainty/a.nii.gz"] > first["uncertainty/a.nii.gz"] and again[same] == first[same]
    seg_transfer.predict(images, out, work=work, folds=[0], **LOCAL)
    assert not any(name.startswith("uncertainty/") for name in files_in(out))


def test_records_of_earlier_versions_are_read(work: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    seg_transfer.predict(images, out, work=work, **LOCAL)
    content = json.loads((out / "predictions.json").read_text())
    del content["digest"]
    for entry in content["label_maps"].values():
        del entry["entropy"], entry["confidence"]
    (out / "predictions.json").write_text(json.dumps(content | {"version": 1}))
    before = files_in(out)
    seg_transfer.predict(images, out, work=work, **LOCAL)
    assert files_in(out) == before


def test_files_beside_one_output_file_have_its_name(work: Path, images: Path, tmp_path: Path) -> None:
    options = {"pictures": True, "uncertainty": True}
    seg_transfer.predict(images / "a.nii.gz", tmp_path / "out/seg.nii", work=work, **LOCAL, **options)
    assert set(files_in(tmp_path / "out")) == {"predictions.json", "seg.nii", "uncertainty/seg.nii", "overlays/seg.png"}


def test_help_tells_where_they_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "OUTPUT/overlays/CASE.png" in said and "OUTPUT/uncertainty/CASE" in said and "percent" in said


def test_the_memory_of_the_entropy_map_is_counted(work: Path, images: Path) -> None:
    predictor = Predictor.load([work / model for model in sorted(work.rglob("model.safetensors"))[:1]])
    image = read_image([images / "a.nii.gz"])

    def fits(memory: int, *, uncertainty: bool) -> bool:
        predictor.memory = memory
        try:
            predictor.prepare(image, uncertainty=uncertainty)
        except UserError as error:
            assert "are allowed" in error.what
            return False
        return True

    def least(*, uncertainty: bool) -> int:
        few, many = 0, 2**30
        while many - few > 1:
            middle = (few + many) // 2
            few, many = (few, middle) if fits(middle, uncertainty=uncertainty) else (middle, many)
        return many

    assert least(uncertainty=True) - least(uncertainty=False) == image.array[0].size
