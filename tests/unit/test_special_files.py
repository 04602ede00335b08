"""Outputs to what is no plain file: written into, never replaced; a link stays a link."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from seg_transfer.errors import UserError
from seg_transfer.util.files import write_text
from seg_transfer.util.local_files import check_file

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="files of POSIX systems")


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    null = Path(os.devnull)
    before = null.stat()
    link = tmp_path / "scores.json"
    link.symlink_to(null)
    for path in (null, link):
        check_file(path)
        write_text(path, "{}")
    after = null.stat()
    assert stat.S_ISCHR(after.st_mode) and (after.st_ino, after.st_rdev) == (before.st_ino, before.st_rdev)
    assert link.is_symlink() and [path.name for path in tmp_path.iterdir()] == ["scores.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_device_that_takes_nothing_is_named() -> None:
    with pytest.raises(UserError, match="/dev/full: cannot be written to: No space left"):
        write_text(Path("/dev/full"), "{}")


def test_a_pipe_gets_the_text_if_somebody_reads_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="nothing reads from this pipe"):
        write_text(pipe, "nobody")
    read: list[str] = []
    opened = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(opened, True)
    reader = threading.Thread(target=lambda: read.append(os.fdopen(opened).read()))
    with pipe.open("w") as other:  # keeps the pipe open until the reader has begun
        reader.start()
        write_text(pipe, "text" * 100_000)
        other.flush()
    reader.join(10)
    assert read == ["text" * 100_000]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_link_stays_and_the_file_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target.json", tmp_path / "link.json"
    link.symlink_to(target)
    for text in ("first", "second"):
        write_text(link, text)
        assert target.read_text() == text
    assert link.is_symlink() and not target.is_symlink()
    assert [path.name for path in target.parent.iterdir()] == ["target.json"]


@pytest.mark.parametrize("output", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_keeps_what_was_written_before(output: str, tmp_path: Path) -> None:
    if not Path(output).parent.exists():
        pytest.skip("not on this system")
    code = (
        "import sys; from pathlib import Path; from seg_transfer.util.files import write_text; "
        f"print('before', flush=True); write_text(Path({output!r}), 'text\\n'); print('after')"
    )
    expected = "before\ntext\nafter\n"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == expected
    with (tmp_path / "out").open("w") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert (tmp_path / "out").read_text() == expected


def test_a_disk_and_a_socket_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
        with pytest.raises(UserError, match="this is no file"):
            write_text(Path("socket"), "text")
    try:
        os.mknod(tmp_path / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 250))
    except PermissionError:
        pytest.skip("making a device needs the rights of root")
    with pytest.raises(UserError, match="this is a disk"):
        check_file(tmp_path / "disk")
