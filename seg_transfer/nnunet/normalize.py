"""nnU-Net's normalization schemes, in float32 as nnU-Net computes them (Isensee et al., Nature Methods 2021)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from seg_transfer.data.nnunet import Intensities
from seg_transfer.errors import UserError
from seg_transfer.preprocessing.resample import Floats

Mask = NDArray[np.bool_]
SMALLEST = 1e-8
"""Standard deviations and ranges are at least this."""


def _zscore(channel: Floats, mask: Mask | None, _: Intensities | None) -> None:
    inside = channel if mask is None else channel[mask]
    inside = (inside - inside.mean()) / max(inside.std(), SMALLEST)
    channel[... if mask is None else mask] = inside


def _ct(channel: Floats, _: Mask | None, figures: Intensities | None) -> None:
    assert figures is not None, "the model folder is refused without figures"
    np.clip(channel, figures.percentile_00_5, figures.percentile_99_5, out=channel)
    channel -= figures.mean
    channel /= max(figures.std, SMALLEST)


def _none(channel: Floats, mask: Mask | None, figures: Intensities | None) -> None:
    pass


def _to_range(channel: Floats, mask: Mask | None, figures: Intensities | None) -> None:
    channel -= channel.min()
    channel /= max(channel.max(), SMALLEST)


def _rgb(channel: Floats, mask: Mask | None, figures: Intensities | None) -> None:
    if channel.min() < 0 or channel.max() > 255:
        what = f"RGBTo01Normalization expects values from 0 to 255, not {channel.min():g} to {channel.max():g}"
        raise UserError(what, hint="give images such as those of training")
    channel /= 255.0


SCHEMES: dict[str, Callable[[Floats, Mask | None, Intensities | None], None]] = {
    "ZScoreNormalization": _zscore,
    "CTNormalization": _ct,
    "NoNormalization": _none,
    "RescaleTo01Normalization": _to_range,
    "RGBTo01Normalization": _rgb,
}
"""Name in plans -> function that changes one channel in place: of the channel, the mask of what is not zero (None
unless the plans say that only this is normalized), and the data set's figures."""
