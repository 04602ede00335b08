"""What is recorded of a training: the table, TensorBoard's events, the plot."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Raster
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seg_transfer.training.history import Row, TensorBoard, flat, mean_dice, write_csv
from seg_transfer.training.progress_plot import draw_progress


def a_row(epoch: int, *, loss: float | None = 1.0, dice: float | None = 0.5, top: str = "frozen") -> Row:
    return Row(
        epoch=epoch,
        step=10 * epoch,
        seconds=60.0 * epoch,
        progress=epoch / 4,
        loss=loss,
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
    figures = {"seconds", "progress", "loss", "skipped", "dice", "dice/liver"}
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
