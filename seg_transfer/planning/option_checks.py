"""Checks of planning options against the data set and the machine; those of options alone are in the options type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from seg_transfer.catalogue.encoders import entry, volume_encoders
from seg_transfer.data.splits import Split
from seg_transfer.errors import UserError
from seg_transfer.options.plan_options import PlanOptions
from seg_transfer.planning.fingerprint import Fingerprint, PooledChannel
from seg_transfer.planning.resources import Resources
from seg_transfer.planning.rules import encoder as encoder_rule
from seg_transfer.planning.rules import head as head_rule


def check_before_measuring(
    options: PlanOptions, *, dataset: str, dimension: int, channels: Sequence[str], resources: Resources
) -> None:
    """Refuse options that do not fit the data set or the machine, whatever is measured later.

    Args:
        options: The user's.
        dataset: Name of the data set.
        dimension: 2 for 2D images, 3 for volumes.
        channels: Names of the image channels.
        resources: What there is to train with.

    Raises:
        UserError: Naming the option and what can be done.
    """
    if dimension == 2 and options.config in ("2.5d", "3d"):
        what = f"the cases of {dataset} have a single slice: there is no {options.config}"
        raise UserError(what, where="--config", hint="take --config 2d")
    encoder, _ = encoder_rule.encoder(options.encoder)
    if options.config == "3d" and not entry(encoder).volumes:
        hint = f"take --config 2.5d, or another --encoder: {', '.join(volume_encoders())}"
        raise UserError(f"{encoder} does not convert to 3D", where="--config 3d", hint=hint)
    for name, kind in options.normalization.items():
        if name not in channels:
            where = f"--normalization {name}={kind}"
            raise UserError(f"there is no channel {name!r}", where=where, hint=f"channels: {', '.join(channels)}")
    if options.weights == "imagenet" and resources.offline and not resources.imagenet_cached(encoder):
        raise UserError(
            f"the ImageNet weights of {encoder} are not on this machine, and --offline forbids to fetch them",
            where="--weights",
            hint=f"`segtl encoders fetch {encoder}` with a network, or take --weights bundled or a file",
        )


def check_against_measurements(options: PlanOptions, fingerprint: Fingerprint, splits: Sequence[Split]) -> None:
    """Refuse options that the measurements rule out, and folds that do not fit the cases.

    Args:
        options: The user's, checked by :func:`check_before_measuring`.
        fingerprint: The measurements.
        splits: The folds.

    Raises:
        UserError: Naming the option and what can be done.
    """
    _check_normalization(options, {channel.name: channel for channel in fingerprint.channels})
    known = {case.id for case in fingerprint.cases}
    if not splits:
        raise UserError("there are no folds", where="--splits", hint="give at least one")
    for fold, split in enumerate(splits):
        if unknown := sorted({*split.train, *split.validation} - known):
            raise UserError(
                f"fold {fold} names cases that are not among the labelled ones: {', '.join(unknown[:5])}",
                where="--splits",
                hint=f"cases are called such as {fingerprint.cases[0].id}",
            )
    head_rule.check_data(options.head, splits, has_regions=bool(fingerprint.regions))


def _check_normalization(options: PlanOptions, channels: Mapping[str, PooledChannel]) -> None:
    for name, kind in options.normalization.items():
        where, channel = f"--normalization {name}={kind}", channels[name]
        figures = channel.foreground
        if kind == "clip_zscore" and (figures is None or figures.percentile_00_5 >= figures.percentile_99_5):
            raise UserError("the channel's foreground has no range to clip to", where=where, hint="take zscore")
        if kind == "minmax" and channel.minimum >= channel.maximum:
            raise UserError(f"the channel is {channel.minimum:g} everywhere", where=where, hint="take none")
