"""Packages that only some commands need: each belongs to an extra of segtl's distribution."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Literal

from seg_transfer.errors import EveryCaseFails, cause_of
from seg_transfer.util.limits import limit_reached
from seg_transfer.version import DISTRIBUTION

Extra = Literal["cluster", "dicom", "itk", "mesh", "nnunet", "onnx", "remote", "serve", "tracking", "zarr"]
PACKAGES: dict[Extra, tuple[str, ...]] = {
    "cluster": ("distributed", "dask_jobqueue"),
    "dicom": ("SimpleITK", "highdicom", "pydicom", "pynetdicom"),
    "itk": ("SimpleITK",),
    "mesh": ("skimage",),
    "nnunet": ("dynamic_network_architectures",),
    "onnx": ("onnx", "onnxscript"),
    "remote": ("fsspec", "s3fs"),
    "serve": ("fastapi", "python_multipart", "uvicorn"),
    "tracking": ("tensorboard", "mlflow", "wandb"),
    "zarr": ("zarr",),
}
"""What is imported of each extra. Unless it is asked for, training goes on without TensorBoard."""


class MissingPackage(EveryCaseFails):
    """A package of an extra is missing, or cannot be imported."""


def check_extra(extra: Extra, purpose: str, *, only: str | None = None, where: Path | str | None = None) -> None:
    """Import the packages of an extra.

    Args:
        extra: Its name in ``pyproject.toml``.
        purpose: What needs them, with which the message begins, such as ``writing ONNX``.
        only: The only package that is needed; None for all.
        where: The file or option that asks for it.

    Raises:
        MissingPackage: If a package is missing or cannot be imported, with the command that installs the extra.
    """
    for name in PACKAGES[extra]:
        if only in (None, name):
            try:
                import_module(name)
            except ImportError as error:
                if limit_reached(error) is not None:
                    raise
                missing = isinstance(error, ModuleNotFoundError) and error.name == name
                why = "is not installed" if missing else f"cannot be imported: {cause_of(error)}"
                what = f"{purpose} needs the package {name}, which {why}"
                hint = f"install it: pip install '{DISTRIBUTION}[{extra}]'"
                raise MissingPackage(what, where=where, hint=hint) from None
