"""Packages that only some commands need: each belongs to an extra of segtl's distribution."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Literal

from seg_transfer.errors import UserError

Extra = Literal["dicom", "onnx"]
PACKAGES: dict[Extra, tuple[str, ...]] = {"dicom": ("highdicom", "pydicom"), "onnx": ("onnx", "onnxscript")}
"""What is imported of each extra. TensorBoard is not here: without it, training writes no events for it and goes on."""


def check_extra(extra: Extra, purpose: str, *, where: Path | str | None = None) -> None:
    """Import the packages of an extra.

    Args:
        extra: Its name in ``pyproject.toml``.
        purpose: What needs them, with which the message begins, such as ``writing ONNX``.
        where: The file or option that asks for it.

    Raises:
        UserError: If a package is missing or cannot be imported, with the command that installs the extra.
    """
    for name in PACKAGES[extra]:
        try:
            import_module(name)
        except ImportError as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == name
            why = "is not installed" if missing else f"cannot be imported: {' '.join(str(error).split())}"
            hint = f"install it: pip install 'seg-transfer[{extra}]'"
            raise UserError(f"{purpose} needs the package {name}, which {why}", where=where, hint=hint) from None
