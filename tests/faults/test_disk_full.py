"""A full disk: one message with where and how much, exit code 2, former files whole, and the same command goes on."""

from __future__ import annotations

import hashlib
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from made_balls import LOCAL, QUICK, make_dataset
from made_work import add_run, ball_plan, make_work
from onnx import helper, numpy_helper
from PIL import Image as Raster
from safetensors.torch import save_file

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.data.dataset import Dataset
from seg_transfer.data.formats import write_volume
from seg_transfer.data.geometry import Grid
from seg_transfer.util.disk_space import DiskFull
from seg_transfer.util.files import whole_file, write_text

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(sys.platform != "linux", reason="file systems in memory are Linux's"),
]
KIND = "full disk"
SIZE = 64 * 2**20
Leave = Callable[[int], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 64 MiB; where none can be mounted, a plain folder."""
    folder = tmp_path_factory.mktemp("small")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(folder)]
    mounted = shutil.which("mount") and subprocess.run(mount, capture_output=True).returncode == 0
    yield folder
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module", params=["limit", pytest.param("disk", marks=pytest.mark.slow)])
def leave(request: pytest.FixtureRequest, small_disk: Path) -> Leave:
    """Leaves this many bytes on the disk; or limits files to this size, which needs no rights."""
    if request.param == "disk" and not small_disk.is_mount():
        pytest.skip("no file system can be mounted without the rights of root")

    @contextmanager
    def room(size: int) -> Iterator[None]:
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - size))
        try:
            yield
        finally:
            ballast.unlink()

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return room if request.param == "disk" else limit


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "balls")


@pytest.fixture
def work(small_disk: Path) -> Iterator[Path]:
    yield small_disk / "work"
    shutil.rmtree(small_disk / "work", ignore_errors=True)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def is_refused_and_goes_on(
    arguments: list[str], folder: Path, room: AbstractContextManager[None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without room the command fails in one message and changes no file; then it succeeds."""
    before = digests(folder)
    capsys.readouterr()
    with room:
        code = main(arguments)
    error = capsys.readouterr().err
    assert code == 2, error
    assert "the disk is full" in error or "larger than the system allows" in error
    assert "needed" in error and "then run the same command again" in error and "Traceback" not in error
    assert str(folder.parent) in error
    after = digests(folder)
    assert {name: after.get(name) for name in before} == before
    assert not [name for name in after if "/." in f"/{name}"]
    assert main(arguments) == 0


NOISE = np.random.default_rng(0).integers(0, 2**15, (40, 128, 128)).astype(np.int16)


def _volume(path: Path) -> None:
    write_volume(path, NOISE, Grid(NOISE.shape, np.eye(4)))


def _tensors(path: Path) -> None:
    with whole_file(path) as temporary:
        save_file({"x": torch.zeros(10**6)}, temporary)


def _array(path: Path) -> None:
    with whole_file(path) as temporary:
        np.save(temporary, NOISE)


def _picture(path: Path) -> None:
    with whole_file(path) as temporary:
        Raster.fromarray(NOISE[0].repeat(8, 0)).save(temporary, format="tiff")


def _graph(path: Path) -> None:
    graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(np.zeros(10**6, np.float32), "w")])
    with whole_file(path) as temporary:
        onnx.save(helper.make_model(graph), temporary)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        *((f"file{ending}", _volume) for ending in (".nii", ".nii.gz", ".mha", ".nrrd")),
        ("file.safetensors", _tensors),
        ("file.npy", _array),
        ("file.tiff", _picture),
        ("file.onnx", _graph),
        ("file.json", lambda path: write_text(path, "x" * 10**6)),
    ],
)
def test_whichever_library_writes_the_message_is_the_same(
    small_disk: Path, leave: Leave, name: str, write: Callable[[Path], None]
) -> None:
    file = small_disk / "out" / name
    shutil.rmtree(file.parent, ignore_errors=True)
    file.parent.mkdir()
    file.write_text("former")
    with leave(200_000), pytest.raises(DiskFull, match=r"(MB|KB) are needed|ulimit") as raised:
        write(file)
    assert raised.value.where == file
    assert file.read_text() == "former"
    assert [path.name for path in file.parent.iterdir()] == [name]
    write(file)


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="something else"), whole_file(tmp_path / "file") as temporary:
        temporary.write_text("begun")
        raise RuntimeError("something else")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", ["0", "1"])
def test_preprocess(data: Path, work: Path, leave: Leave, workers: str, capsys: pytest.CaptureFixture[str]) -> None:
    seg_transfer.plan(data, work=work, **QUICK, **LOCAL)
    command = ["preprocess", "-w", str(work), "--workers", workers]
    is_refused_and_goes_on(command, work, leave(10_000), capsys)
    store = next((work / "preprocessed").iterdir())
    assert len([path for path in store.iterdir() if path.is_dir()]) == 4


def test_train_keeps_its_checkpoint(data: Path, work: Path, leave: Leave, capsys: pytest.CaptureFixture[str]) -> None:
    made = seg_transfer.plan(data, work=work, **(QUICK | {"time_budget": None, "epochs": 1}), **LOCAL)
    made.model_copy(update={"recipe": made.recipe.model_copy(update={"steps_per_epoch": 2})}).save(work / "plan.json")
    seg_transfer.preprocess(work=work, workers=0)
    command = ["train", "0", "-w", str(work), "--device", "cpu", "--workers", "0"]
    is_refused_and_goes_on(command, work, leave(500_000), capsys)


def test_export_and_predict(data: Path, work: Path, leave: Leave, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_work(work, data)
    add_run(folder, ball_plan(Dataset.load(folder.dataset), "2d"))
    model = work / "model.segtl"
    for option, file in (("--onnx", work / "model.onnx"), ("-o", model)):
        command = ["export", "-w", str(work), "--folds", "0", option, str(file)]
        is_refused_and_goes_on(command, work, leave(9), capsys)
    images = str(data / "imagesTr")
    for workers in ("0", "1"):
        shutil.rmtree(work / "out", ignore_errors=True)
        command = ["predict", "-m", str(model), "-i", images, "-o", str(work / "out"), "--workers", workers]
        is_refused_and_goes_on(command, work, leave(9), capsys)
        assert len(list((work / "out").glob("*.nii.gz"))) == 4
