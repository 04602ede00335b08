"""`segtl pretrain` on made textures: learns, resumes, writes weights that segtl loads, names mistakes."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from made_balls import make_dataset
from made_textures import Clock, make_images
from safetensors import safe_open
from safetensors.torch import load_file

from seg_transfer.cli.app import main as segtl
from seg_transfer.errors import UserError
from seg_transfer.options.pretrain_options import PretrainOptions
from seg_transfer.planning.plan import Weights
from seg_transfer.pretraining import fit
from seg_transfer.pretraining.job import Job, PretrainState, SplitImages
from seg_transfer.pretraining.learner import Learner
from seg_transfer.transfer.encoder import Encoder
from seg_transfer.transfer.weights import load_weights

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE, BATCH = 32, 32
STEPS = 20


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("textures") / "textures", side=SIDE)


def job(data: Path, output: Path, *, steps: int = STEPS, **changes) -> Job:
    """A job of so many steps by a :class:`Clock` of one second a tick."""
    given = {"held_out": 0.25, "time_budget": 2 * steps, "side": SIDE, "batch_size": BATCH, "device": "cpu"}
    if "val" in changes:
        del given["held_out"]
    return Job(PretrainOptions(images=data, output=output, **given | changes))


@pytest.fixture(scope="module")
def made(images, tmp_path_factory) -> SimpleNamespace:
    """A finished encoder."""
    torch.set_num_threads(1)
    asked = job(images, tmp_path_factory.mktemp("made") / "textures18")
    before = sorted(images.rglob("*"))
    facts = fit.fit(asked, clock=Clock()).facts
    assert sorted(images.rglob("*")) == before, "the data folder is left as it was"
    return SimpleNamespace(job=asked, facts=facts)


def test_textures_never_seen_are_told_apart(made):
    assert made.facts.chance == pytest.approx(1 / 3)
    assert made.facts.top1 > 0.7
    assert made.facts.state.step == STEPS


def test_files_are_weights_card_and_the_decoded_images(made):
    folder = made.job.weights_file.parent
    assert sorted(path.name for path in folder.iterdir()) == [
        "textures18.md",
        "textures18.safetensors",
        "textures18.work",
    ]
    assert [path.suffix for path in made.job.work.iterdir()] == [".npy"]
    assert made.job.weights_file.stat().st_mode & 0o777 == made.job.card_file.stat().st_mode & 0o777


def test_weights_are_timms_in_half_precision_with_a_header(made):
    state = load_file(made.job.weights_file)
    network = timm.create_model("resnet18", pretrained=False, num_classes=3)
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in network.state_dict().items()
    }
    assert {tensor.dtype for tensor in state.values()} == {torch.float16, torch.int64}
    with safe_open(made.job.weights_file, "pt") as file:
        header = file.metadata()
    assert header["architecture"] == "resnet18 (timm)"
    assert header["val_top1"] == f"{made.facts.top1:.4f}"
    assert header["data"] == "textures (135 images of 3 classes, 32x32)"


def test_statistics_kept_are_those_of_plain_training_images(made):
    state = load_file(made.job.weights_file)
    data = SplitImages.of(made.job)
    rows = fit.statistics_rows(data.train, BATCH, made.job.options.seed)
    assert len(rows) == made.facts.statistics == 128
    known = made.facts.encoder
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (known.mean, known.std))
    plain = (torch.from_numpy(data.pixels[rows]).float() / 255 - mean) / std
    seen = torch.nn.functional.conv2d(plain, state["conv1.weight"].float(), stride=2, padding=3)
    scale = seen.std((0, 2, 3))
    assert ((state["bn1.running_mean"].float() - seen.mean((0, 2, 3))).abs() < 0.01 * scale + 1e-3).all()
    torch.testing.assert_close(state["bn1.running_var"].float(), seen.var((0, 2, 3)), rtol=0.03, atol=1e-3)


def test_segtl_loads_all_of_it(made, tmp_path):
    encoder = Encoder("resnet18", channels=3)
    report = load_weights(encoder, Weights(source="file", path=str(made.job.weights_file)), "resnet18")
    assert report.share == 1.0 and not report.adapted
    assert {name.split(".")[0] for name in report.unused} == {"fc"}
    data = make_dataset(tmp_path / "balls")
    weights = ["--encoder", "resnet18", "--weights", str(made.job.weights_file)]
    local = ["--folds", "2", "--device", "cpu", "--workers", "0", "-q"]
    assert segtl(["plan", str(data), "-w", str(tmp_path / "work"), "--config", "2d", *weights, *local]) == 0
    assert str(made.job.weights_file) in (tmp_path / "work" / "plan.json").read_text(encoding="utf-8")


def test_card_has_the_figures(made):
    text = made.job.card_file.read_text(encoding="utf-8")
    for figure in (
        "135 images of 3 classes (checks, noise, waves)",
        f"{STEPS * BATCH / 135:.1f} epochs: {STEPS} steps in {2 * STEPS} s",
        "peak rate 0.05",
        "side 20, then 26, then 32",
        "BatchNorm recalibrated at the end on 128 training images at 32",
        f"top-1 {made.facts.top1:.3f} on 45 images held out",
        "(always guessing the most frequent class: 0.333)",
        "50% of the time to load them",
        "## Terms",
    ):
        assert figure in text
    assert "top-5" not in text
    assert str(made.job.weights_file.parent) not in text


def test_a_result_is_not_overwritten_unasked(made):
    with pytest.raises(UserError, match="exists already"):
        fit.fit(made.job, clock=Clock())


class Recorder:
    """A learner's place that notes what it is given."""

    device = torch.device("cpu")

    def __init__(self, loss: float = 1.0) -> None:
        self.loss, self.seen = loss, []

    def step(self, images, labels, rate):
        self.seen.append((images.shape[-1], rate, labels.tolist(), images.sum().item()))
        return self.loss


