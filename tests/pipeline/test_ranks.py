"""Training by several processes equals that by one: real processes, connected by gloo on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from made_balls import make_dataset
from made_plans import learns
from made_work import LIGHT, ball_plan

import seg_transfer
from seg_transfer.data.dataset import find_dataset
from seg_transfer.planning.plan import Augmentation, Weights
from seg_transfer.planning.strategy import Strategy
from seg_transfer.training.checkpoint import load_header, load_state, under_prefix
from seg_transfer.training.run_folder import RunFolder
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.usefixtures("one_thread")

TESTS = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, str(TESTS / "rank_command.py")]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
LONGEST = 300
EPOCHS = 4
STARTED: list[subprocess.Popen[str]] = []
AUGMENTED = Augmentation(
    mirror_axes=(1, 2),
    rotate_probability=0.5,
    scale_probability=0.5,
    noise_probability=0.5,
    blur_probability=0.5,
    gamma_probability=0.5,
    low_resolution_probability=0.5,
)
GRADUAL = learns(0.7, 0.3, rate=0.5, batchnorm="source", pretrained=2, name="gradual")
FROZEN = learns(None, None, batchnorm="source", pretrained=2, name="frozen")
SCRATCH = learns(0.0, 0.0, batchnorm="trained")


@dataclass(frozen=True)
class Made:
    """A work folder with a plan of one step per epoch, so that its log has the loss of each step."""

    work: WorkFolder

    @classmethod
    def new(cls, folder: Path, strategy: Strategy = GRADUAL, *, epochs: int = EPOCHS, batch: int = 5) -> Made:
        work = WorkFolder(folder / "work")
        dataset = find_dataset(make_dataset(folder / "balls", cases=4))
        dataset.save(work.dataset)
        weights = Weights(source="bundled" if strategy.pretrained_stages else "none")
        made = ball_plan(dataset, "2d", encoder=LIGHT, weights=weights)
        recipe = {"strategy": strategy, "epochs": epochs, "steps_per_epoch": 1, "batch_size": batch}
        changed = made.recipe.model_copy(update={**recipe, "augmentation": AUGMENTED})
        made.model_copy(update={"recipe": changed}).save(work.plan)
        return cls(work)

    @property
    def run(self) -> RunFolder:
        return self.work.plan_folder(self.work.load_plan()).run(0)

    @property
    def state(self) -> dict[str, Any]:
        return dict(load_header(self.run.resume, "resume")["state"])

    def alone(self) -> Made:
        """Train in this process."""
        seg_transfer.train("0", work=self.work.path, device="cpu", workers=0)
        return self

    def start(self, *prefix: str, devices: int | None = None, **environment: str) -> subprocess.Popen[str]:
        line = [*(prefix or COMMAND), "train", "0", "-w", str(self.work.path), "--device", "cpu", "--workers", "0"]
        line += [] if devices is None else ["--devices", str(devices)]
        paths = [str(path) for path in (TESTS, TESTS.parent)]
        changed = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **environment}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True}
        process = subprocess.Popen(line, env=os.environ | changed, text=True, **pipes)  # type: ignore[call-overload]
        STARTED.append(process)
        return process

    def torchrun(self, ranks: int, **environment: str) -> tuple[int, str]:
        return ended(self.start(*TORCHRUN, str(ranks), COMMAND[1], **environment))

    def is_whole(self) -> bool:
        """No lock and nothing half-written."""
        return not [path for path in self.work.path.rglob("*") if path.suffix == ".lock" or path.name.startswith(".")]


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output."""
    text, _ = process.communicate(timeout=LONGEST)
    return process.returncode, text


@pytest.fixture(autouse=True)
def none_is_left() -> Iterator[None]:
    """End what a test that failed has started, with the processes that these have started."""
    yield
    for process in STARTED:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    STARTED.clear()


def assert_alike(one: Made, other: Made, *, tolerance: float = 1e-4) -> None:
    """The same losses, Dice and weights up to rounding."""
    first, second = (made.state["rows"] for made in (one, other))
    assert len(first) == len(second) == EPOCHS
    for name in ("loss", "validation_loss"):
        assert [row[name] for row in second] == pytest.approx([row[name] for row in first], rel=tolerance), name
    tensors, others = (under_prefix("averaged", load_state(made.run.resume, "resume")[0]) for made in (one, other))
    far = [name for name in tensors if not torch.allclose(tensors[name], others[name], rtol=1e-2, atol=tolerance)]
    assert not far


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Trained by one process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Made.new(tmp_path_factory.mktemp("alone")).alone()
    torch.set_num_threads(threads)


