"""segtl: self-configuring medical image segmentation on an ImageNet-pretrained encoder.

The functions are those of :mod:`seg_transfer.api`; they are loaded when first used, so that importing the package
loads neither torch nor any reader of images.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seg_transfer.api import (
        card,
        encoders,
        evaluate,
        export,
        fetch_encoders,
        plan,
        predict,
        preprocess,
        probe,
        summary,
        train,
    )

# libgomp reads this once, when torch is loaded. By default its threads wait for each other in a long busy loop; beside
# one busy process a training step then took 3.5 s instead of 1.0, alone no less (bench/contention.py).
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

__all__ = [
    "card",
    "encoders",
    "evaluate",
    "export",
    "fetch_encoders",
    "plan",
    "predict",
    "preprocess",
    "probe",
    "summary",
    "train",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module("seg_transfer.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
