"""What is known about the processor without asking torch, and what is kept in the user's cache."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from seg_transfer.util import environment, machine_speed
from seg_transfer.util.machine_speed import lacks_bfloat16, processor, remembered

XEON = (
    "processor\t: 0\nmodel name\t: Some Xeon\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16\n\nmodel name\t: other\n"
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The cache's file, and a processor of which the system says nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(machine_speed, "_CPU", tmp_path / "cpuinfo")
    environment.bfloat16_gain.cache_clear()
    yield tmp_path / "cache" / "segtl" / "machine.json"
    environment.bfloat16_gain.cache_clear()


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        (XEON, False),
        ("model name : EPYC\nflags : fpu avx2 fma\n", True),
        ("Features : fp asimd bf16 i8mm\n", False),
        ("Features : fp asimd\n", True),
        ("", False),
    ],
)
def test_the_processors_instructions_tell(text: str, lacks: bool, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert lacks_bfloat16() is lacks
    if "model name" in text:
        assert processor() in ("Some Xeon", "EPYC")


def test_without_instructions_nothing_is_measured(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2 fma\n")
    monkeypatch.setattr(environment, "_bfloat16_gain", None)
    assert environment.bfloat16_gain("cpu") == 0
    (tmp_path / "cpuinfo").write_text(XEON)
    monkeypatch.setattr(environment, "_bfloat16_gain", lambda device: 3.5)
    environment.bfloat16_gain.cache_clear()
    assert environment.bfloat16_gain("cpu") == 3.5
    monkeypatch.setattr(environment, "_bfloat16_gain", lambda device: 9.0)
    environment.bfloat16_gain.cache_clear()
    assert environment.bfloat16_gain("cpu") == 3.5  # remembered


def test_each_processor_is_measured_once(tmp_path: Path, cache: Path) -> None:
    assert [remembered("speed", lambda: 2.0), remembered("speed", lambda: 5.0)] == [2, 2]
    assert [remembered("other", lambda: 3.0), remembered("speed", lambda: 5.0)] == [3, 2]
    (tmp_path / "cpuinfo").write_text(XEON)
    assert [remembered("speed", lambda: 7.0), remembered("speed", lambda: 5.0)] == [7, 7]
    (tmp_path / "cpuinfo").write_text("")
    assert remembered("speed", lambda: 5.0) == 2


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "\xff", '{"KEY": 5}', '{"KEY": {"speed": "fast"}}', '{"KEY": {"speed": NaN}}', "[" * 10**5],
)
def test_a_damaged_cache_is_replaced(content: str, cache: Path) -> None:
    remembered("speed", lambda: 2.0)
    (key,) = json.loads(cache.read_text())
    cache.write_text(content.replace("KEY", key), encoding="latin-1")
    assert [remembered("speed", lambda: 4.0), remembered("speed", lambda: 9.0)] == [4, 4]


def test_without_a_place_for_a_cache_it_is_measured_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [remembered("speed", lambda: 2.0), remembered("speed", lambda: 5.0)] == [2, 5]
