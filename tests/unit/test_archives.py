"""Archives that nobody vouches for: nothing outside of the folder, and nothing without bounds."""

from __future__ import annotations

import stat
import struct
import zipfile
from pathlib import Path

import pytest

from seg_transfer.errors import UserError
from seg_transfer.util import archives
from seg_transfer.util.archives import unpack


def made(path: Path, **contents: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def unpacked(archive: Path, most: int = 10**6) -> list[Path]:
    folder = archive.with_name("folder")
    folder.mkdir()
    unpack(archive, folder, most=most)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_names_lead_nowhere(tmp_path: Path) -> None:
    names = ("../../up", "/etc/root", r"..\..\windows", "C:\\x", "a/b/ü", "a/../b", "x" * 300, "..", "dir/")
    archive = made(tmp_path / "slip.zip", **{name: name.encode() for name in names})
    files = unpacked(archive)
    assert [file.read_text() for file in files] == [name for name in names if name != "dir/"]
    assert {path.name for path in tmp_path.iterdir()} == {"slip.zip", "folder"}
    where = [file.relative_to(tmp_path / "folder").as_posix() for file in files]
    assert [where[4], where[6], where[7]] == ["000004/ü", "000006/file", "000007/file"]


def test_a_bomb(tmp_path: Path) -> None:
    bomb = made(tmp_path / "bomb.zip", zeros=bytes(10**6 + 1))
    with pytest.raises(UserError, match="its content needs"):
        unpacked(bomb)
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_bomb_that_lies_about_its_size(tmp_path: Path) -> None:
    bomb = made(tmp_path / "bomb.zip", zeros=bytes(10**6))
    content = bomb.read_bytes().replace(struct.pack("<I", 10**6), struct.pack("<I", 100))
    bomb.write_bytes(content)
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpacked(bomb)
    assert sum(path.stat().st_size for path in (tmp_path / "folder").rglob("*") if path.is_file()) <= 100


def test_links_archives_and_passwords(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    made(tmp_path / "nested.zip", **{"inner.ZIP": b"PK"})
    secret = made(tmp_path / "secret.zip", one=b"1")
    content = bytearray(secret.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    secret.write_bytes(content)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, message in (("link", "holds a link"), ("nested", "another archive"), ("secret", "encrypted")):
        with pytest.raises(UserError, match=message):
            unpack(tmp_path / f"{name}.zip", folder, most=1000)
    assert list(folder.iterdir()) == []


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = made(tmp_path / "many.zip", **{f"f{number}": b"" for number in range(5)})
    monkeypatch.setattr(archives, "MOST_FILES", 4)
    with pytest.raises(UserError, match="5 files, more than 4"):
        unpacked(archive)
    monkeypatch.setattr(archives, "LARGEST_LIST", 50)
    with pytest.raises(UserError, match="list of files is too large"):
        unpack(archive, tmp_path / "folder", most=1000)
