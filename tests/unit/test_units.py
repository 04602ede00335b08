from __future__ import annotations

import pytest

from seg_transfer.errors import UserError
from seg_transfer.util.units import bytes_from_text, bytes_text, seconds_from_text, seconds_text


@pytest.mark.parametrize(
    ("text", "count"),
    [("8GB", 8 * 10**9), ("500 mb", 5 * 10**8), ("1.5g", 15 * 10**8), ("6GiB", 6 * 2**30), ("1000", 1000)],
)
def test_memory_as_people_write_it(text: str, count: int) -> None:
    assert bytes_from_text(text) == count


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1h30m", 5400), ("1:30:00", 5400), ("0:00:09", 9), ("45", 45)],
)
def test_time_as_people_write_it(text: str, seconds: float) -> None:
    assert seconds_from_text(text) == seconds


@pytest.mark.parametrize("text", ["", "GB", "8 apples", "-1GB", "0GB", "1.2.3GB", "9" * 400])
def test_what_is_no_memory_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="cannot read"):
        bytes_from_text(text)


@pytest.mark.parametrize("text", ["soon", "0m", "1h-30m", "1h30", "1:30", "1:75:00", "0:00:00", "9" * 400])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="cannot read"):
        seconds_from_text(text)


def test_amounts_are_shown_with_their_unit() -> None:
    assert [bytes_text(n) for n in (12, 1234567890, 8 * 10**9)] == ["12 B", "1.2 GB", "8.0 GB"]
    assert [seconds_text(s) for s in (5.2, 45, 300, 5400, 7260)] == ["5.2 s", "45 s", "5 min", "90 min", "2 h 01 min"]
