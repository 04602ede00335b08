"""The folder of a service is removed at its end, or, where it was killed, by the next one; no other folder is."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from served import left_folder

from seg_transfer.serving.service_folder import LOCK, remove_abandoned, service_folder
from seg_transfer.util.locks import Holder

USE = """
import sys, time
from seg_transfer.serving.service_folder import service_folder
with service_folder("serve") as folder:
    (folder / "image").write_text("of a patient")
    print(folder, flush=True)
    time.sleep(120)
"""


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_it_is_private_and_gone_afterwards(parent: Path) -> None:
    with service_folder("node") as folder:
        (own,) = parent.iterdir()
        assert own.name.startswith("segtl-node-") and folder.parent == own and list(folder.iterdir()) == []
        assert os.name != "posix" or own.stat().st_mode & 0o077 == 0
        (folder / "image").touch()
    assert list(parent.iterdir()) == []


def test_the_next_service_removes_what_a_killed_one_left(parent: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "seg_transfer")
    process = subprocess.Popen([sys.executable, "-c", USE], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    files = Path(process.stdout.readline().strip())
    with service_folder("node") as folder:
        assert (files / "image").is_file()  # its process lives
        process.kill()
        process.wait()
        process.stdout.close()
        assert (files / "image").is_file()
        with service_folder("serve"):
            assert not files.parent.exists() and folder.is_dir()
    assert str(files.parent) in caplog.text
    assert list(parent.iterdir()) == []


def test_what_is_not_known_to_be_left_stays(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = Holder.this_process()
    kept = [
        left_folder(parent, "segtl-serve-living", namespace=holder.namespace),
        left_folder(parent, "segtl-serve-elsewhere", silent=0),
        left_folder(parent, "another-left"),
        left_folder(parent / "deep", "segtl-serve-left"),
    ]
    without_lock = left_folder(parent, "segtl-serve-unlocked")
    (without_lock / LOCK).unlink()
    (parent / "segtl-serve-link").symlink_to(kept[2])
    (parent / "segtl-serve-file").touch()
    linked = left_folder(parent, "segtl-serve-linked")
    (linked / "files-y").symlink_to(kept[3] / "files-x")
    remove_abandoned(parent)
    assert not linked.exists()
    for folder in (*kept, without_lock):
        assert (folder / "files-x" / "job" / "image_0.nii").is_file()
    assert (parent / "segtl-serve-link").is_symlink() and (parent / "segtl-serve-file").is_file()
    left = left_folder(parent)
    with monkeypatch.context() as another_user:
        another_user.setattr(os, "geteuid", lambda: left.stat().st_uid + 1)
        remove_abandoned(parent)
        assert left.is_dir()
    remove_abandoned(parent)
    assert not left.exists()


def test_a_number_that_was_given_again_is_not_the_service(parent: Path) -> None:
    holder = Holder.this_process()
    if holder.started is None:
        pytest.skip("starts of processes are not known here")
    left = left_folder(parent, namespace=holder.namespace, started=holder.started - 1, silent=0)
    damaged = left_folder(parent, "segtl-serve-damaged")
    (damaged / LOCK).write_text("{")
    remove_abandoned(parent)
    assert not left.exists() and damaged.exists()  # written a moment ago, perhaps not whole yet
