from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest

from seg_transfer.errors import UserError
from seg_transfer.parallel import CaseFailure, map_cases


def half(number: int) -> int:
    if number == 3:
        raise UserError("3 is odd", where="file.nii", mend="use 4")
    if number == 5:
        raise RuntimeError("five\nis odd too")
    return number // 2


def die_at_two(number: int) -> int:
    if number == 2:
        os._exit(9)
    return number


def leave_a_mark(number: int, folder: Path) -> int:
    """The most tasks that were seen under way while this one was."""
    mark = folder / str(number)
    mark.touch()
    most = 0
    for _ in range(5):
        most = max(most, len(list(folder.iterdir())))
        time.sleep(0.01)
    mark.unlink()
    return most


@pytest.mark.parametrize("workers", [0, 2])
def test_failures_are_named_and_the_others_go_on(workers: int) -> None:
    results = dict(map_cases(half, range(8), workers=workers, title="halving", name=lambda n: f"case {n}"))
    assert {n: r for n, r in results.items() if n not in (3, 5)} == {0: 0, 1: 0, 2: 1, 4: 2, 6: 3, 7: 3}
    three, five = results[3], results[5]
    assert isinstance(three, CaseFailure)
    assert isinstance(five, CaseFailure)
    assert (three.case, three.cause) == ("case 3", "file.nii: 3 is odd; mend: use 4")
    assert (five.case, five.cause) == ("case 5", "RuntimeError: five; is odd too")
    assert "in half" in five.detail


def test_a_dying_process_is_named_by_its_case() -> None:
    results = list(map_cases(die_at_two, range(6), workers=2, title="dying", name=str))
    assert sorted(item for item, _ in results) == list(range(6))
    failures = {item: result for item, result in results if isinstance(result, CaseFailure)}
    assert list(failures) == [2]
    assert failures[2].case == "2"
    assert "process died" in failures[2].cause
    assert dict(results)[5] == 5


def test_no_more_than_workers_at_a_time(tmp_path: Path) -> None:
    work = partial(leave_a_mark, folder=tmp_path)
    most = [result for _, result in map_cases(work, range(8), workers=2, title="marking", name=str)]
    assert len(most) == 8
    assert max(most) <= 2


def test_in_this_process_it_is_lazy_and_in_order() -> None:
    seen: list[int] = []
    results = map_cases(seen.append, [1, 2, 3], workers=0, title="seeing", name=str)
    next(results)
    assert seen == [1]
    assert [item for item, _ in results] == [2, 3]


def test_nothing_to_do() -> None:
    assert list(map_cases(half, [], workers=2, title="nothing", name=str)) == []
