"""Progress, the learning rate over it, and averaged weights."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from seg_transfer.training.ema import AveragedNetwork
from seg_transfer.training.schedule import Budget, rate_factor


def test_progress_is_the_larger_of_steps_done_and_time_used() -> None:
    assert Budget(steps=100, seconds=None).progress(25, 1e9) == 0.25
    assert Budget(steps=None, seconds=60).progress(10**9, 15) == 0.25
    assert Budget(steps=100, seconds=60).progress(50, 15) == 0.5
    assert Budget(steps=100, seconds=60).progress(10, 45) == 0.75
    assert Budget(steps=100, seconds=60).progress(10, 70) == 1.0


def test_the_rate_climbs_then_decays_to_zero() -> None:
    assert rate_factor(0.0, 0.1) == pytest.approx(0.1)
    assert rate_factor(0.05, 0.1) == pytest.approx(0.55)
    assert rate_factor(0.1, 0.1) == 1.0
    assert rate_factor(0.55, 0.1) == pytest.approx(0.5**0.9)
    assert rate_factor(1.0, 0.1) == 0.0
    factors = [rate_factor(p / 1000, 0.1) for p in range(1001)]
    assert max(abs(b - a) for a, b in pairwise(factors)) < 0.01  # no jump anywhere


def test_a_schedule_without_or_with_nothing_but_warmup() -> None:
    assert rate_factor(0.0, 0.0) == 1.0
    assert rate_factor(0.5, 1.0) == pytest.approx(0.55)
    assert rate_factor(1.0, 1.0) == 1.0


def test_the_average_reaches_back_a_ninth_of_the_steps_at_most() -> None:
    network = nn.BatchNorm1d(1)
    averaged = AveragedNetwork(network, decay=0.99)
    for step in range(100):
        with torch.no_grad():
            network.weight.fill_(step + 1.0)
        averaged.update(network, step)
    lag = 100 - averaged.network.weight.item()
    assert 5 < lag < 100 / 9

    expected = 1.0
    for step in range(100):
        decay = min(0.99, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1)
    assert averaged.network.weight.item() == pytest.approx(expected, rel=1e-5)


def test_the_average_has_statistics_of_its_own_and_follows_in_counts() -> None:
    network = nn.BatchNorm1d(3).train()
    averaged = AveragedNetwork(network, decay=0.5)
    network(torch.randn(50, 3) + 4)
    averaged.update(network, 100)
    assert torch.allclose(averaged.network.running_mean, network.running_mean / 2)
    assert torch.equal(averaged.network.num_batches_tracked, network.num_batches_tracked)
    assert not averaged.network.training and not averaged.network.weight.requires_grad


def test_what_does_not_change_stays_equal_to_the_bit() -> None:
    network = nn.Conv2d(3, 20, 3)
    averaged = AveragedNetwork(network, decay=0.99)
    for step in range(50):
        averaged.update(network, step)
    assert torch.equal(averaged.network.weight, network.weight)


def test_without_decay_the_average_is_the_network() -> None:
    network = nn.Conv2d(3, 20, 3)
    averaged = AveragedNetwork(network, decay=0.0)
    nn.init.normal_(network.weight)
    averaged.update(network, 7)
    assert torch.equal(averaged.network.weight, network.weight)
