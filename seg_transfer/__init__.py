"""segtl: self-configuring medical image segmentation on an ImageNet-pretrained encoder.

Each function is one command, with the command's options and defaults; ``Segmenter`` keeps models in memory. They are
loaded when first used, so that importing the package loads neither torch nor any image reader.

Example:
    >>> import seg_transfer
    >>> seg_transfer.check("data/hippocampus").findings
    >>> seg_transfer.plan("data/hippocampus", work="work", time_budget=1200)
    >>> seg_transfer.probe(work="work")
    >>> seg_transfer.train(0, work="work")
    >>> seg_transfer.inspect("case_07", work="work").warnings
    >>> seg_transfer.predict("new_images", "predictions", work="work")
    >>> labels = seg_transfer.predict(array, spacing=(1.0, 1.0, 1.0), work="work")
    >>> seg_transfer.evaluate("predictions", "labels").mean_dice
    >>> seg_transfer.report(work="work")
    >>> seg_transfer.fetch_encoders(["resnet50"])
    >>> seg_transfer.pretrain("class_folders", output="my_encoder")
    >>> seg_transfer.export("model.segtl", work="work")
    >>> labels = seg_transfer.predict(array, spacing=(1.0, 1.0, 1.0), model="model.segtl")
    >>> labels = seg_transfer.Segmenter.load("model.segtl")(nibabel.load("ct.nii.gz"))
"""

import getpass
import logging
import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seg_transfer.workflow.check import check
    from seg_transfer.workflow.convert import convert
    from seg_transfer.workflow.dicom_seg import dicom_seg
    from seg_transfer.workflow.encoder_weights import encoders, fetch_encoders
    from seg_transfer.workflow.evaluate import evaluate
    from seg_transfer.workflow.export import card, export
    from seg_transfer.workflow.import_nnunet import import_nnunet
    from seg_transfer.workflow.inspect import inspect
    from seg_transfer.workflow.plan import plan
    from seg_transfer.workflow.predict import predict
    from seg_transfer.workflow.preprocess import preprocess
    from seg_transfer.workflow.pretrain import pretrain
    from seg_transfer.workflow.probe import probe
    from seg_transfer.workflow.report import report
    from seg_transfer.workflow.segmenter import Segmenter
    from seg_transfer.workflow.status import status
    from seg_transfer.workflow.summary import summary
    from seg_transfer.workflow.train import train

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent until the host configures logging

# libgomp reads this once, when torch is loaded. By default its threads wait for each other in a long busy loop. Beside
# one busy process a training step then took 3.5 s instead of 1.0; alone the setting changes nothing (docs/log.md).
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

# MONAI and torch ask for the user's name when they are imported, which fails for a number without a name, as in a
# container that runs as another user.
try:
    getpass.getuser()
except (KeyError, OSError):
    os.environ["USER"] = str(os.getuid())

__all__ = [
    "Segmenter",
    "card",
    "check",
    "convert",
    "dicom_seg",
    "encoders",
    "evaluate",
    "export",
    "fetch_encoders",
    "import_nnunet",
    "inspect",
    "plan",
    "predict",
    "preprocess",
    "pretrain",
    "probe",
    "report",
    "status",
    "summary",
    "train",
]
_MODULES = {
    "Segmenter": "segmenter",
    "card": "export",
    "encoders": "encoder_weights",
    "fetch_encoders": "encoder_weights",
}
"""Modules of :mod:`seg_transfer.workflow` whose name is another one."""


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module(f"seg_transfer.workflow.{_MODULES.get(name, name)}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
