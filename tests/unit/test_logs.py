"""What is recorded of a training: the table, TensorBoard's events, the plot."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image as Raster
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seg_transfer.training.history import Row, TensorBoard, flat, mean_dice, write_csv
from seg_transfer.training.progress_plot import draw_progress


def a_row(
    epoch: int,
    *,
    loss: float | None = 1.0,
    validation: float | None = 1.2,
    dice: float | None = 0.5,
    top: str = "frozen",
) -> Row:
    return Row(
        epoch=epoch,
        step=10 * epoch,
        seconds=60.0 * epoch,
        progress=epoch / 4,
        loss=loss,
        validation_loss=validation,
        dice={"liver": dice, "spleen": None},
        rates={"decoder": 1e-3, "encoder.0": 0.0, "encoder.1": 1e-4 * epoch},
        stages={"0": "frozen", "1": top},
        skipped=0,
    )


def test_a_label_that_is_nowhere_is_left_out_of_the_mean() -> None:
    assert mean_dice(a_row(1, dice=0.25)) == 0.25
    assert mean_dice(a_row(1, dice=None)) is None


def test_the_table_has_a_row_per_epoch_and_empty_cells_for_what_is_unknown(tmp_path: Path) -> None:
    write_csv(tmp_path / "log.csv", [])
    assert not (tmp_path / "log.csv").exists()
    write_csv(tmp_path / "log.csv", [a_row(1), a_row(2, loss=None, top="warming")])
    with (tmp_path / "log.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["epoch"], first["loss"], first["dice"], first["dice liver"], first["dice spleen"]) == (
        ("1", "1.0", "0.5", "0.5", "")
    )
    assert first["validation_loss"] == "1.2"
    assert (first["frozen stages"], second["frozen stages"], second["loss"]) == ("0 1", "0", "")
    assert float(second["rate encoder.1"]) == 2e-4


def test_tensorboard_gets_every_figure_and_a_resumed_run_overwrites_what_lies_beyond(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, 0)
    for epoch in (1, 2, 3):
        board.add(a_row(epoch, loss=1 / epoch))
    board.close()
    board = TensorBoard(tmp_path, 20)  # saved after step 20, killed after step 30
    board.add(a_row(3, loss=9.0))
    board.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    figures = {"seconds", "progress", "loss", "validation_loss", "skipped", "dice", "dice/liver"}
    assert set(events.Tags()["scalars"]) == figures | {"rate/decoder", "rate/encoder.0", "rate/encoder.1"}
    losses = {event.step: event.value for event in events.Scalars("loss")}
    assert losses[10] == 1.0 and losses[30] == 9.0
    assert events.Scalars("dice/liver")[0].value == 0.5
    assert set(flat(a_row(1))) > {"dice spleen", "frozen stages"}


def test_without_tensorboard_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    board = TensorBoard(tmp_path / "events", 0)
    board.add(a_row(1))
    board.close()
    assert not (tmp_path / "events").exists()


@pytest.mark.parametrize("rows", [1, 4])
def test_the_plot_shows_what_is_frozen_when(tmp_path: Path, rows: int) -> None:
    shown = {}
    for top in ("frozen", "learning"):
        path = tmp_path / f"{top}.png"
        draw_progress(path, [a_row(epoch, top=top) for epoch in range(1, rows + 1)], title="made")
        shown[top] = np.asarray(Raster.open(path).convert("RGB")).astype(int)

    def share(plot: np.ndarray, colour: tuple[int, int, int]) -> float:
        return float((np.abs(plot - np.array(colour)).max(axis=-1) <= 2).mean())

    frozen, learning = (0x9D, 0xB7, 0xD5), (0xD9, 0x82, 0x5B)
    assert share(shown["frozen"], frozen) == pytest.approx(2 * share(shown["learning"], frozen), rel=0.1)
    assert share(shown["learning"], learning) > 20 * share(shown["frozen"], learning)
    assert share(shown["learning"], learning) > 0.02


def figure_of(rows: list[Row], monkeypatch: pytest.MonkeyPatch, path: Path, **options: Any) -> Figure:
    """The figure that is saved."""
    drawn: list[Figure] = []
    save = Figure.savefig

    def kept(figure: Figure, *arguments: Any, **keywords: Any) -> None:
        drawn.append(figure)
        save(figure, *arguments, **keywords)

    monkeypatch.setattr(Figure, "savefig", kept)
    draw_progress(path, rows, title="made", **options)
    return drawn[0]


def names_in_legend(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def test_the_plot_has_both_losses_and_the_dice_of_whole_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [a_row(epoch, loss=4 / epoch, validation=5 / epoch) for epoch in range(1, 9)]
    figure = figure_of(rows, monkeypatch, tmp_path / "p.png", scores={"liver": 0.75, "spleen": None})
    losses, dices, speeds, *_ = figure.axes
    assert losses.get_yscale() == "log" and names_in_legend(losses) == ["training", "validation\npatches"]
    stars = [line.get_ydata() for line in dices.lines if line.get_marker() == "*" and len(line.get_ydata())]
    assert [list(star) for star in stars] == [[0.75], [0.75]]  # of the liver, and the mean of what is defined
    np.testing.assert_allclose(speeds.lines[0].get_ydata(), 6.0)
    figure.canvas.draw()
    for axes in figure.axes[:2]:  # no legend lies over its curves
        assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1
    almost_equal = figure_of([a_row(1), a_row(2, loss=0.9)], monkeypatch, tmp_path / "q.png").axes[0]
    assert almost_equal.get_yscale() == "linear"


def test_runs_of_earlier_versions_are_drawn_without_validation_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = a_row(1), a_row(2, validation=3.0)
    del old["validation_loss"]
    assert names_in_legend(figure_of([old], monkeypatch, tmp_path / "p.png").axes[0]) == ["training"]
    resumed = figure_of([old, new], monkeypatch, tmp_path / "p.png").axes[0]
    np.testing.assert_array_equal(resumed.lines[1].get_ydata(), [np.nan, 3.0])
    write_csv(tmp_path / "log.csv", [old, new])
    with (tmp_path / "log.csv").open(newline="") as file:
        assert [row["validation_loss"] for row in csv.DictReader(file)] == ["", "3.0"]


def test_names_are_no_formulas_and_many_labels_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = a_row(1)
    row["dice"] = {"$\\frac$ a": 0.5, "_hidden": 0.4} | {f"label {number}": 0.3 for number in range(11)}
    figure = figure_of([row, row | {"epoch": 2, "step": 20, "seconds": 90.0}], monkeypatch, tmp_path / "p.png")
    names = names_in_legend(figure.axes[1])
    assert names[:2] == [r"\$\frac\$ a", " _hidden"] and names[-2:] == ["3 more labels", "mean"]
