"""The temporary folder of a service, and those that services which were killed have left."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from seg_transfer.util.locks import is_abandoned, locked

logger = logging.getLogger(__name__)

LOCK = "service.lock"
"""File that says which process uses the folder; folders without one are left alone."""
_PREFIX = "segtl-"


@contextmanager
def service_folder(name: str) -> Iterator[Path]:
    """A new folder for the files of a service, below the system's temporary folder; it is removed at the end.

    What services of the same user have left there that were killed is removed first.

    Args:
        name: Of the service; the folder's name has it.
    """
    remove_abandoned(Path(tempfile.gettempdir()))
    with (
        TemporaryDirectory(prefix=f"{_PREFIX}{name}-", ignore_cleanup_errors=True) as folder,
        locked(Path(folder) / LOCK, "this folder is used"),
        # Gone before the lock is: a folder with files always has one.
        TemporaryDirectory(prefix="files-", dir=folder, ignore_cleanup_errors=True) as files,
    ):
        yield Path(files)


def remove_abandoned(parent: Path) -> None:
    """Remove folders of this user's services whose process is dead; links and folders of others stay.

    A process of another container or boot counts as dead once it has not refreshed its lock for
    :data:`~seg_transfer.util.locks.DEAD_AFTER` seconds.
    """
    for folder in sorted(parent.glob(f"{_PREFIX}*")):
        with suppress(OSError):  # gone meanwhile, or not to be read
            if _is_own(folder) and is_abandoned(folder / LOCK):
                for files in folder.glob("files-*"):
                    shutil.rmtree(files, ignore_errors=True)
                shutil.rmtree(folder)
                logger.info(f"removed {folder}, which a service that was killed had left")


def _is_own(folder: Path) -> bool:
    """Whether it is a folder, no link to one, and of this user."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and (os.name != "posix" or status.st_uid == os.geteuid())
