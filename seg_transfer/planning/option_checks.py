"""Checks of planning options against the data set and the machine."""

from __future__ import annotations

from collections.abc import Sequence

from seg_transfer.catalogue.encoders import entry, volume_encoders
from seg_transfer.data.splits import Split
from seg_transfer.errors import UserError
from seg_transfer.options.plan_options import PlanOptions
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.resources import Resources
from seg_transfer.planning.rules import encoder as encoder_rule
from seg_transfer.planning.rules import head as head_rule


def check_before_measuring(
    options: PlanOptions, *, dataset: str, dimension: int, channels: Sequence[str], resources: Resources
) -> None:
    """Refuse options that do not fit the data set or the machine, before the data set is measured.

    Args:
        options: Planning options.
        dataset: Name of the data set.
        dimension: 2 for 2D images, 3 for volumes.
        channels: Names of the image channels.
        resources: Resources of the training.

    Raises:
        UserError: If an option is impossible.
    """
    if dimension == 2 and options.config in ("2.5d", "3d"):
        what = f"the cases of {dataset} have a single slice, which excludes {options.config}"
        raise UserError(what, where="--config", hint="use --config 2d")
    encoder, _ = encoder_rule.encoder(options.encoder)
    takes_volumes = entry(encoder, "--encoder").volumes  # refuses an unknown encoder
    if options.config == "3d" and not takes_volumes:
        hint = f"use --config 2.5d, or another --encoder: {', '.join(volume_encoders())}"
        raise UserError(f"{encoder} does not convert to 3D", where="--config 3d", hint=hint)
    for name, kind in options.normalization.items():
        if name not in channels:
            where = f"--normalization {name}={kind}"
            raise UserError(f"there is no channel {name!r}", where=where, hint=f"channels: {', '.join(channels)}")
    if options.weights == "imagenet" and resources.offline and not resources.imagenet_cached(encoder):
        raise UserError(
            f"the ImageNet weights of {encoder} are not on this machine, and --offline forbids downloads",
            where="--weights",
            hint=f"run `segtl encoders fetch {encoder}` online, or use --weights bundled or a file",
        )


def check_against_measurements(options: PlanOptions, fingerprint: Fingerprint, splits: Sequence[Split]) -> None:
    """Refuse options that the measurements exclude.

    Args:
        options: Planning options, checked by :func:`check_before_measuring`.
        fingerprint: Measurements of the data set.
        splits: The folds.

    Raises:
        UserError: If an option is impossible.
    """
    channels = {channel.name: channel for channel in fingerprint.channels}
    for name, kind in options.normalization.items():
        where, channel = f"--normalization {name}={kind}", channels[name]
        foreground = channel.foreground
        if kind == "clip_zscore" and (foreground is None or foreground.percentile_00_5 >= foreground.percentile_99_5):
            raise UserError("the channel's foreground has no range to clip to", where=where, hint="use zscore")
        if kind == "minmax" and channel.minimum >= channel.maximum:
            raise UserError(f"the channel is {channel.minimum:g} everywhere", where=where, hint="use none")
    head_rule.check_data(options.head, splits, has_regions=bool(fingerprint.regions))
