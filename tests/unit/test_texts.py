"""Short forms of lists and versions."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from seg_transfer.util.texts import first_of, version_of


@pytest.mark.parametrize(
    ("values", "most", "text"),
    [
        ([], 2, ""),
        (["a"], 2, "a"),
        (["b", "a"], 2, "b, a"),
        (range(3), 2, "0, 1 and 1 more"),
        ("abc", 1, "a and 2 more"),
    ],
)
def test_the_first_values_and_how_many_more(values: Iterable[object], most: int, text: str) -> None:
    assert first_of(values, most) == text


def test_versions_of_packages() -> None:
    assert version_of("numpy")[0].isdigit()
    assert version_of("no-such-package") == "not installed"
