"""When a series that arrives file by file is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from seg_transfer.errors import UserError
from seg_transfer.serving.incoming import LONGEST_PAUSE, Collector


class Arrivals:
    """Files that arrive at given times."""

    def __init__(self, folder: Path) -> None:
        self.now, self.folder = 0.0, folder
        self.collector = Collector(folder, 5.0, clock=lambda: self.now)

    def add(
        self, association: int = 1, series: str = "1.2", instance: str = "1", patient: str = "P", **of: str
    ) -> None:
        file = self.folder / "arriving"
        file.write_text(of.get("content", "image"))
        self.collector.add(
            file,
            association=association,
            peer=of.get("peer", "A"),
            series=series,
            instance=instance,
            patient=(patient, "S"),
        )

    def whole(self, after: float) -> list[str]:
        self.now += after
        return [f"{series.peer} {series.uid}" for series in self.collector.whole()]


@pytest.fixture
def arrivals(tmp_path: Path) -> Arrivals:
    return Arrivals(tmp_path)


def test_after_the_end_of_its_association_and_a_quiet_time(arrivals: Arrivals) -> None:
    arrivals.add()
    arrivals.add(series="1.3", association=2)
    assert arrivals.whole(20) == []
    arrivals.collector.end(1, broken=False)
    assert arrivals.whole(4) == []
    assert arrivals.whole(1) == ["A 1.2"]
    assert arrivals.whole(LONGEST_PAUSE) == ["A 1.3"]  # its association is still open
    assert arrivals.whole(LONGEST_PAUSE) == []


def test_one_series_by_several_associations(arrivals: Arrivals) -> None:
    for association in (1, 2, 3):
        arrivals.add(association, instance=str(association))
        arrivals.collector.end(association, broken=False)
        assert arrivals.whole(3) == []
    arrivals.add(4, instance="3", content="again")
    arrivals.collector.end(4, broken=False)
    arrivals.now += 5
    (series,) = arrivals.collector.whole()
    assert sorted(path.read_text() for path in series.folder.iterdir()) == ["again", "image", "image"]
    series.check()
    arrivals.collector.remove(series)
    assert list(arrivals.folder.iterdir()) == []


def test_what_is_no_whole_series(arrivals: Arrivals) -> None:
    arrivals.add()
    arrivals.collector.end(1, broken=True)
    arrivals.collector.end(1, broken=False)  # the connection closes afterwards
    arrivals.add(2, peer="B")
    arrivals.add(2, peer="B", instance="2", patient="Q")
    arrivals.collector.end(2, broken=False)
    arrivals.now += 5
    broken, mixed = arrivals.collector.whole()
    for series, message in ((broken, "broken off"), (mixed, "several patients")):
        with pytest.raises(UserError, match=message):
            series.check()


def test_an_association_that_was_broken_off_may_be_made_good(arrivals: Arrivals) -> None:
    arrivals.add(1)
    arrivals.collector.end(1, broken=True)
    arrivals.add(2, instance="2")
    arrivals.collector.end(2, broken=False)
    arrivals.now += 5
    (series,) = arrivals.collector.whole()
    series.check()
