"""What the user sees goes to stderr, and is quiet when asked to be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rich.console import Console

from seg_transfer.util import progress


@pytest.fixture(autouse=True)
def usual_verbosity() -> Iterator[None]:
    progress.set_verbosity(0)
    yield
    progress.set_verbosity(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only the test moves."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_track_passes_items_on_and_says_when_done(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    for item in progress.track(iter("abcd"), total=4, title="reading"):
        seen.append(item)
        clock[0] += 4
    assert seen == list("abcd")
    out, err = capsys.readouterr()
    assert out == ""
    # 4 s an item: the first line is due after 12 s, with one item of 4 s left.
    assert err.splitlines() == ["reading: 3/4, 4.0 s left", "reading: 4/4 in 16 s"]


def test_meter_shows_percent_and_note(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.meter(total=1.0, title="training") as show:
        clock[0] += 30
        show(0.25, "loss 0.5")
        clock[0] += 1
        show(1.0, "loss 0.1")
    assert capsys.readouterr().err.splitlines() == [
        "training: 25 %, 90 s left, loss 0.5",
        "training: 100 % in 31 s, loss 0.1",
    ]


def test_unfinished_work_is_not_said_to_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        for _ in progress.track([1, 2], total=2, title="dividing"):
            with progress.meter(total=3, title="inner"):
                raise ZeroDivisionError
    assert capsys.readouterr().err == ""


def test_quiet_says_warnings_alone(capsys: pytest.CaptureFixture[str]) -> None:
    progress.set_verbosity(-1)
    progress.say("said")
    progress.detail("detailed")
    progress.warn("[careful]")
    assert list(progress.track([1], total=1, title="counting")) == [1]
    assert capsys.readouterr().err == "warning: [careful]\n"


def test_details_only_when_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    progress.detail("hidden")
    progress.set_verbosity(1)
    progress.detail("shown")
    assert capsys.readouterr().err == "shown\n"


def test_bars_within_bars_share_one_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "console", Console(force_terminal=True, stderr=True))
    outer = progress.track([1, 2], total=2, title="folds")
    next(outer)
    display = progress._shown
    assert display is not None
    with progress.meter(total=5, title="epochs") as show:
        assert progress._shown is display
        show(3, "loss")
        assert [(task.description, task.completed) for task in display.tasks] == [("folds", 0), ("epochs", 3)]
    assert len(display.tasks) == 1
    assert list(outer) == [2]
    assert progress._shown is None
