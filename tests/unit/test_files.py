from __future__ import annotations

from pathlib import Path

import pytest

from seg_transfer.errors import UserError
from seg_transfer.util.files import check_file, check_folder, make_folder, write_text


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
