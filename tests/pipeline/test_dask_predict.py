"""Cases predicted on a cluster of Dask: what is written, recorded and reported is that of this machine."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_balls import make_dataset
from made_clusters import Processes, in_this_process
from made_nnunet import MIDDLE, make_model, make_tree
from made_work import LIGHT, add_run, ball_plan, make_work

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import EveryCaseFails
from seg_transfer.planning.examine import examine
from seg_transfer.planning.rules.training_images import training_images
from seg_transfer.workflow import predict_on_cluster

distributed = pytest.importorskip("distributed", reason="the extra cluster is not installed")
pytestmark = pytest.mark.usefixtures("one_thread")
ALL = ["--probabilities", "--uncertainty"]


def whole(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; ``predictions.json`` has the digests of the images and of the label maps."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with two folds of random weights in ``work``, and three images."""
    data = make_dataset(tmp_path / "balls", cases=3)
    work = make_work(tmp_path / "work", data)
    dataset = Dataset.load(work.dataset)
    known = training_images(examine(dataset, workers=0).site.images, 3)
    add_run(work, ball_plan(dataset, "2.5d", encoder=LIGHT).model_copy(update={"training_images": known}))
    (tmp_path / "images").mkdir()
    for name, file in zip("abc", sorted((data / "imagesTr").iterdir()), strict=True):
        shutil.copy(file, tmp_path / "images" / f"{name}.nii.gz")
    return tmp_path


def test_all_is_as_on_this_machine(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told() -> str:
        return " ".join(capsys.readouterr().err.split())

    monkeypatch.chdir(trained)
    loaded = nibabel.load("images/b.nii.gz")
    nibabel.save(nibabel.Nifti1Image(1e4 * loaded.get_fdata(dtype=np.float32), loaded.affine), "images/b.nii.gz")
    command = ["predict", "-i", "images", "-w", "work", "--device", "cpu", *ALL]
    assert main([*command, "-o", "near", "--volumes", "near.csv"]) == 0
    healthy = Path("images/c.nii.gz").read_bytes()
    Path("images/c.nii.gz").write_bytes(healthy[:300])
    loads = []
    load = predict_on_cluster.load_any
    monkeypatch.setattr(predict_on_cluster, "load_any", lambda *given: loads.append(1) or load(*given))
    with in_this_process(workers=1, threads=2) as started:
        far = [*command, "-o", "far", "--volumes", "far.csv", "--cluster", started.scheduler_address]
        told()
        assert main([*far, "--part", "2/3"]) == 0 and list(record("far")) == ["b.nii.gz"]
        assert "b is unlike the training images: MRI" in told()
        assert main(far) == 3
        text = told()
        assert "1 of 3 cases failed" in text and "c.nii.gz" in text and "Traceback" not in text
        assert list(record("far")) == ["a.nii.gz", "b.nii.gz"]
        Path("images/c.nii.gz").write_bytes(healthy)
        before = Path("far/a.nii.gz").stat().st_mtime_ns
        assert main(far) == 0
        assert "2 of 3 cases are in" in told() and Path("far/a.nii.gz").stat().st_mtime_ns == before
        assert whole(Path("far")) == whole(Path("near")) and loads == [1]
        assert Path("far.csv").read_bytes() == Path("near.csv").read_bytes()
        monkeypatch.setattr(predict_on_cluster, "find_any", lambda options: find_fold_one(trained))
        predict_on_cluster._loaded.clear()
        with pytest.raises(EveryCaseFails, match="other models than those of the command"):
            seg_transfer.predict("images", "far", work="work", cluster=started.scheduler_address, overwrite=True)
    assert record("far") == {}  # before they are predicted again, which was not done
    with pytest.raises(TypeError, match="cluster"):
        seg_transfer.predict(np.zeros((8, 8, 8)), spacing=(1, 1, 1), work="work", cluster="tcp://here:1")


def record(folder: str) -> dict[str, dict]:
    return json.loads((Path(folder) / "predictions.json").read_text())["label_maps"]


def find_fold_one(folder: Path) -> object:
    from seg_transfer.options.model_options import PredictOptions
    from seg_transfer.workflow.source import find_source

    return find_source(PredictOptions(images=folder, output=folder, work=folder / "work", folds="1"))


@pytest.mark.slow
@pytest.mark.parametrize("models", ["folds", "model file", "nnunet"])
def test_workers_in_another_folder(
    models: str, trained: Path, monkeypatch: pytest.MonkeyPatch, processes: Processes
) -> None:
    monkeypatch.chdir(trained)
    images = Path("images")
    chosen: dict[str, object] = {"work": Path("work"), "folds": ["1", "0"], "uncertainty": True}
    if models == "model file":
        seg_transfer.export("model.segtl", work="work")
        chosen = {"model": "model.segtl", "uncertainty": True}
    elif models == "nnunet":
        make_tree(trained, MIDDLE)
        images = Path("nnUNet_raw") / MIDDLE / "imagesTr"
        chosen = {"nnunet": make_model(Path("model"), MIDDLE, "2d", [48, 64], ["0", "2"])}
    options = {**chosen, "device": "cpu", "probabilities": True, "pictures": True}
    seg_transfer.predict(images, "near", **options)
    processes.folder = trained / "elsewhere"
    processes.folder.mkdir()
    seg_transfer.predict(images, "far", **options, cluster=processes.start())
    assert whole(trained / "far") == whole(trained / "near")
    assert len(list((trained / "far" / "overlays").iterdir())) == len(list(images.iterdir()))


@pytest.mark.slow
def test_a_worker_killed_at_work_loses_no_case(
    trained: Path, processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(37):
        shutil.copy(trained / "images" / "a.nii.gz", trained / "images" / f"{number:02d}.nii.gz")
    options = {"work": trained / "work", "device": "cpu"}
    seg_transfer.predict(trained / "images", trained / "near", **options)
    address = processes.start()
    killing = when(lambda: len(list(trained.glob("far/*.nii.gz"))) >= 5, processes.workers[0].kill)
    caplog.set_level(logging.INFO)
    seg_transfer.predict(trained / "images", trained / "far", **options, cluster=address)
    killing.join()
    assert processes.workers[0].wait() != 0 and "predicting: 40/40" in caplog.text
    found = whole(trained / "far")
    assert {name for name in found if ".tmp" not in name} == set(whole(trained / "near"))
    assert all(found[name] == content for name, content in whole(trained / "near").items())


def when(ready: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    """Do something once it is time."""

    def watch() -> None:
        deadline = time.monotonic() + 100
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.01)
        act()

    watching = threading.Thread(target=watch)
    watching.start()
    return watching
