"""``bench/pretrain/pretrain.py`` on made textures: learns, resumes, writes what segtl loads, says what is wrong."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from made_balls import make_dataset
from made_textures import Clock, make_pictures, pretrain_modules
from safetensors import safe_open
from safetensors.torch import load_file

from seg_transfer.cli.app import main as segtl
from seg_transfer.errors import UserError
from seg_transfer.planning.plan import Weights
from seg_transfer.transfer.encoder import Encoder
from seg_transfer.transfer.weights import load_weights

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE, BATCH = 32, 32
STEPS = 30


@pytest.fixture(scope="module")
def pre() -> Iterator[SimpleNamespace]:
    with pretrain_modules() as modules:
        yield modules


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("textures") / "textures", side=SIDE)


def job(pre, data: Path, output: Path, *, steps: int = STEPS, **changes):
    """A job of so many steps by a :class:`Clock` of one second a tick."""
    given = {"held_out": 0.25, "minutes": 2 * steps / 60, "side": SIDE, "batch": BATCH}
    return pre.job.Job(data=data, output=output, **given | changes)


@pytest.fixture(scope="module")
def made(pre, pictures, tmp_path_factory) -> SimpleNamespace:
    """A finished encoder."""
    torch.set_num_threads(1)
    asked = job(pre, pictures, tmp_path_factory.mktemp("made") / "textures18")
    before = sorted(pictures.rglob("*"))
    facts = pre.pretrain.pretrain(asked, device="cpu", clock=Clock())
    assert sorted(pictures.rglob("*")) == before, "the data folder is left as it was"
    return SimpleNamespace(job=asked, facts=facts)


def test_textures_never_seen_are_told_apart(made):
    assert made.facts.chance == pytest.approx(1 / 3)
    assert made.facts.top1 > 0.7
    assert made.facts.state.step == STEPS


def test_files_are_weights_card_and_the_decoded_pictures(made):
    folder = made.job.output.parent
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


def test_statistics_kept_are_those_of_plain_training_pictures(pre, made):
    state = load_file(made.job.weights_file)
    data = pre.job.Data.of(made.job)
    rows = pre.pretrain.statistics_rows(data.train, BATCH, made.job.seed)
    assert len(rows) == made.facts.statistics == 128
    known = made.facts.known
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
        f"{STEPS * BATCH / 135:.1f} epochs: {STEPS} steps in 60 s",
        "peak rate 0.05",
        "side 20, then 26, then 32",
        "re-estimated at the end on 128 training images at 32",
        f"top-1 {made.facts.top1:.3f} on 45 images held out",
        "(always guessing the most frequent class: 0.333)",
        "50% of the time to draw them",
        "## Terms",
    ):
        assert figure in text
    assert "top-5" not in text
    assert str(made.job.output.parent) not in text


def test_a_result_is_not_overwritten_unasked(pre, made):
    with pytest.raises(UserError, match="is there already"):
        pre.pretrain.pretrain(made.job, device="cpu", clock=Clock())


class Recorder:
    """A learner's place that notes what it is given."""

    device = torch.device("cpu")

    def __init__(self, loss: float = 1.0) -> None:
        self.loss, self.seen = loss, []

    def step(self, pictures, labels, rate):
        self.seen.append((pictures.shape[-1], rate, labels.tolist(), pictures.sum().item()))
        return self.loss


def test_time_decides_rate_and_side_and_checkpoints_come_every_three_minutes(pre, pictures, tmp_path):
    asked = job(pre, pictures, tmp_path / "out", minutes=20, rate=2.0)
    recorder, state, saved = Recorder(), pre.job.State(), []
    data = pre.job.Data.of(asked)
    pre.pretrain.learn(recorder, asked, data, state, lambda: saved.append(state.seconds), Clock(30))
    sides, rates, *_ = zip(*recorder.seen, strict=True)
    assert sides == (20,) * 9 + (26,) * 5 + (32,) * 6
    assert rates[:2] == pytest.approx([0.2, 2 * (0.1 + 0.9 * 0.05 / 0.06)])
    assert rates[10] == pytest.approx(1 + np.cos(np.pi * 0.44 / 0.94))
    assert state.step == 20 and state.seconds == 1200 and state.drawing == 600
    assert saved == [180, 360, 540, 720, 900, 1080, 1200]


