"""Signals during training are put off to the end of a step."""

from __future__ import annotations

import signal

import pytest

from seg_transfer.training.interrupt import stop_requests
from seg_transfer.util.signals import ENDING


@pytest.mark.parametrize("number", [signal.SIGINT, *ENDING])
def test_the_first_signal_is_recorded_and_the_second_interrupts(number: signal.Signals) -> None:
    before = signal.signal(number, signal.default_int_handler)
    try:
        with stop_requests() as stop:
            assert not stop.requested
            signal.raise_signal(number)
            assert stop.requested
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As SIGHUP of a training under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_signal_of_schedulers_counts() -> None:
    assert signal.SIGUSR1 in ENDING
