"""The whole way where /dev/shm is small, as in a container, whose default is 64 MB."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_balls import make_dataset

SHRUNK = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=256k tmpfs /dev/shm && exec "$@"', "sh"]
SEGTL = [sys.executable, "-m", "seg_transfer"]


def can_shrink() -> bool:
    try:
        return subprocess.run([*SHRUNK, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not can_shrink(), reason="needs the right to mount a small /dev/shm in a namespace of its own")
def test_every_command_works_with_little_shared_memory(tmp_path: Path) -> None:
    """256 kB; each of the four volumes has more."""
    data = make_dataset(tmp_path / "data")
    for file in sorted(data.glob("*/*.nii.gz")):
        image = nibabel.load(file)
        large = np.resize(np.asanyarray(image.dataobj), (64, 64, 24))
        nibabel.save(nibabel.Nifti1Image(large, image.affine), file)
    plan = [
        "plan",
        data,
        "--config",
        "2d",
        "--weights",
        "none",
        "--time-budget",
        "2s",
        "--folds",
        "2",
        "--workers",
        "2",
    ]
    commands: list[list] = [
        plan,
        ["train", "0", "--device", "cpu", "--workers", "2"],
        ["predict", "-i", data / "imagesTr", "-o", tmp_path / "out", "--device", "cpu", "--workers", "2"],
        ["evaluate", tmp_path / "out", data / "labelsTr", "--workers", "2"],
    ]
    for command in commands:
        words = [*SHRUNK, *SEGTL, *map(str, command), "-w", str(tmp_path / "work")]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 4