def test_every_picture_is_seen_once_before_one_is_seen_twice(pre, pictures, tmp_path):
    asked = job(pre, pictures, tmp_path / "out", batch=45)
    data = pre.job.Data.of(asked)
    labels = [data.batch(asked, step, 20, torch.device("cpu"))[1] for step in range(3)]
    assert torch.cat(labels).bincount().tolist() == [45, 45, 45]


def test_a_loss_that_is_not_finite_ends_it(pre, pictures, tmp_path):
    asked = job(pre, pictures, tmp_path / "out")
    with pytest.raises(UserError, match="not finite after 0 steps"):
        pre.pretrain.learn(Recorder(np.nan), asked, pre.job.Data.of(asked), pre.job.State(), lambda: None, Clock())


class Interrupting(Clock):
    """A clock during whose seventh reading, in the third step, somebody presses Ctrl-C."""

    def __call__(self) -> float:
        if self.reads == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return super().__call__()


def test_an_interrupted_training_goes_on_as_if_nothing_had_been(pre, pictures, tmp_path, monkeypatch):
    seen: list[tuple] = []
    step = pre.learner.Learner.step

    def noting(self, images, labels, rate):
        loss = step(self, images, labels, rate)
        seen.append((images.shape[-1], rate, labels.tolist(), loss))
        return loss

    monkeypatch.setattr(pre.learner.Learner, "step", noting)
    whole, parts = (job(pre, pictures, tmp_path / name, steps=6, batch=8) for name in ("whole", "parts"))
    pre.pretrain.pretrain(whole, device="cpu", clock=Clock())
    uninterrupted, seen = seen, []
    with pytest.raises(KeyboardInterrupt):
        pre.pretrain.pretrain(parts, device="cpu", clock=Interrupting())
    assert len(seen) == 3 and not parts.weights_file.exists()
    other = job(pre, pictures, tmp_path / "parts", steps=6, batch=9)
    with pytest.raises(UserError, match=r"was started with batch 8 \(now 9\), rate 0.0125 \(now 0.0140625\)"):
        pre.pretrain.pretrain(other, device="cpu", clock=Clock())
    facts = pre.pretrain.pretrain(parts, device="cpu", clock=Clock())
    assert facts.state == pre.job.State(step=6, seconds=12, drawing=6)
    assert seen == uninterrupted
    one, two = load_file(whole.weights_file), load_file(parts.weights_file)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not parts.resume_file.exists()


def test_a_folder_of_its_own_for_validation(pre, pictures, tmp_path):
    make_pictures(tmp_path / "val", count=2, seed=5)
    shutil.rmtree(tmp_path / "val" / "checks")
    data = pre.job.Data.of(job(pre, pictures, tmp_path / "out", val=tmp_path / "val"))
    assert len(data.train) == 180
    assert data.labels[data.validation].tolist() == [1, 1, 2, 2]
    (tmp_path / "val" / "waves").rename(tmp_path / "val" / "wafes")
    with pytest.raises(UserError, match="wafes: no class of --data has this name"):
        pre.job.Data.of(job(pre, pictures, tmp_path / "out", val=tmp_path / "val"))


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "data: there is no such folder"),
        (emptied, "data: has no sub-folders"),
        (lambda data: [shutil.rmtree(data / name) for name in ("waves", "noise")], "has one class only, 'checks'"),
        (lambda data: emptied(data / "waves"), "waves: has no pictures"),
        (lambda data: (data / "waves" / "001.png").unlink(), "waves: has one picture only"),
        (lambda data: (data / "waves" / "001.png").write_text("x"), "waves/001.png: cannot be read"),
    ],
)
def test_mistakes_in_the_data_are_said_in_one_message(pre, tmp_path, capsys, spoil, message):
    data = make_pictures(tmp_path / "data", count=2)
    spoil(data)
    assert pre.pretrain.main(["--data", str(data), "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert [path for path in tmp_path.rglob("*") if path.is_file() and data not in path.parents] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--minutes", "0"], "--minutes: 0 is too small"),
        (["--side", "16"], "--side: 16 is too small"),
        (["--held-out", "1"], "--held-out: 1 is not between 0 and 1"),
        (["--arch", "alexnet"], "alexnet is not one of timm's networks"),
        (["-o", "{data}/out"], "out: lies in the folder of pictures"),
    ],
)
def test_impossible_options_are_refused(pre, pictures, tmp_path, capsys, options, message):
    given = [option.format(data=pictures) for option in options]
    assert pre.pretrain.main(["--data", str(pictures), "-o", str(tmp_path / "out"), *given]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