@pytest.mark.parametrize("how", ["forked", pytest.param("--devices", marks=pytest.mark.slow)])
def test_two_ranks_train_as_one_process_does(tmp_path: Path, expected: Made, how: str) -> None:
    """A batch of 5 has unequal shares; stages are unfrozen on the way."""
    made = Made.new(tmp_path)
    code, text = ended(made.start(RANKS="2") if how == "forked" else made.start(devices=2))
    assert code == 0, text
    assert_alike(expected, made)
    assert made.is_whole()
    assert text.count("training: 100 %") == text.count("validation on whole cases") == 1 and "rank 1" not in text
    assert json.loads(made.run.manifest.read_text())["options"]["devices"] == 2
    names, scores = ({path.name for path in each.run.validation.iterdir()} for each in (expected, made))
    assert names == scores
    mine, theirs = (json.loads(each.run.scores.read_text())["cases"] for each in (made, expected))
    assert len(mine) == len(theirs) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2), (4, 2)])
def test_another_number_of_ranks_resumes(tmp_path: Path, expected: Made, first: int, then: int) -> None:
    made = Made.new(tmp_path)
    stop = f"{first - 1} 1 SIGTERM"  # the last rank
    if first == 1:
        assert ended(made.start(RANK_SIGNAL=stop))[0] == 130
    else:
        code, text = made.torchrun(first, RANK_SIGNAL=stop)
        assert code != 0 and "interrupted" in text
    assert made.state["step"] == 2 and made.is_whole()
    code, text = made.torchrun(then)
    assert code == 0 and "resuming after step 2" in text, text
    assert_alike(expected, made)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rank"), [("SIGUSR1", 0), ("SIGINT", 0), ("SIGTERM", 1)])
def test_a_signal_stops_all_ranks_after_the_same_step(tmp_path: Path, name: str, rank: int) -> None:
    """Of processes that Slurm has started."""
    made = Made.new(tmp_path)
    signals = {"RANK_SIGNAL": f"{rank} 1 {name}"}
    both = [made.start(devices=2, **slurm(each, port=29400 + os.getpid() % 1000), **signals) for each in range(2)]
    (code, text), (other, silent) = map(ended, both)
    assert (code, other, silent) == (130, 0, ""), (text, silent)
    assert made.state["step"] == 2 and made.is_whole()


def slurm(rank: int, *, port: int) -> dict[str, str]:
    """Variables of a task of ``srun --ntasks-per-node 2``."""
    tasks = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    nodes = {"SLURM_STEP_NUM_NODES": "1", "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_NODELIST": "127.0.0.1"}
    this = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_JOB_ID": "7"}
    return tasks | nodes | this | {"MASTER_PORT": str(port)}


@pytest.mark.slow
def test_the_job_ends_when_a_rank_is_killed_and_then_resumes(tmp_path: Path) -> None:
    made = Made.new(tmp_path, epochs=1000)
    process = made.start(devices=2)
    child = follower_of(process, made)
    os.kill(child, signal.SIGKILL)
    code, text = ended(process)
    assert code == 2 and "Traceback" not in text
    assert "the process of rank 1 was killed by SIGKILL" in text and "run the same command again" in text
    assert made.is_whole()
    steps = made.state["step"]
    again = made.start(devices=2)
    while again.poll() is None and made.state["step"] <= steps:
        time.sleep(0.2)
    again.send_signal(signal.SIGTERM)
    code, text = ended(again)
    assert code == 130 and f"resuming after step {steps}" in text, text


@pytest.mark.slow
def test_no_rank_outlives_the_first_one(tmp_path: Path) -> None:
    made = Made.new(tmp_path, epochs=1000)
    process = made.start(devices=2)
    child = psutil.Process(follower_of(process, made))
    process.kill()
    child.wait(30)
    process.communicate()
    shutil.rmtree(made.run.path)  # nobody writes there any more


def follower_of(process: subprocess.Popen[str], made: Made) -> int:
    """The process that rank 0 has started, once a step is saved."""
    deadline = time.monotonic() + LONGEST
    while not made.run.resume.is_file():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.2)
    [child] = [each.pid for each in psutil.Process(process.pid).children() if "seg_transfer" in each.cmdline()]
    return child


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "tolerance"), [(FROZEN, 1e-4), (SCRATCH, 0.05)], ids=["frozen", "scratch"])
def test_other_strategies(tmp_path: Path, strategy: Strategy, tolerance: float) -> None:
    """BatchNorm that trains normalises with each rank's own samples: close, but not equal."""
    one, made = Made.new(tmp_path / "one", strategy).alone(), Made.new(tmp_path / "two", strategy)
    code, text = ended(made.start(devices=2))
    assert code == 0, text
    losses = [[row["loss"] for row in each.state["rows"]] for each in (one, made)]
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)
    if strategy is FROZEN:
        assert_alike(one, made)


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_and_an_error_before_training(tmp_path: Path) -> None:
    made = Made.new(tmp_path, batch=1)
    code, text = ended(made.start(devices=2))
    assert code == 2 and "--devices: a batch of 1 cannot be shared by 2 devices" in text, text
    made.work.plan.unlink()
    code, text = ended(made.start(devices=2))
    assert code == 2 and text.count("segtl plan") == 1 and "Traceback" not in text, text
