"""What the network predicts in place of single labels, and which voxels it does not learn from."""

from __future__ import annotations

from collections.abc import Sequence

from seg_transfer.data.description import Region


def regions(found: tuple[Region, ...]) -> tuple[tuple[Region, ...], str]:
    """Take the regions that the data set names.

    Args:
        found: In order of precedence; at least one.
    """
    listed = (f"{region.name} is {' + '.join(map(str, region.values))}, written as {region.writes}" for region in found)
    return found, (
        f"dataset.json makes labels of several values: {'; '.join(listed)}. Regions overlap, so each is an output "
        "with a sigmoid of its own; later ones are painted over earlier ones"
    )


def ignore(value: int, annotated: Sequence[float]) -> tuple[int, str]:
    """Take the ignore label that the data set names.

    Args:
        value: Of voxels that are not annotated.
        annotated: Share of annotated voxels of each case.
    """
    partly = sum(share < 1 for share in annotated)
    mean = sum(annotated) / len(annotated)
    return value, (
        f"dataset.json calls {value} ignore: {partly} of {len(annotated)} cases are annotated in part, {mean:.1%} of "
        "the voxels on average; the others are neither learned from nor scored"
    )
