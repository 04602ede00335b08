from __future__ import annotations

import os
from pathlib import Path

import pytest

from seg_transfer.errors import UserError
from seg_transfer.util import local_files
from seg_transfer.util.files import whole_file, write_text
from seg_transfer.util.local_files import check_file, check_folder, make_folder, remove_temporaries


def test_a_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_file_where_a_folder_is_needed_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(UserError, match="this is a file, a folder is needed"):
        check_folder(file)
    with pytest.raises(UserError, match=r"file is a file"):
        write_text(file / "below" / "plan.json", "{}")
    assert file.read_text() == "mine"


def test_a_folder_where_a_file_is_needed_is_named(tmp_path: Path) -> None:
    for refuse in (check_file, lambda path: write_text(path, "text")):
        with pytest.raises(UserError, match="a file is needed") as error:
            refuse(tmp_path)
        assert error.value.where == tmp_path


def test_a_temporary_name_is_never_used_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In two containers the processes have the same number."""
    monkeypatch.setattr("os.getpid", lambda: 1)
    path = tmp_path / "ct.nii.gz"
    with whole_file(path) as first, whole_file(path) as second:
        assert first != second and first.name.endswith("ct.nii.gz")
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_a_long_name_has_a_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / f"{'ä' * 120}.nii.gz"
    write_text(path, "{}")
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_disk_before_it_replaces_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    monkeypatch.setattr("os.fsync", lambda descriptor: done.append(str(Path(f"/proc/self/fd/{descriptor}").readlink())))
    monkeypatch.setattr(Path, "replace", lambda self, target: done.append(f"{self} -> {target}"))
    write_text(tmp_path / "plan.json", "{}")
    temporary = done[0]
    assert done == [temporary, f"{temporary} -> {tmp_path / 'plan.json'}", str(tmp_path)]


def renamed(temporary: Path, **parts: str) -> Path:
    """A temporary file as another process names it."""
    names = ["namespace", "pid", "started", "token", "end"]
    values = dict(zip(names, temporary.name.removeprefix(".segtl-").split("-"), strict=True)) | parts
    return temporary.with_name(".segtl-" + "-".join(values[name] for name in names))


def test_temporaries_of_the_dead_are_removed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "plan.json") as temporary:
        raise KeyboardInterrupt
    living = renamed(temporary, token="00000000")
    dead = renamed(temporary, started="1")
    elsewhere, long_ago = (renamed(temporary, namespace="00000000", token=token) for token in ("aaaaaaaa", "bbbbbbbb"))
    former = tmp_path / ".segtl-0123456789abcdef-plan.json"  # of a release whose names told no process
    paths = (living, dead, elsewhere, long_ago, former, tmp_path / ".mine")
    for path in paths:
        path.touch()
    for path in (living, long_ago, former):
        os.utime(path, (5, 5))
    remove_temporaries(tmp_path, of_dead=True)
    assert set(tmp_path.iterdir()) == {living, elsewhere, tmp_path / ".mine"}
    remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".mine"]
    remove_temporaries(tmp_path / "nowhere")


def test_the_first_file_that_a_process_writes_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    with whole_file(tmp_path / "first") as temporary:
        temporary.touch()
        left = renamed(temporary, started="1")
        left.touch()
    assert left.exists()  # made after this process looked
    local_files._tidied.clear()
    write_text(tmp_path / "second", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_what_a_library_makes_beside_its_file_goes_with_it(tmp_path: Path) -> None:
    with whole_file(tmp_path / "model", apart=True) as temporary:
        temporary.write_text("whole")
        temporary.with_name(".tmpabc").touch()
        left = renamed(temporary.parent, started="1")
        left.mkdir()
        (left / ".tmpdef").touch()
    assert (tmp_path / "model").read_text() == "whole"
    remove_temporaries(tmp_path, of_dead=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
