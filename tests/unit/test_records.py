"""JSON records: written whole, read with their version checked, refused with one clear message."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import ConfigDict

from seg_transfer.errors import UserError
from seg_transfer.evaluation.scores import Scores
from seg_transfer.util.records import JsonRecord, Record


class Size(Record):
    width: int
    height: int = 1


class Box(JsonRecord):
    """Version 1 had a width alone, version 2 a list."""

    noun: ClassVar[str] = "box"
    if_missing: ClassVar[str] = "make one"
    if_wrong: ClassVar[str] = "make it again"
    if_older: ClassVar[str] = "make a new one"

    version: Literal[3] = 3
    size: Size
    names: tuple[str, ...] = ()

    @classmethod
    def upgrade(cls, content: dict[str, Any], version: int) -> dict[str, Any] | None:
        return {"size": {"width": content["width"]}} if version == 1 else None


def test_a_changed_record_is_refused_and_one_without_a_digest_is_read(tmp_path: Path) -> None:
    box = Box(size=Size(width=2), names=("ä",))
    box.save(tmp_path / "box.json")
    text = (tmp_path / "box.json").read_text(encoding="utf-8")
    assert "ä" in text
    (tmp_path / "box.json").write_text(text.replace('"width": 2', '"width": 3'), encoding="utf-8")
    with pytest.raises(UserError, match="was changed after it was written") as error:
        Box.load(tmp_path / "box.json")
    assert error.value.where == tmp_path / "box.json" and error.value.hint == Box.if_wrong
    content = dict(reversed(json.loads(text).items()))
    (tmp_path / "box.json").write_text(json.dumps(content))  # order and white space do not matter
    assert Box.load(tmp_path / "box.json") == box
    del content["digest"]
    (tmp_path / "box.json").write_text(json.dumps(content | {"size": {"width": 3}}))
    assert Box.load(tmp_path / "box.json").size.width == 3


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    box = Box(size=Size(width=2), names=("a",))
    box.save(tmp_path / "new" / "box.json")
    assert Box.load(tmp_path / "new" / "box.json") == box
    text = (tmp_path / "new" / "box.json").read_text()
    assert text.endswith("}\n")
    assert list(json.loads(text)) == ["version", "size", "names", "digest"]


@pytest.mark.parametrize("content", [{"version": 1, "width": 5}, {"width": 5}], ids=["said", "not said"])
def test_an_older_version_is_upgraded(content: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "box.json").write_text(json.dumps(content))
    assert Box.load(tmp_path / "box.json") == Box(size=Size(width=5, height=1))


def test_a_newer_version_is_read_where_its_fields_are_known(tmp_path: Path) -> None:
    class Lenient(Box):
        model_config = ConfigDict(extra="ignore")
        reads_newer: ClassVar[bool] = True

    (tmp_path / "box.json").write_text('{"version": 9, "size": {"width": 2}, "colour": "red"}')
    assert Lenient.load(tmp_path / "box.json").size.width == 2
    (tmp_path / "box.json").write_text('{"version": 9, "sizes": []}')
    with pytest.raises(UserError, match="size: Field required"):
        Lenient.load(tmp_path / "box.json")


def test_scores_of_another_segtl_are_read(tmp_path: Path) -> None:
    score = {"prediction_voxels": 1, "reference_voxels": 2, "colour": "red", "metrics": {"dice": 0.5, "new": 1.0}}
    content = {"version": 9, "unit": "mm", "tolerance": 1.0, "labels": {"a": 1}, "cases": {"x": {"a": score}}, "new": 1}
    (tmp_path / "scores.json").write_text(json.dumps(content))
    scores = Scores.load(tmp_path / "scores.json")
    assert scores.mean_dice == 0.5 and math.isnan(scores.cases["x"]["a"].metrics["hd95"])


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("", "not a box, or damaged: not readable as JSON: Expecting value", "make it again"),
        ("{", "not a box, or damaged", "make it again"),
        ("\xff", "not a box, or damaged", "make it again"),
        ("[" * 100_000, "nested too deeply", "make it again"),
        ('{"version": 3, "size": {"width": NaN}}', "NaN is no number of JSON", "make it again"),
        ("[]", "not a box: no JSON object", "make it again"),
        ('{"version": 2}', "a box of version 2; this segtl reads version 3", "make a new one"),
        ('{"version": 4}', "a box of version 4; this segtl reads version 3", "written by a newer segtl: update segtl"),
        ('{"version": "3"}', "a box of version '3'", "make a new one"),
        ('{"version": true}', "a box of version True", "make a new one"),
        ('{"version": 3, "size": {"width": "x"}}', "size.width: Input should be a valid integer", "make it again"),
        ('{"version": 3, "size": {"width": 1, "depth": 2}, "no": 1}', "size.depth: unknown field; no: unknown", "make"),
    ],
)
def test_what_is_no_record_is_refused(text: str, what: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "box.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError) as error:
        Box.load(path)
    assert error.value.where == path
    assert what in error.value.what
    assert hint in (error.value.hint or "")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no box here\n.*make one"):
        Box.load(tmp_path / "box.json")


def test_a_failing_write_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "box.json"
    Box(size=Size(width=2)).save(path)

    def full(self: Box) -> Iterator[str]:
        yield '{"version": 3,'
        raise OSError("disk full")

    monkeypatch.setattr(Box, "pieces", full)
    with pytest.raises(OSError, match="disk full"):
        Box(size=Size(width=3)).save(path)
    assert Box.load(path).size.width == 2
    assert [file.name for file in tmp_path.iterdir()] == ["box.json"]


def test_messages_about_many_or_long_fields_are_short(tmp_path: Path) -> None:
    path = tmp_path / "box.json"
    for content in ({"x" * 9999: 1}, {"version": "9" * 9999}, {"names": [1] * 999}, {str(n): 1 for n in range(999)}):
        path.write_text(json.dumps({"version": 3, "size": {"width": 2}} | content))
        with pytest.raises(UserError) as raised:
            Box.load(path)
        assert len(raised.value.what) < 900
    assert raised.value.what.endswith("9: unknown field; and 989 more")
