"""Series that arrive file by file, and when they are whole."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from seg_transfer.errors import UserError

LONGEST_PAUSE = 60.0
"""Seconds without a new file after which a series is whole though its association is still open."""


@dataclass(eq=False)
class Incoming:
    """A series of which files have arrived.

    Attributes:
        peer: AE title of who sends it.
        uid: Its identifier.
        folder: Its files, one per instance: one that is sent again replaces the first.
        last: When the last one arrived.
        patients: Identifiers of patient and study in its files.
        open: Associations that brought files and have not ended.
        broken: Whether the last association that ended was broken off.
    """

    peer: str
    uid: str
    folder: Path
    last: float
    patients: set[tuple[str, str]] = field(default_factory=set)
    open: set[int] = field(default_factory=set)
    broken: bool = False

    def check(self) -> None:
        """Refuse what cannot be one whole series.

        Raises:
            UserError: If it was broken off, or its files are of several patients or studies.
        """
        if self.broken:
            raise UserError("the association was broken off", hint="send the series again")
        if len(self.patients) > 1:
            raise UserError("its files are of several patients or studies", hint="correct them, and send it again")


class Collector:
    """Sorts files into series; any thread may call it.

    Args:
        folder: Everything is below it.
        wait: Seconds without a new file after which a series is whole, once its associations have ended.
        clock: Gives seconds.
    """

    def __init__(self, folder: Path, wait: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._wait, self._clock = folder, wait, clock
        self._series: dict[tuple[str, str], Incoming] = {}
        self._lock = threading.Lock()
        self._count = 0

    def add(
        self, file: Path, *, association: int, peer: str, series: str, instance: str, patient: tuple[str, str]
    ) -> None:
        """Take a file, which is moved.

        Args:
            file: The file.
            association: By which it came.
            peer: AE title of who sent it.
            series: Identifier of its series.
            instance: Its identifier.
            patient: Identifiers of patient and study.
        """
        with self._lock:
            found = self._series.get((peer, series))
            if found is None:
                self._count += 1
                folder = self._folder / f"series_{self._count}"
                folder.mkdir()
                found = self._series[peer, series] = Incoming(peer, series, folder, self._clock())
            file.replace(found.folder / hashlib.sha256(instance.encode()).hexdigest()[:32])
            found.last, found.broken = self._clock(), False
            found.open.add(association)
            found.patients.add(patient)

    def end(self, association: int, *, broken: bool) -> None:
        """An association has ended; only the first call for it counts."""
        with self._lock:
            for series in self._series.values():
                if association in series.open:
                    series.open.remove(association)
                    series.broken = broken
                    series.last = self._clock()

    def whole(self) -> list[Incoming]:
        """The series that are whole or broken off; they are not given again."""
        with self._lock:
            now = self._clock()
            ready = [
                key
                for key, series in self._series.items()
                if now - series.last >= (max(self._wait, LONGEST_PAUSE) if series.open else self._wait)
            ]
            return [self._series.pop(key) for key in ready]

    @staticmethod
    def remove(series: Incoming) -> None:
        """Remove the files of a series."""
        shutil.rmtree(series.folder, ignore_errors=True)
