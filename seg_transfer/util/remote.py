"""Copies of objects in the cache: looked for, fetched when they are read, and sent when they are written.

A copy that is not fetched yet is an empty file. Its time of modification is the object's, with a digest of the object's
version in place of the fraction of the second: so an object that has changed is noticed without a record of the copies.
Credentials are those that the libraries find in the environment, in a profile or on the machine; none is read here.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from seg_transfer.errors import UserError, cause_of
from seg_transfer.util.addresses import address_of, are_names, cache_folder, with_addresses
from seg_transfer.util.extras import check_extra
from seg_transfer.util.local_files import whole_local_file
from seg_transfer.util.progress import track

logger = logging.getLogger(__name__)

TRANSFERS = 8
"""Objects that are fetched at the same time."""
STORE_ENDING = ".zarr"
"""Of a folder that is read from the store itself, in parts: its objects are not listed among the copies."""
_OF_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def look(path: Path, *, required: bool = True) -> None:
    """See what is at an address now: copies of what has changed are forgotten, and what is gone vanishes.

    One object is fetched at once. Below a folder every object is there as an empty file afterwards, unless its copy is
    still the same.

    Args:
        path: The path that stands for the address; any other path is left alone.
        required: Whether something has to be there.

    Raises:
        UserError: If nothing is there, or it cannot be reached.
    """
    address = address_of(path)
    if address is None:
        return
    started = time.time()
    system, name = opened(address)
    if _is_store(path):
        info = _info(system, name, address)
        found = {} if info is None else {name: info}
    else:
        with as_user_errors(address):
            found = {key.lstrip("/"): each for key, each in system.find(name, detail=True).items()}
    if required and not found:
        raise UserError("nothing is at this address", where=address, hint="check the bucket and the key")
    cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    if list(found) == [name]:
        if path.is_dir():
            _forget(path, keep=set(), before=started)
        _place(path, found[name])
        fetched(path)
        return
    files: dict[Path, dict[str, Any]] = {}
    folders: set[Path] = set()
    left_out = 0
    for key, each in found.items():
        parts = key.removeprefix(f"{name}/").split("/")
        store = next((number for number, part in enumerate(parts[:-1], start=1) if _is_store(part)), None)
        if store and are_names(parts[:store]):
            folders.add(path.joinpath(*parts[:store]))
        elif are_names(parts):
            files[path.joinpath(*parts)] = each
        else:
            left_out += not key.endswith("/")  # consoles make such an object for a folder
    if path.is_file():
        path.unlink()
    _forget(path, keep={*files, *folders}, before=started)
    for file, each in files.items():
        left_out += not _place(file, each)
    for folder in folders:
        left_out += not _place(folder, {"type": "directory"})
    if left_out:
        logger.warning(f"{address}: {left_out} object(s) are left out, whose keys cannot be names of files")


def look_at_files(paths: Iterable[Path]) -> None:
    """As :func:`look` for single files, several at a time: a copy that is not the same is forgotten, none is fetched.

    Args:
        paths: Any paths; those that stand for no address are left alone.

    Raises:
        UserError: If an object cannot be reached; not if there is none.
    """
    copies = [path for path in dict.fromkeys(paths) if address_of(path) is not None]
    with ThreadPoolExecutor(TRANSFERS) as threads:
        list(threads.map(_look_at_file, copies))


def fetch(paths: Iterable[Path]) -> None:
    """Fetch the copies that are missing, several at a time.

    Args:
        paths: Any files; those that stand for no address are left alone.

    Raises:
        UserError: If an object cannot be reached; not if there is none.
    """
    missing = [path for path in dict.fromkeys(paths) if address_of(path) is not None and _is_missing(path)]
    if missing:
        with ThreadPoolExecutor(TRANSFERS) as threads:
            for _ in track(threads.map(fetched, missing), total=len(missing), title="fetching"):
                pass


def fetched(path: Path) -> None:
    """Fetch a copy if it is missing, before it is read; does nothing for other paths, or if there is no object.

    Raises:
        UserError: If the object cannot be reached.
    """
    address = address_of(path)
    if address is None or not _is_missing(path):
        return
    system, name = opened(address)
    info = _info(system, name, address)
    if info is not None and info["type"] != "file" and _is_store(path):
        _place(path, info)
    if info is None or info["type"] != "file":
        return
    with whole_local_file(path, needed=info["size"]) as temporary:
        with as_user_errors(address):
            system.get_file(name, str(temporary))
        if temporary.stat().st_size != info["size"]:
            raise UserError("it changed while it was fetched", where=address, hint="run the same command again")
        _stamp(temporary, info)


def send(temporary: Path, path: Path) -> None:
    """Make a file the object that a path stands for; an object is replaced as a whole, or not at all.

    Raises:
        UserError: If it cannot be written.
    """
    address = address_of(path)
    assert address is not None, path
    system, name = opened(address)
    with as_user_errors(address):
        system.put_file(str(temporary), name)
        _stamp(temporary, system.info(name))


def remove(path: Path) -> None:
    """Remove a file, and the object that it stands for; nothing if there is none.

    Raises:
        UserError: If the object cannot be removed.
    """
    address = address_of(path)
    if address is not None:
        system, name = opened(address)
        with as_user_errors(address), suppress(FileNotFoundError):
            system.rm_file(name)
    path.unlink(missing_ok=True)


def _look_at_file(path: Path) -> None:
    address = address_of(path)
    assert address is not None, path
    system, name = opened(address)
    info = _info(system, name, address)
    if info is None:
        path.unlink(missing_ok=True)
    elif info["type"] == "file" or _is_store(path):
        cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        _place(path, info)


def opened(address: str) -> tuple[Any, str]:
    """The file system of an address, and its name there."""
    scheme, _, rest = address.partition("://")
    check_extra("remote", f"{scheme}://", only="s3fs" if scheme == "s3" else "fsspec", where=address)
    import fsspec

    with as_user_errors(address):
        return fsspec.filesystem(scheme, use_listings_cache=False), rest


def _info(system: Any, name: str, address: str) -> dict[str, Any] | None:
    """What is known of an object; None if there is none."""
    with as_user_errors(address):
        try:
            info: dict[str, Any] = system.info(name)
        except FileNotFoundError:
            return None
        return info


@contextmanager
def as_user_errors(address: str) -> Iterator[None]:
    """Turn what the libraries raise into a :class:`UserError` that names the address, and no secret."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        what, hint = f"nothing is at this address: {_cause(error)}", "check the bucket and the key"
    except PermissionError as error:
        what = f"access is denied: {_cause(error)}"
        hint = "check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE) and their rights"
    except Exception as error:  # those of the libraries have no other common base
        if isinstance(error, OSError) and error.errno in _OF_DISK:
            raise
        what = f"cannot be reached: {_cause(error)}"
        hint = "check the network, AWS_ENDPOINT_URL and the credentials (AWS_ACCESS_KEY_ID, or AWS_PROFILE)"
    else:
        return
    raise UserError(what, where=address, hint=hint) from None


