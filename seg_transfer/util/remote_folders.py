"""Images that are folders of objects, such as OME-Zarr: compared and sent as a whole, never in the cache."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from seg_transfer.util.addresses import address_of
from seg_transfer.util.remote import TRANSFERS, as_user_errors, opened

DESCRIPTION = "zarr.json"
"""The object without which nothing can read the others as an image: it is removed first, and sent last."""


def folder_digest(path: Path) -> str:
    """A digest of the names and versions of all objects in a folder that a path stands for.

    Raises:
        UserError: If they cannot be listed.
    """
    _, name, found = _listed(path)
    listed = [
        f"{key.removeprefix(name)} {info.get('ETag')} {info['size']} {info.get('LastModified', info.get('created'))}\n"
        for key, info in sorted(found.items())
    ]
    return hashlib.sha256("".join(listed).encode()).hexdigest()


def fetch_folder(path: Path, folder: Path) -> None:
    """Copy the objects that a path stands for into a local folder.

    Raises:
        UserError: If they cannot be read.
    """
    system, name, found = _listed(path)
    with as_user_errors(str(address_of(path))):
        for key in found:
            target = folder / key.removeprefix(name).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(key, str(target))


def send_folder(folder: Path, path: Path) -> None:
    """Make a local folder the objects that a path stands for; until all are sent nobody can read them as an image.

    Raises:
        UserError: If they cannot be written.
    """
    system, name, found = _listed(path)
    files = {each.relative_to(folder).as_posix(): each for each in sorted(folder.rglob("*")) if each.is_file()}
    description = files.pop(DESCRIPTION)
    with as_user_errors(str(address_of(path))):
        before = sorted((key.removeprefix(f"{name}/") for key in found), key=lambda key: key != DESCRIPTION)
        for key in before:
            if key == DESCRIPTION or key not in files:
                system.rm_file(f"{name}/{key}")
        with ThreadPoolExecutor(TRANSFERS) as threads:
            list(threads.map(lambda key: system.put_file(str(files[key]), f"{name}/{key}"), files))
        system.put_file(str(description), f"{name}/{DESCRIPTION}")


def _listed(path: Path) -> tuple[Any, str, dict[str, dict[str, Any]]]:
    """The file system, the folder's name there, and what is known of each object by its name."""
    address = address_of(path)
    assert address is not None, path
    system, name = opened(address)
    with as_user_errors(address):
        return system, name, system.find(name, detail=True)
