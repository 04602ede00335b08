"""Regions, and the ignore label."""

from __future__ import annotations

import numpy as np

from seg_transfer.data.description import Region
from seg_transfer.planning.counted import Counted


def regions(named: tuple[Region, ...]) -> tuple[tuple[Region, ...], str]:
    """Take the regions of ``dataset.json``.

    Args:
        named: In order of precedence; at least one.
    """
    if named[0].numbered:
        return named, (
            f"dataset.json says that label files number the objects of {named[0].name}. Their cores are a second "
            "output: those of touching objects do not touch, so that each predicted core becomes one object"
        )
    listed = (f"{region.name} is {' + '.join(map(str, region.values))}, written as {region.writes}" for region in named)
    return named, (
        f"dataset.json defines regions: {'; '.join(listed)}. Regions may overlap, so each is an output with its own "
        "sigmoid; in label maps, later ones overwrite earlier ones"
    )


def ignore(value: int, annotated: Counted) -> tuple[int, str]:
    """Take the ignore label of ``dataset.json``.

    Args:
        value: Value of voxels that are not annotated.
        annotated: Share of annotated voxels of each case.
    """
    shares, cases = annotated.column(), annotated.size
    partly = int((shares.values < 1) @ np.array(annotated.counts))
    mean, _ = shares.mean_and_std()
    return value, (
        f"dataset.json calls {value} ignore: {partly} of {cases} cases are partly annotated, {mean:.1%} of "
        "the voxels on average; the others are neither learned from nor scored"
    )
