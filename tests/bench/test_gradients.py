"""Gradients of each stage after some steps of the decoder alone."""

from __future__ import annotations

import gradients
import numpy as np
import pytest
import torch
from gradients import measure_gradients, split_cases, stage_gradients
from made_plans import data_plan, model_plan, plan

from seg_transfer.data.image import image_from_array
from seg_transfer.errors import UserError
from seg_transfer.planning.plan import Plan, Strategy, Weights
from seg_transfer.preprocessing.store import Store
from seg_transfer.preprocessing.transform import CaseTransform
from seg_transfer.training.batches import Batch
from seg_transfer.training.trainer import Trainer

CASES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Bright boxes in noise."""
    data = data_plan(
        cases=CASES, axes=(0, 1, 2), labels=[{"name": n, "value": v} for v, n in enumerate(("none", "box"))]
    )
    made = Store.create(tmp_path_factory.mktemp("store") / "x", data)
    for seed, case in enumerate(CASES):
        draw = np.random.default_rng(seed)
        label = np.zeros((4, 32, 32), np.uint8)
        top, left = draw.integers(0, 16, 2)
        label[:, top : top + 14, left : left + 14] = 1
        image = image_from_array(3 * label + draw.normal(size=label.shape), (3.0, 1.0, 1.0))
        transform = CaseTransform.fit(image, data)
        made.add(case, transform.slabs(image), label, transform)
    return made


def made_plan(store: Store, *, kind: str = "finetune", batchnorm: str = "source", weights: str = "bundled") -> Plan:
    strategy = Strategy(kind=kind, encoder_lr_ratio=1, batchnorm=batchnorm)
    return plan(store.data, model_plan("2d", (1, 32, 32), weights=Weights(source=weights)), strategy=strategy)


def batches(*seeds: int) -> list[Batch]:
    made = []
    for seed in seeds:
        draw = torch.Generator().manual_seed(seed)
        label = (torch.rand(2, 1, 32, 32, generator=draw) > 0.5).long()
        made.append(Batch(torch.randn(2, 1, 1, 32, 32, generator=draw) + label.unsqueeze(1), label))
    return made


@pytest.fixture
def trainer(store: Store) -> Trainer:
    return Trainer(made_plan(store), seed=0, device="cpu", load=True)


def test_identical_halves_agree_and_opposite_gradients_disagree(trainer: Trainer) -> None:
    _, norms, cosines = stage_gradients(trainer, batches(0, 1), batches(0, 1))
    assert cosines == pytest.approx((1, 1)) and all(norm > 0 for norm in norms)
    original = trainer.loss
    signs = iter((1, -1))
    trainer.loss = lambda image, label: next(signs) * original(image, label)  # type: ignore[method-assign]
    _, norms, cosines = stage_gradients(trainer, batches(0), batches(0))
    assert cosines == pytest.approx((-1, -1)) and norms == pytest.approx((0, 0), abs=1e-9)


def test_relative_norm_is_that_of_gradient_over_parameters(trainer: Trainer) -> None:
    loss, norms, _ = stage_gradients(trainer, batches(0), batches(0))
    expected = trainer.loss(*batches(0)[0])
    assert loss == pytest.approx(expected.item())
    expected.backward()
    for stage, norm in zip(trainer.network.encoder.stage_modules(), norms, strict=True):
        kernels = [p for p in stage.parameters() if p.ndim == 4]
        gradient, size = (torch.cat([t.detach().flatten() for t in ts]) for ts in ([p.grad for p in kernels], kernels))
        assert norm == pytest.approx(float(gradient.norm() / size.norm()), rel=1e-4)


def test_a_stage_whose_kernels_are_twice_as_large_wants_a_quarter(trainer: Trainer) -> None:
    """Behind a BatchNorm with statistics to match, larger kernels change nothing but their own gradient."""
    _, before, cosines_before = stage_gradients(trainer, batches(0), batches(1))
    stage = trainer.network.encoder.stage_modules()[1]
    norms = [module for module in stage.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for parameter in stage.parameters():
            if parameter.ndim == 4:
                parameter *= 2
        for norm in norms:
            norm.running_mean *= 2
            norm.running_var *= 4
            norm.running_var += 3 * norm.eps  # BatchNorm adds its epsilon to the variance
    _, after, cosines_after = stage_gradients(trainer, batches(0), batches(1))
    assert after[1] == pytest.approx(before[1] / 4, rel=1e-3)
    assert after[0] == pytest.approx(before[0], rel=1e-3)
    assert cosines_after == pytest.approx(cosines_before, abs=1e-3)


def test_a_stage_without_influence_wants_nothing(trainer: Trainer) -> None:
    with torch.no_grad():
        for name, parameter in trainer.network.named_parameters():
            if not name.startswith("encoder."):
                parameter.zero_()
    _, norms, cosines = stage_gradients(trainer, batches(0), batches(1))
    assert norms == (0, 0) and cosines == (0, 0)


def test_measured_of_a_plan_and_the_same_again(store: Store) -> None:
    found = measure_gradients(made_plan(store), store, CASES, seed=0, device="cpu", steps=3, batches=2)
    assert (found.steps, found.batches) == (3, 2)
    assert len(found.relative_norm) == len(found.agreement) == 2
    assert all(norm > 0 for norm in found.relative_norm) and all(-1 <= cosine <= 1 for cosine in found.agreement)
    assert measure_gradients(made_plan(store), store, CASES, seed=0, device="cpu", steps=3, batches=2) == found


@pytest.mark.parametrize(("batchnorm", "moves"), [("source", False), ("recalibrated", True), ("trained", True)])
def test_only_the_decoder_learns_and_batchnorm_does_as_the_plan_says(
    store: Store, batchnorm: str, moves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def look(trainer: Trainer, one: list[Batch], other: list[Batch]) -> tuple:
        seen.append({name: tensor.clone() for name, tensor in trainer.network.state_dict().items()})
        return 1.0, (1.0, 1.0), (0.0, 0.0)

    monkeypatch.setattr(gradients, "stage_gradients", look)
    made = made_plan(store, batchnorm=batchnorm)
    measure_gradients(made, store, CASES, seed=0, device="cpu", steps=2, batches=1)
    start = Trainer(made, seed=0, device="cpu", load=True).network.state_dict()
    changed = {name for name, tensor in seen[0].items() if not torch.equal(tensor, start[name])}
    statistics = {name for name in changed if "running" in name or "batches_tracked" in name}
    assert bool(statistics) == moves
    assert any(name.startswith("blocks.") for name in changed)
    assert all(name in statistics or not name.startswith("encoder.") for name in changed)


def test_scratch_is_measured_on_its_random_encoder(store: Store) -> None:
    made = made_plan(store, kind="scratch", batchnorm="trained", weights="none")
    found = measure_gradients(made, store, CASES, seed=0, device="cpu", steps=2, batches=1)
    assert all(norm > 0 for norm in found.relative_norm)


def test_halves_are_all_cases_once() -> None:
    one, other = split_cases(list("abcde"), seed=0)
    assert (len(one), len(other)) == (3, 2) and sorted(one + other) == list("abcde")
    assert split_cases(list("abcde"), seed=0) == (one, other)
    assert any(split_cases(list("abcde"), seed=seed) != (one, other) for seed in range(1, 4))


def test_one_case_has_no_halves(store: Store) -> None:
    with pytest.raises(UserError, match="only one case"):
        measure_gradients(made_plan(store), store, ["a"], seed=0, device="cpu")
