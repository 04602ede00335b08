"""Prediction with trained models: ensembles, arrays, folders of files, broken cases."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from made_plans import data_plan, model_plan, plan, threshold
from PIL import Image as Pillow

from seg_transfer.data.dataset import Case, find_dataset, find_images
from seg_transfer.data.description import Region
from seg_transfer.data.geometry import Grid
from seg_transfer.data.image import Image, image_from_array, read_label
from seg_transfer.errors import UserError
from seg_transfer.inference.ensemble import Ensemble
from seg_transfer.inference.folder import predict_folder
from seg_transfer.inference.outputs import Outputs
from seg_transfer.inference.predictor import Predictor
from seg_transfer.network.build import build_network
from seg_transfer.planning.data_plan import Channel, DataPlan, Label, Normalization
from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.preprocessing.cases import preprocess_dataset
from seg_transfer.preprocessing.store import Store
from seg_transfer.training.checkpoint import save_state

RAW = Channel(name="T1", normalization=Normalization(kind="none"))
CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def stub(data: DataPlan, *, networks: int = 1) -> Predictor:
    return Predictor(plan(data, model_plan("3d", (8, 16, 16))), [threshold] * networks, CPU)


def write_cases(folder: Path, count: int = 3) -> np.ndarray:
    folder.mkdir()
    volume = np.random.default_rng(0).choice([0.0, 1.0, 2.0], size=(12, 20, 9)).astype(np.float32)
    for number in range(count):
        nib.save(nib.Nifti1Image(volume, np.diag([-1, 1, 3, 1])), folder / f"case{number}_0000.nii.gz")
    return volume


@pytest.mark.parametrize("configuration", ["2d", "2.5d", "3d"])
def test_models_load_and_average(configuration: str, tmp_path: Path) -> None:
    model = model_plan(configuration, {"2d": (1, 16, 16), "2.5d": (3, 16, 16), "3d": (8, 16, 16)}[configuration])
    whole = plan(data_plan(), model)
    files = []
    for seed in (1, 2):
        network, _ = build_network(model, channels=1, classes=3, seed=seed, pretrained_stages=0)
        files.append(tmp_path / f"{seed}.safetensors")
        save_state(files[-1], "model", network.state_dict(), {"plan": whole.model_dump(mode="json")})
    array = np.random.default_rng(0).normal(size=(1, 8, 20, 18)).astype(np.float32)
    first, second, both = (Predictor.load(chosen) for chosen in ([files[0]], [files[1]], files))
    expected = (first.probabilities(array) + second.probabilities(array)) / 2
    assert expected.shape == (3, 8, 20, 18)
    assert np.abs(first.probabilities(array) - expected).max() > 0.01
    np.testing.assert_allclose(both.probabilities(array), expected, atol=1e-5)


def test_models_of_regions_average_what_their_sigmoids_say() -> None:
    """Two certain models that disagree are undecided together; log odds would have followed the surer one."""

    def model(first: float, second: float) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda windows: torch.cat([windows * 0 + first, windows * 0 + second], dim=1)

    regions = (Region(name="both", values=(1, 2), writes=1), Region(name="b", values=(2,), writes=2))
    whole = plan(data_plan(channels=(RAW,), regions=regions), model_plan("3d", (8, 16, 16)))
    predictor = Predictor(whole, [model(50.0, -50.0), model(-2.0, 3.0), model(50.0, 3.0)], CPU)
    volume = np.zeros((12, 12, 8), np.float32)
    found = predictor.probabilities(predictor.prepare(image_from_array(volume, (1.0, 1.0, 3.0)))[1])
    low, high = 1 / (1 + np.exp(2.0)), 1 / (1 + np.exp(-3.0))
    np.testing.assert_allclose(found[:, 3, 5, 5], [(2 + low) / 3, 2 * high / 3], atol=1e-5)
    assert (predictor.array(volume, (1.0, 1.0, 3.0)) == 2).all()
    undecided = Predictor(whole, [model(50.0, -50.0), model(3.0, -1.0)], CPU)
    assert (undecided.array(volume, (1.0, 1.0, 3.0)) == 1).all()


def test_models_of_different_plans_and_other_files_are_refused(tmp_path: Path) -> None:
    files = []
    for name, spacing in (("a", 1.0), ("b", 2.0)):
        whole = plan(data_plan(spacing=(3.0, 1.0, spacing)), model_plan("2d", (1, 16, 16)))
        files.append(tmp_path / f"{name}.safetensors")
        save_state(files[-1], "model", {"x": torch.zeros(1)}, {"plan": whole.model_dump(mode="json")})
    with pytest.raises(UserError, match="another plan"):
        Predictor.load(files)
    with pytest.raises(UserError, match="do not fit"):
        Predictor.load(files[:1])
    (tmp_path / "c.safetensors").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"c\.safetensors"):
        Predictor.load([tmp_path / "c.safetensors"])


def test_an_array_gives_the_users_label_values() -> None:
    labels = (Label(name="background", value=0), Label(name="a", value=7), Label(name="b", value=300))
    volume = np.random.default_rng(1).choice([0, 1, 2], size=(20, 12, 9))
    found = stub(data_plan(channels=(RAW,), labels=labels)).array(volume, (1.0, 1.0, 3.0))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, np.array([0, 7, 300])[volume])
    small = (Label(name="background", value=0), Label(name="a", value=255), Label(name="b", value=2))
    found = stub(data_plan(channels=(RAW,), labels=small)).array(volume[None], (1.0, 1.0, 3.0))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.array([0, 255, 2])[volume])


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_folder_goes_on_after_a_broken_case(tmp_path: Path, workers: int) -> None:
    volume = write_cases(tmp_path / "images")
    broken = tmp_path / "images" / "case1_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:300])
    cases, output = find_images(tmp_path / "images", 1), tmp_path / "out"
    failures = predict_folder(stub(data_plan(channels=(RAW,))), cases, Outputs(output), workers=workers)
    assert set(failures) == {"case1"}
    assert "case1_0000.nii.gz" in failures["case1"]
    assert "\n" not in failures["case1"]
    assert sorted(path.name for path in output.iterdir()) == ["case0.nii.gz", "case2.nii.gz"]
    np.testing.assert_array_equal(np.asarray(nib.load(output / "case0.nii.gz").dataobj), volume.astype(int))


@pytest.mark.parametrize(("workers", "before_the_first"), [(0, 0), (1, 2), (3, 4)])
def test_workers_prepare_so_many_cases_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, before_the_first: int
) -> None:
    """Cases whose work has begun when the network sees the first; without workers all of it is in this thread."""
    write_cases(tmp_path / "images", 6)
    predictor = stub(data_plan(channels=(RAW,)))
    submitted: list[str] = []
    threads: set[threading.Thread] = set()
    seen: list[int] = []
    threaded = ThreadPoolExecutor.submit

    def noted(pool: ThreadPoolExecutor, work: Callable, *arguments: Any) -> Any:
        if len(arguments) == 1:  # a case to read; one to write is bound to its labels
            submitted.append(arguments[0].id)
        return threaded(pool, work, *arguments)

    prepare, labels = predictor.prepare, predictor.labels

    def prepared(image: Any, **options: Any) -> Any:
        threads.add(threading.current_thread())
        return prepare(image, **options)

    def predicted(transform: CaseTransform, array: np.ndarray, **options: Any) -> np.ndarray:
        seen.append(len(submitted))
        return labels(transform, array, **options)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", noted)
    monkeypatch.setattr(predictor, "prepare", prepared)
    monkeypatch.setattr(predictor, "labels", predicted)
    assert (
        predict_folder(predictor, find_images(tmp_path / "images", 1), Outputs(tmp_path / "out"), workers=workers) == {}
    )
    assert len(list((tmp_path / "out").iterdir())) == 6
    assert (threading.main_thread() in threads) == (workers == 0)
    assert seen[0] == before_the_first


@pytest.mark.parametrize("free", [10**5, 10**12])
def test_a_case_too_large_for_the_free_memory_is_not_prepared_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    """Without memory to spare a case is read when the one before it is done."""
    write_cases(tmp_path / "images", 4)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free))
    monkeypatch.setattr("seg_transfer.inference.predictor.free_memory", lambda: 10**12)
    predictor = stub(data_plan(channels=(RAW,)))
    events: list[str] = []
    prepare, labels = predictor.prepare, predictor.labels

    def prepared(image: Any, **options: Any) -> Any:
        events.append("read")
        return prepare(image, **options)

    def predicted(*arguments: Any, **options: Any) -> np.ndarray:
        time.sleep(0.2)  # a case that is read ahead is read by now
        events.append("predict")
        return labels(*arguments, **options)

    monkeypatch.setattr(predictor, "prepare", prepared)
    monkeypatch.setattr(predictor, "labels", predicted)
    assert predict_folder(predictor, find_images(tmp_path / "images", 1), Outputs(tmp_path / "out"), workers=2) == {}
    assert (events == ["read", "predict"] * 4) == (free == 10**5)
    assert events[:3] == (["read", "predict", "read"] if free == 10**5 else ["read"] * 3)


@pytest.mark.parametrize(
    ("configuration", "patch"), [("2d", (1, 16, 16)), ("2.5d", (3, 16, 16)), ("3d", (8, 16, 16)), ("3d", (16, 16, 8))]
)
@pytest.mark.parametrize("networks", [1, 2])
def test_labels_are_those_of_the_probabilities_in_memory(
    configuration: str, patch: tuple[int, int, int], networks: int
) -> None:
    """Streamed or not, with mirroring, folds, cropping, resampling and another orientation: the same label map."""
    model = model_plan(configuration, patch)
    data = data_plan(spacing=(2.0, 0.8, 1.3), crop_nonzero=True)
    built = [
        build_network(model, channels=1, classes=3, seed=seed, pretrained_stages=0)[0].eval()
        for seed in range(networks)
    ]
    predictor = Predictor(plan(data, model, tta_axes=(0, 2)), built, CPU)
    array = np.pad(np.random.default_rng(0).uniform(1, 2, (14, 20, 9)).astype(np.float32), ((2, 1), (0, 3), (1, 0)))
    grid = Grid((9 + 1, 14 + 3, 20 + 3), np.array([[0, -1, 0, 0], [0, 0, 1, 0], [3, 0, 0, 0], [0, 0, 0, 1.0]]))
    transform, prepared = predictor.prepare(Image(array[None], grid.canonical().affine, grid))
    probabilities = predictor.probabilities(prepared)
    streamed = predictor.labels(transform, prepared)
    np.testing.assert_array_equal(streamed, predictor.labels_of(transform, probabilities))
    assert streamed.shape == grid.shape
    assert len(np.unique(streamed)) > 1
    native = transform.restore_probabilities(probabilities, predictor.plan.data)
    top = np.sort(native, axis=0)
    clear = top[-1] - top[-2] > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(streamed[clear], native.argmax(axis=0)[clear])


@pytest.mark.parametrize("spacing", [(3.0, 1.0, 1.0), (2.0, 1.3, 0.8)])
def test_configurations_that_predict_together_average_slab_by_slab(spacing: tuple[float, float, float]) -> None:
    data = data_plan(channels=(RAW,), spacing=spacing)
    flat, deep = (plan(data, model_plan(*made)) for made in (("2d", (1, 16, 16)), ("3d", (8, 16, 16))))
    members = [Predictor(flat, [threshold], CPU), Predictor(deep, [lambda windows: threshold(windows + 0.3)], CPU)]
    both = Ensemble(members)
    values = np.random.default_rng(0).random((30, 33, 20)).astype(np.float32) * 2
    transform, array = both.prepare(image_from_array(values, (1.0, 1.0, 3.0)))
    expected = np.mean([member.probabilities(array) for member in members], axis=0)
    np.testing.assert_allclose(both.probabilities(array), expected, atol=1e-6)
    np.testing.assert_array_equal(both.labels(transform, array), both.labels_of(transform, both.probabilities(array)))
    assert all((both.labels(transform, array) != member.labels(transform, array)).any() for member in members)


def test_a_grid_too_large_for_the_free_memory_is_refused_before_it_is_allocated() -> None:
    predictor = stub(data_plan(channels=(RAW,), spacing=(1e-3, 1e-3, 1e-3)))
    with pytest.raises(UserError, match=r"it has 90000 x 20000 x 20000 voxels, which need .* TB; .* GB are free"):
        predictor.prepare(image_from_array(np.zeros((20, 20, 30), np.float32), (1.0, 1.0, 3.0)))


def test_a_case_that_the_plan_does_not_fit_is_reported(tmp_path: Path) -> None:
    write_cases(tmp_path / "images", count=1)
    path = tmp_path / "images" / "case0_0000.nii.gz"
    failures = predict_folder(
        stub(data_plan(channels=(RAW,))), [Case("case0", (path, path))], Outputs(tmp_path / "out")
    )
    assert "2 channel(s), the plan has 1" in failures["case0"]


def test_probabilities_of_volumes_are_a_4d_image_in_the_same_geometry(tmp_path: Path) -> None:
    volume = write_cases(tmp_path / "images", count=1)
    cases = find_images(tmp_path / "images", 1)
    predict_folder(stub(data_plan(channels=(RAW,)), networks=2), cases, Outputs(tmp_path / "out", probabilities=True))
    image = nib.load(tmp_path / "out" / "probabilities" / "case0.nii.gz")
    assert image.shape == (*volume.shape, 3)
    np.testing.assert_allclose(image.affine, np.diag([-1, 1, 3, 1]))
    probabilities = np.asarray(image.dataobj)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(axis=-1), volume.astype(int))


def image_2d_plan() -> Plan:
    data = data_plan(
        dimension=2,
        unit="pixel",
        channels=(Channel(name="grey", normalization=Normalization(kind="minmax", lower=0, upper=127.5)),),
        labels=(Label(name="background", value=0), Label(name="a", value=128), Label(name="b", value=255)),
        axes=(2, 1, 0),
        spacing=(1.0, 1.0, 1.0),
    )
    return plan(data, model_plan("2d", (1, 16, 16)))


@pytest.mark.parametrize(("ending", "written"), [(".png", ".png"), (".jpg", ".png"), (".tif", ".tif")])
def test_2d_images_give_2d_images(ending: str, written: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    rows = np.full((20, 30), 0, np.uint8)
    rows[:8, :10], rows[12:] = 100, 100
    Pillow.fromarray(rows).save(tmp_path / "images" / f"one{ending}")
    predictor = Predictor(image_2d_plan(), [threshold], CPU)
    cases = find_images(tmp_path / "images", 1)
    assert predict_folder(predictor, cases, Outputs(tmp_path / "out", probabilities=True, uncertainty=True)) == {}
    entropy = Pillow.open(tmp_path / "out" / "uncertainty" / f"one{written}")
    assert entropy.size == (30, 20) and entropy.mode == "L" and np.asarray(entropy).max() <= 100
    found = np.asarray(Pillow.open(tmp_path / "out" / f"one{written}"))
    np.testing.assert_array_equal(found, np.where(rows > 0, 128, 0))
    probabilities = np.load(tmp_path / "out" / "probabilities" / "one.npz")["probabilities"]
    np.testing.assert_array_equal(probabilities.argmax(axis=0), rows > 0)


def test_an_array_of_pixels_gives_what_its_file_gives(tmp_path: Path) -> None:
    rows = np.zeros((20, 30), np.uint8)
    rows[:8, :10], rows[12:] = 100, 100
    grey = Predictor(image_2d_plan(), [threshold], CPU)
    labels, probabilities = grey.array(rows, probabilities=True)
    np.testing.assert_array_equal(labels, np.where(rows > 0, 128, 0))
    assert probabilities.shape == (3, 20, 30)
    np.testing.assert_array_equal(probabilities.argmax(axis=0), rows > 0)
    np.testing.assert_array_equal(grey.array(rows), labels)
    again, entropy, confidence = grey.array(rows, uncertainty=True)
    np.testing.assert_array_equal(again, labels)
    assert entropy.shape == labels.shape and 0 < confidence <= 1
    in_ras = grey.array(rows.T[..., np.newaxis], (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(in_ras[..., 0].T, labels)

    made = image_2d_plan()
    channel = made.data.channels[0]
    colours = made.model_copy(update={"data": made.data.model_copy(update={"channels": (channel,) * 3})})

    def first(windows: torch.Tensor) -> torch.Tensor:
        return threshold(windows[:, :1])

    rgb = np.stack([rows, 0 * rows, 0 * rows], axis=-1)
    np.testing.assert_array_equal(Predictor(colours, [first], CPU).array(rgb), labels)
    with pytest.raises(UserError, match="channel"):
        grey.array(rgb)


def test_an_array_with_its_probabilities_and_what_is_refused() -> None:
    volume = np.random.default_rng(1).choice([0.0, 1.0, 2.0], size=(20, 12, 9)).astype(np.float32)
    predictor = stub(data_plan(channels=(RAW,)))
    labels, probabilities = predictor.array(volume, (1.0, 1.0, 3.0), probabilities=True)
    np.testing.assert_array_equal(labels, volume)
    assert probabilities.shape == (3, *volume.shape) and probabilities.dtype == np.float32
    np.testing.assert_array_equal(probabilities.argmax(axis=0), labels)

    unmasked = np.ma.array(volume)
    np.testing.assert_array_equal(predictor.array(unmasked, (1.0, 1.0, 3.0)), volume)
    holed = volume.copy()
    holed[3, 4, 5] = np.nan
    for array, spacing, said in (
        (volume, None, "needs its spacing"),
        (volume[0], (1.0, 1.0, 1.0), "an image array is"),
        (np.ma.masked_greater(volume, 1), (1.0, 1.0, 3.0), "masked"),
        (holed, (1.0, 1.0, 3.0), "1 of 2160 values of the array are not finite"),
    ):
        with pytest.raises(UserError, match=said):
            predictor.array(array, spacing)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_set_is_preprocessed_and_predicted_back(workers: int, tmp_path: Path, made_dataset: Callable) -> None:
    dataset = find_dataset(made_dataset())
    data = data_plan(
        channels=(RAW,),
        labels=tuple(Label(name=name, value=value) for name, value in dataset.labels),
        cases=tuple(case.id for case in dataset.cases),
        spacing=(1.5, 1.0, 1.0),
    )
    assert preprocess_dataset(dataset, data, tmp_path / "store", workers=workers) == {}
    store = Store.open(tmp_path / "store", data)
    assert store.cases() == ["case0", "case1"]
    label = read_label(dataset.cases[0].label)
    assert store.case("case0").shape == (18, 12, 20)
    assert store.case("case0").image.shape == (1, 18, 12, 20)
    assert sum(store.case("case0").voxels) == 18 * 12 * 20
    assert set(store.case("case0").locations) == {1, 2}

    before = (tmp_path / "store" / "case0" / "image.b2nd").stat().st_mtime_ns
    assert preprocess_dataset(dataset, data, tmp_path / "store", workers=0) == {}
    assert (tmp_path / "store" / "case0" / "image.b2nd").stat().st_mtime_ns == before

    assert predict_folder(stub(data), dataset.cases, Outputs(tmp_path / "out")) == {}
    found = read_label(tmp_path / "out" / "case0.nii.gz")
    assert (found.array == label.array).mean() > 0.97


@pytest.fixture
def made_dataset(tmp_path: Path) -> Callable[[], Path]:
    """Two plain folders; each image is its own label 0, 1, 2 as values 0, 5, 9."""

    def make() -> Path:
        for name in ("images", "labels"):
            (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(2):
            volume = np.zeros((12, 20, 9), np.float32)
            volume[2:10, 3:16, 1:8] = 1
            volume[4:8, 8:14, 3 + number : 6] = 2
            for name, values in (("images", volume), ("labels", np.array([0, 5, 9], np.uint8)[volume.astype(int)])):
                path = tmp_path / "data" / name / f"case{number}.nii.gz"
                nib.save(nib.Nifti1Image(values, np.diag([-1, -1, 3, 1])), path)
        return tmp_path / "data"

    return make


def test_a_broken_case_does_not_stop_preprocessing(tmp_path: Path, made_dataset: Callable) -> None:
    folder = made_dataset()
    dataset = find_dataset(folder)
    labels = tuple(Label(name=name, value=value) for name, value in dataset.labels)
    data = data_plan(channels=(RAW,), labels=labels, cases=("case0", "case1"))
    path = folder / "images" / "case0.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    failures = preprocess_dataset(dataset, data, tmp_path / "store", workers=0)
    assert set(failures) == {"case0"}
    assert "images/case0.nii.gz" in failures["case0"].replace("\\", "/")
    assert Store.open(tmp_path / "store", data).cases() == ["case1"]


def test_a_case_whose_files_changed_is_prepared_again(
    tmp_path: Path, made_dataset: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    """Also where the plan's part on data stays the same, as after a label was corrected."""
    folder = made_dataset()
    dataset = find_dataset(folder)
    labels = tuple(Label(name=name, value=value) for name, value in dataset.labels)
    data = data_plan(channels=(RAW,), labels=labels, cases=("case0", "case1"))
    assert preprocess_dataset(dataset, data, tmp_path / "store", workers=0) == {}
    store = Store.open(tmp_path / "store", data)
    before = {case: (store.case(case).voxels, store.case(case).folder.stat().st_mtime_ns) for case in store.cases()}

    label = folder / "labels" / "case0.nii.gz"
    corrected = np.asarray(nib.load(label).dataobj).copy()
    corrected[corrected == 9] = 5
    nib.save(nib.Nifti1Image(corrected, nib.load(label).affine), label)
    caplog.clear()
    assert preprocess_dataset(dataset, data, tmp_path / "store", workers=0) == {}
    assert "files have changed: case0\n" in caplog.text
    background, first, second = before["case0"][0]
    assert second > 0 and store.case("case0").voxels == (background, first + second, 0)
    assert (store.case("case1").voxels, store.case("case1").folder.stat().st_mtime_ns) == before["case1"]
    assert {path.name for path in (tmp_path / "store").iterdir()} == {"plan-data.json", "case0", "case1"}

    caplog.clear()
    shutil.rmtree(folder / "images")  # what is prepared needs its files no longer
    assert preprocess_dataset(dataset, data, tmp_path / "store", workers=0) == {}
    assert caplog.text == "" and store.cases() == ["case0", "case1"]
