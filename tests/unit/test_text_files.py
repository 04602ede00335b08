from __future__ import annotations

from pathlib import Path

import pytest

from seg_transfer.errors import UserError
from seg_transfer.util import text_files
from seg_transfer.util.text_files import parse_json, read_json, read_text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"])
def test_text_of_any_origin(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "cases.txt"
    mark = "\ufeff" if encoding.startswith("utf-16") else ""
    path.write_bytes(f"{mark}Müller\r\n日本\n".encode(encoding))
    assert read_text(path, "hint").split() == ["Müller", "日本"]


def test_json_keeps_escaped_characters() -> None:
    assert parse_json(b'["\\u00fc \\ud83d\\ude00", "\\\\ud800"]', where="x", hint="y") == ["ü 😀", "\\ud800"]


@pytest.mark.parametrize("name", ["missing", "a" * 300, "folder"])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"cannot be read|no such file"):
        read_text(tmp_path / name, "hint")


def test_a_huge_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "LARGEST", 10)
    path = tmp_path / "a.json"
    path.write_text("[1,     2]")
    assert read_json(path, "hint") == [1, 2]
    path.write_text("[1,      2]")
    with pytest.raises(UserError, match="11 bytes are too many"):
        read_json(path, "hint")
