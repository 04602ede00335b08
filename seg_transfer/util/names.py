"""Names from files that become names of files or folders: none leads out of its folder."""

from __future__ import annotations

import os
import re
from typing import Annotated

from pydantic import AfterValidator

_HUB_PART = re.compile(r"(?!.*(?:--|\.\.))\w(?:[\w.-]{0,94}\w)?", re.ASCII)


LONGEST_NAME = 200
"""Bytes; files may have 255, endings included."""


def is_file_name(name: str) -> bool:
    """Whether a name stays in its folder, on any system: no separator, no NUL, not ``..``, not too long."""
    return name not in ("", ".", "..") and not set(name) & set("/\\\0") and len(os.fsencode(name)) <= LONGEST_NAME


def _file_name(name: str) -> str:
    if not is_file_name(name):
        raise ValueError(f"{name[:80]!r} cannot be the name of a file or folder")
    return name


def _hub_name(name: str) -> str:
    parts = name.split("/")
    if len(parts) > 2 or not all(map(_HUB_PART.fullmatch, parts)):
        raise ValueError(f"{name[:80]!r} cannot be the name of a repository or revision, such as timm/resnet50.a1_in1k")
    return name


FileName = Annotated[str, AfterValidator(_file_name)]
"""A name of one file or folder."""
HubName = Annotated[str, AfterValidator(_hub_name)]
"""A repository or revision of a hub, or the source of torchvision's weights; becomes a path in the cache."""
