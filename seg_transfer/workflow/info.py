"""What a report of a defect needs to know about the installation and the machine."""

from __future__ import annotations

import platform

from pydantic import BaseModel, Field

from seg_transfer.errors import UserError
from seg_transfer.options.other_options import InfoOptions
from seg_transfer.util import environment
from seg_transfer.util.machine_speed import processor
from seg_transfer.util.texts import version_of
from seg_transfer.version import VERSION

PACKAGES = ("torch", "torchvision", "timm", "nibabel", "SimpleITK", "numpy", "scipy", "blosc2", "pydantic")


class Info(BaseModel):
    """The installation and the machine; names no file and no user."""

    segtl: str = Field(description="version")
    python: str
    system: str
    processor: str
    cores: int = Field(description="that this process may use")
    memory_bytes: int = Field(description="free, and allowed to this process")
    device: str = Field(description="that --device auto takes, or why there is none")
    packages: dict[str, str] = Field(description="name -> version, or 'not installed'")


def info(_: InfoOptions) -> Info:
    """Look at the installation and the machine; starts no training and makes no connection."""
    try:
        device = environment.resolve_device("auto")
    except UserError as error:
        device = error.what
    return Info(
        segtl=VERSION,
        python=platform.python_version(),
        system=platform.platform(),
        processor=processor(),
        cores=environment.cores(),
        memory_bytes=environment.free_memory(),
        device=device,
        packages={name: version_of(name) for name in PACKAGES},
    )
