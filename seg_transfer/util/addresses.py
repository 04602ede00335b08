"""Addresses of objects, such as ``s3://bucket/key``, and the paths of their copies in the cache.

Everything else works on paths. A path below the cache's folder stands for the object whose copy it is; its name tells
which one, so that nothing has to be recorded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from seg_transfer.errors import UserError

CACHE = "SEGTL_CACHE"
"""Environment variable: the folder in which copies are kept."""
SCHEMES = ("s3", "memory")
"""Of the addresses whose objects are copied; those of ``file://`` are paths."""
LONGEST_NAME = 255
"""Bytes of a file's name, which file systems allow."""
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_USER = re.compile(r"://[^/@\s]+@")
_SPOILT = re.compile(r"(s3|memory|file):/(?!/)")


def is_address(text: str) -> bool:
    """Whether a text is an address, of any scheme."""
    return _ADDRESS.match(text) is not None


def path_of(address: str) -> Path:
    """The path of an object's copy, or of a folder of them; of ``file://`` the path itself. Looks at nothing.

    Args:
        address: Such as ``s3://bucket/key``. Its characters are those of the key: %20 is no space.

    Raises:
        UserError: If it cannot be read, has another scheme, or holds credentials, which no message shows.
    """
    check_credentials(address)
    found = _ADDRESS.match(address)
    scheme, rest = (found[1].lower(), found[2]) if found else ("", "")
    if scheme == "file":
        if not rest.startswith("/"):
            raise UserError("the path is not absolute", where=address, hint="write file:///folder, with three slashes")
        return Path(rest)
    if scheme not in SCHEMES:
        known = ", ".join(f"{each}://" for each in (*SCHEMES, "file"))
        raise UserError("addresses of this kind are not read", where=address, hint=f"give a path, or one of {known}")
    parts = rest.rstrip("/").split("/")
    if "?" in rest:
        raise UserError("an address has no query", where=address, hint="omit the ? and what follows it")
    if not are_names(parts):
        hint = "write scheme://bucket/key, without empty names, . or .."
        raise UserError("this cannot be the address of a file", where=address, hint=hint)
    return cache_folder().joinpath(scheme, *parts)


def are_names(parts: Sequence[str]) -> bool:
    """Whether the parts of a key can be names of folders and a file, and lead nowhere else."""
    return all(
        part not in ("", ".", "..") and "\0" not in part and len(os.fsencode(part)) <= LONGEST_NAME for part in parts
    )


def check_credentials(text: str) -> None:
    """Refuse an address with a user or a password, as in ``s3://KEY:SECRET@bucket``, without showing it.

    Raises:
        UserError: If it has one.
    """
    found = _ADDRESS.match(text)
    if found and "@" in found[2].partition("/")[0]:
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        raise UserError("the address holds credentials", where=f"{found[1]}://", hint=hint)


def from_option(value: str | Path) -> Path | str:
    """The path that an option means by an address; anything else as it is.

    Raises:
        UserError: As :func:`path_of` does, and for an address that was made a ``Path``, which loses a slash.
    """
    if isinstance(value, str):
        return path_of(value) if is_address(value) else value
    if _SPOILT.match(str(value)):
        raise UserError("a Path cannot hold an address", where=value, hint="give the address as text")
    return value


def address_of(path: str | os.PathLike[str]) -> str | None:
    """The address of the object that a path stands for; None for any other path."""
    root = _root(os.environ.get(CACHE), os.environ.get("XDG_CACHE_HOME"))
    text = os.fspath(path)
    if not text.startswith(root):
        return None
    scheme, _, rest = text[len(root) :].partition(os.sep)
    return f"{scheme}://{rest.replace(os.sep, '/')}" if scheme in SCHEMES and rest else None


def cache_folder() -> Path:
    """The folder of all copies."""
    return Path(_root(os.environ.get(CACHE), os.environ.get("XDG_CACHE_HOME")))


def with_addresses(text: str) -> str:
    """A message with addresses in place of the paths of copies, and without users and passwords in addresses."""
    root = _root(os.environ.get(CACHE), os.environ.get("XDG_CACHE_HOME"))
    if root in text:
        for scheme in SCHEMES:
            text = text.replace(f"{root}{scheme}{os.sep}", f"{scheme}://")
    return _USER.sub("://", text)


@cache
def _root(own: str | None, of_user: str | None) -> str:
    """The folder of all copies, with a separator at its end."""
    folder = Path(own) if own else Path(of_user or "~/.cache") / "segtl"
    with suppress(RuntimeError):  # there is no home
        folder = folder.expanduser()
    return os.path.join(folder.resolve() / "remote", "")  # noqa: PTH118 - pathlib drops the separator at the end
