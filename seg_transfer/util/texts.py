"""Short forms of lists and versions for messages."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

from seg_transfer.errors import printable


def first_of(values: Iterable[object], most: int = 6) -> str:
    """The first values as text, and how many more there are: ``a, b and 3 more``."""
    texts = [str(value) for value in values]
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {more} more" if more > 0 else "")


def unformatted(text: str) -> str:
    """The text as matplotlib shows it as it is: ``$`` starts no formula, and ``_`` hides no entry of a legend."""
    shown = printable(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def version_of(package: str) -> str:
    """The version of an installed package, or ``not installed``; the package is not imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
