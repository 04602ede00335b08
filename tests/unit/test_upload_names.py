"""Messages to clients have the names of their own files, and no path of the server."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest

from seg_transfer.errors import UserError
from seg_transfer.serving.segment import Task

fastapi = pytest.importorskip("fastapi")
FOLDER = Path("/tmp/segtl-serve-x/files-y/job")


def test_stored_names_become_those_of_the_client() -> None:
    paths = (FOLDER / "image_0.nii.gz", FOLDER / "image_1.nii")
    task = Task(paths, FOLDER, names=("image_1.nii", "T2 (ü).nii"))
    error = UserError("does not lie on the grid of image_0.nii.gz: shape", where=paths[1])
    assert task.as_named(str(error)) == "T2 (ü).nii: does not lie on the grid of image_1.nii: shape"
    error = UserError(f"cannot be read: no file '{paths[0]}'", where=paths[0], hint="copy it")
    assert task.as_named(str(error)) == "image_1.nii: cannot be read: no file 'image_1.nii'\n  hint: copy it"
    assert task.as_named(f"{FOLDER}/result.nii.gz: the disk is full") == "result.nii.gz: the disk is full"


def test_an_image_that_was_kept_has_another_folder() -> None:
    kept = FOLDER.with_name("kept")
    task = Task((kept / "image_0.mhd",), FOLDER, names=("a.mhd",))
    said = task.as_named(f"{kept}/image_0.mhd: see {kept}/image_0.raw and {FOLDER}/result.mhd")
    assert said == "a.mhd: see image_0.raw and result.mhd"


def test_files_of_an_archive() -> None:
    task = Task((FOLDER / "image_0.zip",), FOLDER, names=(r"study\1.zip",))
    said = task.as_named(f"{FOLDER}/series: 2 series: 000001-CT; {FOLDER}/series/000012/IM 3.dcm: cut off")
    assert said == r"study\1.zip: 2 series: 000001-CT; study\1.zip/IM 3.dcm: cut off"
    assert task.as_named(f"{FOLDER}/image_0.zip: bad") == r"study\1.zip: bad"


def test_a_folder_whose_name_is_escaped() -> None:
    folder = Path("/tmp/odd\nname")
    task = Task((folder / "image_0.nii",), folder, names=("a.nii",))
    assert task.as_named(str(UserError("bad", where=folder / "image_0.nii"))) == "a.nii: bad"
    assert Task((folder,), folder).as_named("as it is") == "as it is"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("scan.nii", "scan.nii"),
        ("/home/me/Miller/scan.nii", "scan.nii"),
        (r"C:\Users\me\scan.nii", "scan.nii"),
        ("../../scan.nii", "scan.nii"),
        ("a\x1b[2Jb\n.nii", r"a\u001b[2Jb\u000a.nii"),
        ("x" * 5000 + ".nii", "x" * 196 + ".nii"),
        ("", ""),
    ],
)
def test_what_is_shown_of_a_name(given: str, shown: str) -> None:
    from seg_transfer.serving.app import name_of

    assert name_of(fastapi.UploadFile(BytesIO(), filename=given)) == shown
