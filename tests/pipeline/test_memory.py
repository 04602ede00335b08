"""Peaks of memory in processes of their own; ``bench/memory.py`` shows them for volumes of real size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench" / "memory.py"
MB = 1e6

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system does not tell peaks")


def measured(*arguments: object) -> list[dict[str, float]]:
    command = [sys.executable, str(BENCH), *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_prediction_keeps_to_its_bytes_per_voxel() -> None:
    """The sums of 25 outputs for the whole volume would take 100 bytes per voxel, 150 MB, and the bound is 85."""
    (found,) = measured("predict", "--shape", 125, 125, 150, "--labels", 25, "--patch", 16, 50, 50)
    assert found["grid"] == 100 * 100 * 150
    assert found["bound"] == pytest.approx(2 * 25 + 4 + 1.25**2)
    assert found["over"] < found["bound"] * found["grid"]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["preprocess", "measure"])
def test_preparing_needs_at_most_three_times_the_volume(what: str) -> None:
    (found,) = measured(what, "--shape", 320, 320, 200)
    assert 0.5 < found["times_float32"] <= 3


@pytest.mark.slow
def test_a_report_needs_at_most_twice_the_volume() -> None:
    """The image, both label maps, and slabs of masks; a copy of the image for each plane would be 1 more."""
    (found,) = measured("report", "--shape", 400, 400, 300, "--labels", 4)
    assert 0.5 < found["times_float32"] <= 2


@pytest.mark.slow
def test_training_does_not_grow_with_the_number_of_volumes() -> None:
    few, many = measured("train", "--shape", 128, 128, 100, "--patch", 16, 64, 64, "--volumes", 20, 200)
    assert (few["volumes"], many["volumes"]) == (20, 200)
    assert many["over"] < few["over"] + 20 * MB
    assert many["files"] <= few["files"]
