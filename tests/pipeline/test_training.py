"""Tiny real trainings: what lies in the run folder, kill and resume to the bit, frozen means frozen."""

from __future__ import annotations

import csv
import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_plans import learns

from seg_transfer.data.image import image_from_array
from seg_transfer.errors import UserError
from seg_transfer.options.train_options import RunOptions
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.strategy import Strategy
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.preprocessing.store import Store
from seg_transfer.training import loop
from seg_transfer.training.batches import PatchSampler
from seg_transfer.training.checkpoint import load_header, load_state, under_prefix
from seg_transfer.training.loop import train_fold
from seg_transfer.training.run_folder import RunFolder
from seg_transfer.training.trainer import Trainer

FILES = {"manifest.json", "model.safetensors", "resume.safetensors", "log.csv", "tensorboard", "progress.png"}


def make_plan(
    configuration: str = "2d", *, strategy: Strategy | None = None, weights: str = "bundled", **recipe: Any
) -> Plan:
    model: dict[str, Any] = {
        "configuration": configuration,
        "patch": {"2d": (1, 16, 24), "2.5d": (3, 16, 24), "3d": (8, 16, 24)}[configuration],
        "encoder": "tf_efficientnet_lite0",
        "weights": {"source": weights},
        "stages": 2,
        "slice_strides": (1, 2) if configuration == "3d" else (),
        "input_mapping": "as_is",
        "decoder_channels": (8, 8),
    }
    return Plan.model_validate(
        {
            "data": {
                "dataset": "balls",
                "dimension": 3,
                "unit": "mm",
                "channels": [{"name": "MR", "normalization": {"kind": "zscore"}}],
                "labels": [
                    {"name": "background", "value": 0},
                    {"name": "big", "value": 1},
                    {"name": "small", "value": 2},
                ],
                "cases": ["a", "b", "c"],
                "axes": (2, 0, 1),
                "spacing": (3.0, 1.0, 1.0),
                "crop_nonzero": False,
                "slice_order": 1,
            },
            "model": model,
            "recipe": {
                "strategy": (strategy or learns(0.0, 0.0, rate=0.5, pretrained=2)).model_dump(),
                "batch_size": 2,
                "epochs": 2,
                "steps_per_epoch": 3,
                "precision": "float32",
                "augmentation": {"mirror_axes": (1, 2)},
                "splits": [{"train": ["a", "b"], "validation": ["c"]}],
            }
            | recipe,
        }
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three cases of 10 slices: a big ball with a small one inside, in noise."""
    plan = make_plan()
    store = Store.create(tmp_path_factory.mktemp("store") / "x", plan.data)
    x, y, z = np.mgrid[:20, :28, :10]
    for seed, case in enumerate(plan.data.cases):
        draw = np.random.default_rng(seed)
        distance = np.sqrt((x - 9) ** 2 + (y - 13 - seed) ** 2 + 9 * (z - 5) ** 2)
        classes = ((distance < 8).astype(np.uint8) + (distance < 4)).astype(np.uint8)
        image = image_from_array((classes * 2 + draw.normal(0, 0.5, x.shape)).astype(np.float32), (1, 1, 3))
        transform = CaseTransform.fit(image, plan.data)
        store.add(case, transform.slabs(image), transform.label(classes), transform)
    return store


pytestmark = pytest.mark.usefixtures("one_thread")


def states(folder: Path) -> dict[str, torch.Tensor]:
    resume = load_state(folder / "resume.safetensors", "resume")[0]
    return resume | {f"model/{k}": v for k, v in load_state(folder / "model.safetensors", "model")[0].items()}


def assert_same(one: Path, other: Path) -> None:
    first, second = states(one), states(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("configuration", ["2d", "2.5d", "3d"])
def test_a_run_leaves_exactly_these_files(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture, configuration: str
) -> None:
    caplog.set_level(logging.INFO)
    plan = make_plan(configuration, precision="bfloat16")
    run = RunFolder(tmp_path / "fold_0", 0)
    result = train_fold(plan, store, run, options=RunOptions(device="cpu"))
    assert {path.name for path in run.path.iterdir()} == FILES
    assert "100.0% of the encoder's stages in use are pretrained" in caplog.text
    assert (result.finished, result.epochs, result.steps) == (True, 2, 6)
    assert result.dice is not None and all(0 <= value <= 1 for value in result.dice.values() if value is not None)

    manifest = json.loads(run.manifest.read_text())
    assert manifest["plan"] == plan.hash
    assert manifest["cases"] == {"train": ["a", "b"], "validation": ["c"]}
    assert manifest["result"]["finished"] is True and manifest["result"]["dice"] == result.dice
    assert manifest["weights"]["share"] == 1.0
    assert Plan.model_validate(load_header(run.model, "model")["plan"]) == plan

    with run.log.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["3", "6"]
    assert float(rows[0]["rate encoder.1"]) == pytest.approx(0.5 * float(rows[0]["rate decoder"]))
    assert all(np.isfinite(float(row["loss"])) for row in rows)

    before = states(run.path)
    again = train_fold(plan, store, run, options=RunOptions(device="cpu"))
    assert again == result and all(torch.equal(before[name], value) for name, value in states(run.path).items())


def test_training_lowers_the_loss(tmp_path: Path, store: Store) -> None:
    plan = make_plan(epochs=5, steps_per_epoch=10, batch_size=4, learning_rate=1e-2)
    train_fold(plan, store, RunFolder(tmp_path, 0), options=RunOptions(device="cpu"))
    rows = load_header(tmp_path / "resume.safetensors", "resume")["state"]["rows"]
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
    assert rows[-1]["dice"]["big"] > 0.6


class Killed(Exception):
    pass


STRATEGIES = [
    learns(0.0, 0.0, rate=(0.35, 0.5), pretrained=2, name="finetune"),
    learns(0.7, 0.3, rate=0.5, batchnorm="recalibrated", pretrained=2, name="gradual"),
]


@pytest.mark.parametrize(
    "strategy",
    [pytest.param(STRATEGIES[0], marks=pytest.mark.slow), STRATEGIES[1]],
    ids=[strategy.name for strategy in STRATEGIES],
)
@pytest.mark.parametrize(("how", "step"), [pytest.param("interrupted", 2, marks=pytest.mark.slow), ("killed", 4)])
def test_killed_and_resumed_equals_uninterrupted(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, strategy: Strategy, how: str, step: int
) -> None:
    plan = make_plan(strategy=strategy)
    train_fold(plan, store, RunFolder(tmp_path / "whole", 0), options=RunOptions(device="cpu"))

    original = Trainer.step

    def stopping(self: Trainer, batch: Any, at: int, progress: float) -> Any:
        if at == step:
            if how == "killed":
                raise Killed
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, at, progress)

    monkeypatch.setattr(Trainer, "step", stopping)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 0.0)
    with pytest.raises(KeyboardInterrupt if how == "interrupted" else Killed):
        train_fold(plan, store, RunFolder(tmp_path / "parts", 0), options=RunOptions(device="cpu"))
    monkeypatch.undo()
    done = load_header(tmp_path / "parts" / "resume.safetensors", "resume")["state"]["step"]
    assert done == (step + 1 if how == "interrupted" else step)
    train_fold(plan, store, RunFolder(tmp_path / "parts", 0), options=RunOptions(device="cpu", workers=1))

    assert_same(tmp_path / "whole", tmp_path / "parts")
    whole, parts = (load_header(tmp_path / n / "resume.safetensors", "resume")["state"] for n in ("whole", "parts"))
    for rows in (whole["rows"], parts["rows"]):
        for row in rows:
            del row["seconds"]
    assert whole["rows"] == parts["rows"]


def test_another_seed_or_budget_is_refused_and_restart_starts_over(tmp_path: Path, store: Store) -> None:
    plan, run = make_plan(), RunFolder(tmp_path, 0)
    first = train_fold(plan, store, run, options=RunOptions(device="cpu", epochs=1))
    assert first.steps == 3
    assert train_fold(plan, store, run, options=RunOptions(device="cpu")) == first  # the recorded budget
    with pytest.raises(UserError, match=r"started with epochs 1 \(now 3\)\n.*--restart"):
        train_fold(plan, store, run, options=RunOptions(device="cpu", epochs=3))
    with pytest.raises(UserError, match=r"started with seed 0 \(now 5\)"):
        train_fold(plan, store, run, options=RunOptions(device="cpu", seed=5))
    other = make_plan(learning_rate=2e-3, precision="bfloat16")
    with pytest.raises(UserError, match=r"started with another plan, which differs in recipe\n.*--restart"):
        train_fold(other, store, run, options=RunOptions(device="cpu"))
    again = train_fold(plan, store, run, options=RunOptions(device="cpu", seed=5, restart=True))
    assert again.steps == 6


def test_a_time_budget_is_a_whole_schedule_of_training_alone(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of its own: a step takes 1 s; validation, saving and BatchNorm's statistics take 100 s each and must
    not count."""
    clock = [0.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock[0])
    validated: list[float] = []

    def slow(function: Any, seconds: float, note: list[float] | None = None) -> Any:
        def slowed(*arguments: Any, **named: Any) -> Any:
            clock[0] += seconds
            if note is not None:
                note.append(clock[0])
            return function(*arguments, **named)

        return slowed

    monkeypatch.setattr(Trainer, "step", slow(Trainer.step, 1.0))
    monkeypatch.setattr(Trainer, "validate", slow(Trainer.validate, 100.0, validated))
    monkeypatch.setattr(Trainer, "recalibrate", slow(Trainer.recalibrate, 100.0))
    monkeypatch.setattr(loop, "save_state", slow(loop.save_state, 100.0))
    options = RunOptions(device="cpu", time_budget=12.0)
    strategy = learns(0.0, 0.0, rate=0.5, batchnorm="recalibrated", pretrained=2)
    plan = make_plan(strategy=strategy, steps_per_epoch=5, warmup=0.25)
    result = train_fold(plan, store, RunFolder(tmp_path, 0), options=options)
    assert (result.steps, result.seconds, len(validated)) == (12, 12.0, 3)
    rows = load_header(tmp_path / "resume.safetensors", "resume")["state"]["rows"]
    assert [row["progress"] for row in rows] == [5 / 12, 10 / 12, 1.0]
    peak = make_plan().recipe.learning_rate
    # a row holds the rate of its last step, which began one twelfth earlier
    expected = [peak * ((1 - done / 12) / 0.75) ** 0.9 for done in (4, 9, 11)]
    assert [row["rates"]["decoder"] for row in rows] == pytest.approx(expected)


def test_all_cases_train_in_full(tmp_path: Path, store: Store) -> None:
    result = train_fold(make_plan(), store, RunFolder(tmp_path, "full"), options=RunOptions(device="cpu", epochs=1))
    assert result.dice == {"big": None, "small": None}
    assert json.loads((tmp_path / "manifest.json").read_text())["cases"]["train"] == ["a", "b", "c"]


def test_of_frozen_stages_only_the_recalibrated_statistics_change(tmp_path: Path, store: Store) -> None:
    strategy = learns(None, 0.0, pretrained=2)
    plan = make_plan(strategy=strategy, weight_decay=0.5)
    source = Trainer(plan, seed=0, device="cpu", load=True).network.state_dict()
    states = []
    for epochs in (1, 2):
        train_fold(plan, store, RunFolder(tmp_path / str(epochs), 0), options=RunOptions(device="cpu", epochs=epochs))
        states.append(load_state(tmp_path / str(epochs) / "resume.safetensors", "resume")[0])
    for kind in ("network", "averaged"):
        short, state = (under_prefix(kind, each) for each in states)
        changed = {name for name in state if not torch.equal(state[name], source[name])}
        frozen = {name for name in state if name.startswith("encoder.stages.0.")}
        assert changed & frozen == {name for name in frozen if "running_" in name or "num_batches" in name}
        assert changed - frozen == state.keys() - frozen
        assert {name for name in state if torch.equal(state[name], short[name])} == frozen


ALL = {0, 1}
LEARNING: list[tuple[str, tuple[float | None, ...], float, set[int]]] = [
    ("scratch", (0.0, 0.0), 0.5, ALL),
    ("finetune", (0.0, 0.0), 0.5, ALL),
    ("partial", (None, 0.0), 0.5, {1}),
    ("gradual", (0.7, 0.3), 0.2, set()),
    ("gradual", (0.7, 0.3), 0.5, {1}),
    ("gradual", (0.7, 0.3), 0.9, ALL),
    ("frozen", (None, None), 0.5, set()),
]


@pytest.mark.parametrize(
    ("name", "start", "batchnorm", "progress", "learning"),
    [
        pytest.param(name, start, norm, progress, learning, id=f"{name}-{progress}-{norm}")
        for name, start, progress, learning in LEARNING
        for norm in ("source", "recalibrated", "trained")
        if (name, norm) != ("frozen", "trained")
    ],
)
def test_every_strategy_changes_what_learns_and_nothing_else(
    store: Store,
    name: str,
    start: tuple[float | None, ...],
    batchnorm: str,
    progress: float,
    learning: set[int],
) -> None:
    """To the bit, statistics, averaged weights and weight decay included."""
    pretrained = 0 if name == "scratch" else 2
    plan = make_plan(
        strategy=learns(*start, rate=0.5, batchnorm=batchnorm, pretrained=pretrained, name=name),
        weights="bundled" if pretrained else "none",
        weight_decay=0.5,
    )
    trainer = Trainer(plan, seed=0, device="cpu", load=True)
    sampler = PatchSampler(store, ("a", "b"), plan.model, batch_size=2, foreground_share=0.5, seed=0, cache_bytes=0)
    if batchnorm == "recalibrated":
        trainer.recalibrate([sampler.batch(0, "recalibrate").image])
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    norms = {
        f"{name}.{entry}"
        for name, module in trainer.network.encoder.named_modules(prefix="encoder")
        if isinstance(module, torch.nn.BatchNorm2d)
        for entry in module.state_dict()
    }
    for step in range(2):
        assert trainer.step(sampler.batch(step), step, progress).learned

    def changes(name: str) -> bool:
        if not name.startswith("encoder."):
            return True
        return int(name.split(".")[2]) in learning and (batchnorm == "trained" or name not in norms)

    expected = {name for name in before if changes(name)}
    for network in (trainer.network, trainer.averaged.network):
        after = network.state_dict()
        assert {name for name in after if not torch.equal(after[name], before[name])} == expected


def test_a_frozen_encoder_keeps_its_weights_and_recalibrated_statistics(tmp_path: Path, store: Store) -> None:
    strategy = learns(None, None, batchnorm="recalibrated", pretrained=2)
    plan = make_plan("3d", strategy=strategy, weight_decay=0.5)
    source = Trainer(plan, seed=0, device="cpu", load=True).network.state_dict()
    states = []
    for epochs in (1, 2):
        folder = tmp_path / str(epochs)
        train_fold(plan, store, RunFolder(folder, 0), options=RunOptions(device="cpu", epochs=epochs))
        states.append(load_state(folder / "resume.safetensors", "resume")[0])
    encoder = [name for name in source if name.startswith("encoder.")]
    statistics = {name for name in encoder if "running_" in name}
    for kind in ("network", "averaged"):
        short, long = (under_prefix(kind, state) for state in states)
        assert all(torch.equal(short[name], long[name]) for name in encoder)
        assert {name for name in encoder if not torch.equal(long[name], source[name])} - statistics <= {
            name for name in encoder if "num_batches_tracked" in name
        }
        assert all(not torch.equal(long[name], source[name]) for name in statistics)


def test_tasks_of_slurm_know_nothing_of_each_other(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in ``srun --ntasks 5``: Fabric would take them for one training, and refuse it."""
    task = {"SLURM_NTASKS": "5", "SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_JOB_ID": "7"}
    for name, value in (task | {"SLURM_JOB_NAME": "folds", "SLURM_NODELIST": "node1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    trainer = Trainer(make_plan(), seed=0, device="cpu", load=True)
    assert (trainer._fabric.world_size, trainer._fabric.global_rank) == (1, 0)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_convolutions_compute_in_the_planned_precision(store: Store, precision: str, deep: bool) -> None:
    plan = make_plan("3d", precision=precision, deep_supervision=deep)
    trainer = Trainer(plan, seed=0, device="cpu", load=True)
    seen = set()
    for module in trainer.network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
            module.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    sampler = PatchSampler(store, ("a",), plan.model, batch_size=2, foreground_share=0.5, seed=0, cache_bytes=0)
    assert trainer.step(sampler.batch(0), 0, 0.5).learned
    assert seen == {getattr(torch, precision)}
    assert {tensor.dtype for tensor in trainer.tensors().values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize("first", [True, False])
def test_deep_supervision_is_switched_on_an_existing_checkpoint(store: Store, first: bool) -> None:
    before, after = (
        Trainer(make_plan(deep_supervision=deep), seed=seed, device="cpu", load=True)
        for seed, deep in enumerate((first, not first))
    )
    sampler = PatchSampler(store, ("a",), before.plan.model, batch_size=2, foreground_share=0.5, seed=0, cache_bytes=0)
    assert before.step(sampler.batch(0), 0, 0.5).learned
    after.load(before.tensors())
    for saved, loaded in ((before.network, after.network), (before.averaged.network, after.averaged.network)):
        assert saved.state_dict().keys() == loaded.state_dict().keys()
        with torch.no_grad():
            assert torch.equal(saved.eval()(sampler.batch(1).image), loaded.eval()(sampler.batch(1).image))
    coarse = after.network.heads[1].weight.clone()
    assert after.step(sampler.batch(1), 1, 0.5).learned
    assert torch.equal(after.network.heads[1].weight, coarse) == first  # a head without a loss stays as it is


@pytest.mark.parametrize("largest", [1e-3, 1e6])
def test_a_gradient_is_clipped_to_the_largest_norm_of_the_plan(store: Store, largest: float) -> None:
    plan = make_plan(strategy=learns(0.0, 0.0, pretrained=2), gradient_clip=largest)
    trainer = Trainer(plan, seed=0, device="cpu", load=True)
    sampler = PatchSampler(store, ("a",), plan.model, batch_size=2, foreground_share=0.5, seed=0, cache_bytes=0)
    trainer.step(sampler.batch(0), 0, 0.5)
    gradients = [parameter.grad for parameter in trainer.network.parameters() if parameter.grad is not None]
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt().item()
    if largest == 1e-3:
        assert norm == pytest.approx(largest, rel=0.01)
    else:
        assert norm > 0.01


def test_a_loss_that_stays_infinite_is_one_clear_error(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seg_transfer.training.trainer.plan_loss", lambda outputs, *_: outputs[0].sum() * torch.inf)
    with pytest.raises(UserError, match=rf"not finite in {loop.MOST_SKIPPED} steps in a row.*\n.*learning_rate"):
        train_fold(make_plan(epochs=20), store, RunFolder(tmp_path, 0), options=RunOptions(device="cpu"))


def test_a_plan_that_unfreezes_more_stages_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"recipe\.strategy\.start: 3 entries, but model\.stages is 2"):
        make_plan(strategy=learns(0.3, 0.2, 0.1, batchnorm="source"))