def test_time_decides_rate_and_side_and_checkpoints_come_every_three_minutes(images, tmp_path):
    asked = job(images, tmp_path / "out", time_budget=1200, rate=2.0)
    recorder, state, saved = Recorder(), PretrainState(), []
    data = SplitImages.of(asked)
    fit.learn(recorder, asked, data, state, lambda: saved.append(state.seconds), Clock(30))
    sides, rates, *_ = zip(*recorder.seen, strict=True)
    assert sides == (20,) * 9 + (26,) * 5 + (32,) * 6
    assert rates[:2] == pytest.approx([0.2, 2 * (0.1 + 0.9 * 0.05 / 0.06)])
    assert rates[10] == pytest.approx(1 + np.cos(np.pi * 0.44 / 0.94))
    assert state.step == 20 and state.seconds == 1200 and state.drawing == 600
    assert saved == [180, 360, 540, 720, 900, 1080, 1200]


def test_every_image_is_seen_once_before_one_is_seen_twice(images, tmp_path):
    asked = job(images, tmp_path / "out", batch_size=45)
    data = SplitImages.of(asked)
    labels = [data.batch(asked, step, 20, torch.device("cpu"))[1] for step in range(3)]
    assert torch.cat(labels).bincount().tolist() == [45, 45, 45]


def test_a_loss_that_is_not_finite_ends_it(images, tmp_path):
    asked = job(images, tmp_path / "out")
    with pytest.raises(UserError, match="not finite after 0 steps"):
        fit.learn(Recorder(np.nan), asked, SplitImages.of(asked), PretrainState(), lambda: None, Clock())


class Interrupting(Clock):
    """A clock during whose seventh reading, in the third step, somebody presses Ctrl-C."""

    def __call__(self) -> float:
        if self.reads == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return super().__call__()


@pytest.mark.slow
def test_an_interrupted_training_goes_on_as_if_nothing_had_been(images, tmp_path, monkeypatch):
    seen: list[tuple] = []
    step = Learner.step

    def noting(self, images, labels, rate):
        loss = step(self, images, labels, rate)
        seen.append((images.shape[-1], rate, labels.tolist(), loss))
        return loss

    monkeypatch.setattr(Learner, "step", noting)
    whole, parts = (job(images, tmp_path / name, steps=6, batch_size=8) for name in ("whole", "parts"))
    fit.fit(whole, clock=Clock())
    uninterrupted, seen = seen, []
    with pytest.raises(KeyboardInterrupt):
        fit.fit(parts, clock=Interrupting())
    assert len(seen) == 3 and not parts.weights_file.exists()
    other = job(images, tmp_path / "parts", steps=6, batch_size=9)
    with pytest.raises(UserError, match=r"was started with batch_size 8 \(now 9\), rate 0.0125 \(now 0.0140625\)"):
        fit.fit(other, clock=Clock())
    facts = fit.fit(parts, clock=Clock()).facts
    assert facts.state == PretrainState(step=6, seconds=12, drawing=6)
    assert seen == uninterrupted
    one, two = load_file(whole.weights_file), load_file(parts.weights_file)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not parts.resume_file.exists()


def test_a_folder_of_its_own_for_validation(images, tmp_path):
    make_images(tmp_path / "val", count=2, seed=5)
    shutil.rmtree(tmp_path / "val" / "checks")
    data = SplitImages.of(job(images, tmp_path / "out", val=tmp_path / "val"))
    assert len(data.train) == 180
    assert data.labels[data.validation].tolist() == [1, 1, 2, 2]
    (tmp_path / "val" / "waves").rename(tmp_path / "val" / "wafes")
    with pytest.raises(UserError, match="wafes: no class of the training images has this name"):
        SplitImages.of(job(images, tmp_path / "out", val=tmp_path / "val"))


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "data: there is no such folder"),
        (emptied, "data: has no sub-folders"),
        (lambda data: [shutil.rmtree(data / name) for name in ("waves", "noise")], "has one class only, 'checks'"),
        (lambda data: emptied(data / "waves"), "waves: has no images"),
        (lambda data: (data / "waves" / "001.png").unlink(), "waves: has one image only"),
        (lambda data: (data / "waves" / "001.png").write_text("x"), "waves/001.png: cannot be read"),
    ],
)
def test_mistakes_in_the_data_are_said_in_one_message(tmp_path, capsys, spoil, message):
    data = make_images(tmp_path / "data", count=2)
    spoil(data)
    assert segtl(["pretrain", str(data), "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert [path for path in tmp_path.rglob("*") if path.is_file() and data not in path.parents] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--time-budget", "0"], "--time-budget: cannot read '0'"),
        (["--side", "16"], "--side: 16 is out of range"),
        (["--held-out", "1"], "--held-out: 1 is out of range"),
        (["--held-out", "0.2", "--val", "{data}"], "--val and --held-out exclude each other"),
        (["--encoder", "alexnet"], "alexnet is not one of timm's networks"),
        (["-o", "{data}/out"], "out: is in the folder of images"),
    ],
)
def test_impossible_options_are_refused(images, tmp_path, capsys, options, message):
    given = [option.format(data=images) for option in options]
    assert segtl(["pretrain", str(images), "-o", str(tmp_path / "out"), *given]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
