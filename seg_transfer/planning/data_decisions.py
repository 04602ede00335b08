"""Decisions of the plan's part ``data``."""

from __future__ import annotations

from seg_transfer.options.plan_options import PlanOptions
from seg_transfer.planning.data_plan import Channel, DataPlan, Label
from seg_transfer.planning.fields import Spacing, Triple
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.given_grid import GivenGrid
from seg_transfer.planning.reasons import Reasons
from seg_transfer.planning.rules import labels as labels_rule
from seg_transfer.planning.rules import normalization
from seg_transfer.planning.rules import spacing as spacing_rule
from seg_transfer.planning.site_fingerprint import SiteFingerprint


def plan_data(
    fingerprint: Fingerprint,
    site: SiteFingerprint,
    options: PlanOptions,
    reasons: Reasons,
    given: GivenGrid | None = None,
) -> DataPlan:
    """Decide how a case becomes an array.

    Args:
        fingerprint: Measurements of the data set.
        site: Sum of its cases, and of those of other sites if there are any.
        options: Planning options.
        reasons: Receives the reasons.
        given: Decisions of another program to take over.
    """
    take = reasons.take
    if given is None:
        decided = spacing_rule.axes(fingerprint.spacing, fingerprint.shape, dimension=fingerprint.dimension)
        axes = take("data.axes", decided)
        crop = take("data.crop_nonzero", spacing_rule.crop_nonzero(fingerprint.crop_ratio))
        spacing = take("data.spacing", _spacing(site, len(fingerprint.cases), axes, crop))
    else:
        axes = take("data.axes", given.axes)
        crop = take("data.crop_nonzero", given.crop_nonzero)
        spacing = take("data.spacing", given.spacing)
    ratio = 1.0 if fingerprint.dimension == 2 else spacing_rule.anisotropy([fingerprint.spacing[axis] for axis in axes])
    channels = _channels(fingerprint, options, reasons, given)
    if fingerprint.regions:
        take("data.regions", labels_rule.regions(fingerprint.regions))
    if fingerprint.ignore is not None:
        take("data.ignore", labels_rule.ignore(fingerprint.ignore, site.annotated))
    return DataPlan(
        dataset=fingerprint.dataset,
        dimension=fingerprint.dimension,
        unit=fingerprint.unit,
        channels=channels,
        labels=(
            Label(name="background", value=0),
            *(Label(name=label.name, value=label.value) for label in fingerprint.labels),
        ),
        regions=fingerprint.regions,
        ignore=fingerprint.ignore,
        cases=tuple(case.id for case in fingerprint.cases),
        axes=axes,
        spacing=spacing,
        fill_nan=take("data.fill_nan", spacing_rule.fill_nan(options.nan == "fill")),
        crop_nonzero=crop,
        image_order=take("data.image_order", spacing_rule.IMAGE_ORDER),
        slice_order=take("data.slice_order", spacing_rule.slice_order(ratio)),
    )


def _spacing(site: SiteFingerprint, own: int, axes: Triple, crop: bool) -> tuple[Spacing, str]:
    """Decide the spacing of the network's grid."""
    shape = site.cropped_shape if crop else site.shape
    slices, u, v = (shape[axis].median() for axis in axes)
    spacings = site.images.spacing[axes[0]], site.images.spacing[axes[1]], site.images.spacing[axes[2]]
    chosen, why = spacing_rule.target_spacing(spacings, (slices, u, v), dimension=site.dimension, unit=site.unit)
    others = site.cases - own
    return chosen, f"{why}; {others} of the cases are at other sites" if others else why


def _channels(
    fingerprint: Fingerprint, options: PlanOptions, reasons: Reasons, given: GivenGrid | None
) -> tuple[Channel, ...]:
    """Decide the normalization of each channel."""
    scale = normalization.shared_scale(fingerprint.channels, dimension=fingerprint.dimension)
    channels = []
    for index, channel in enumerate(fingerprint.channels):
        requested = options.normalization.get(channel.name, "auto")
        decision = normalization.normalization(
            channel,
            dimension=fingerprint.dimension,
            crop_ratio=fingerprint.crop_ratio,
            scale=scale,
            requested=None if requested == "auto" else requested,
        )
        if given is not None:
            taken, why = given.normalization[index]
            decision = (decision[0], f"{why}; {decision[1]}") if taken is None else (taken, why)
        chosen = reasons.take(f"data.channels.{index}.normalization", decision)
        channels.append(Channel(name=channel.name, normalization=chosen))
    return tuple(channels)