def _cause(error: BaseException) -> str:
    text = with_addresses(cause_of(error, 300))
    for secret in filter(None, map(os.environ.get, _SECRETS)):
        text = text.replace(secret, "...")
    return text


def _is_store(path: Path | str) -> bool:
    return str(path).lower().endswith(STORE_ENDING)


def _is_missing(path: Path) -> bool:
    """Whether a copy is not fetched: the file is empty, or not there."""
    try:
        status = path.stat()
    except OSError:
        return True
    return status.st_size == 0 and path.is_file()


def _version(info: dict[str, Any]) -> int:
    """Nanoseconds that stand for an object's version: the second of its last change, and a digest of all."""
    changed = info.get("LastModified") or info["created"]
    changed = changed if isinstance(changed, float) else changed.timestamp()
    digest = hashlib.sha256(f"{info.get('ETag')} {info['size']} {changed}".encode()).digest()
    return int(changed) * 10**9 + int.from_bytes(digest[:8], "big") % 10**9


def _stamp(file: Path, info: dict[str, Any]) -> None:
    version = _version(info)
    os.utime(file, ns=(version, version))


def _place(path: Path, info: dict[str, Any]) -> bool:
    """Leave the copy of an object if it is the same, else put an empty file there, or an empty folder for a store.

    Returns:
        False if that is not possible.
    """
    folder = info["type"] != "file"
    try:
        status = path.stat()
        if folder and path.is_dir():
            return True
        if not folder and status.st_mtime_ns == _version(info) and status.st_size in (0, info["size"]):
            return True
    except OSError:
        pass
    try:
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        if folder:
            path.mkdir()
        else:
            path.touch()
            _stamp(path, info)
    except OSError as error:
        if error.errno in _OF_DISK:
            raise
        return False  # too long, or both a file and a folder, which keys can be
    return True


def _forget(folder: Path, *, keep: set[Path], before: float) -> None:
    """Remove files and folders of the cache, except what another process has just made and hidden files."""
    listed = [
        Path(parent, name) for parent, names, files in os.walk(folder, topdown=False) for name in (*files, *names)
    ]
    old = [path for path in listed if path not in keep and not path.name.startswith(".") and _is_older(path, before)]
    for path in old:  # a folder counts as changed as soon as something in it is removed
        with suppress(OSError):  # a folder that is not empty
            path.rmdir() if path.is_dir() else path.unlink()


def _is_older(path: Path, moment: float) -> bool:
    with suppress(OSError):
        return path.lstat().st_ctime < moment
    return False
