from __future__ import annotations

import os
from pathlib import Path

import pytest

from seg_transfer.errors import UserError
from seg_transfer.util.files import check_file, check_folder, make_folder, remove_temporaries, whole_file, write_text


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


def test_temporaries_of_the_dead_are_removed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "plan.json") as temporary:
        raise KeyboardInterrupt
    old, young = (temporary.with_name(temporary.name.replace(temporary.name[7:9], name)) for name in ("aa", "bb"))
    old.touch(), young.touch()
    os.utime(old, (5, 5))
    (tmp_path / ".mine").touch()
    remove_temporaries(tmp_path, older_than=3600)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine", young.name]
    remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".mine"]
    remove_temporaries(tmp_path / "nowhere")
