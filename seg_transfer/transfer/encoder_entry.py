"""Finds the entry of any encoder; torch is loaded for ``timm/NAME`` alone."""

from __future__ import annotations

from seg_transfer.catalogue.encoders import TIMM, EncoderEntry, entry
from seg_transfer.util.environment import check_torchvision


def encoder_entry(name: str, where: str = "encoder") -> EncoderEntry:
    """The entry of an encoder; one called ``timm/NAME`` is known to the catalogue of this process from then on.

    Args:
        name: Name in the catalogue, or ``timm/NAME``.
        where: What gives the name, for the error.

    Raises:
        UserError: If there is no such encoder, or it cannot be one; it says why.
    """
    if not name.startswith(TIMM):
        return entry(name, where)
    check_torchvision()
    from seg_transfer.transfer.describe import describe

    return describe(name, where)
