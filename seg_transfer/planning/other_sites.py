"""Reads other sites' fingerprints and adds them to this site's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import add
from pathlib import Path

from pydantic import ValidationError

from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import UserError
from seg_transfer.planning.site_fingerprint import SiteFingerprint
from seg_transfer.util.records import content_digest, wrong_fields

LARGEST_INTENSITY = 1e15
"""The largest that a plan can hold."""
LONGEST_QUOTE = 200
OtherSites = dict[Path, SiteFingerprint]


def read_sites(files: Sequence[Path], dataset: Dataset) -> OtherSites:
    """Read the fingerprints of other sites.

    Args:
        files: Their ``site.json``.
        dataset: This site's data set.

    Raises:
        UserError: If a file is damaged or of another version, or its site has other channels, labels or units.
    """
    others = {file: SiteFingerprint.load(file) for file in files}
    for file, other in others.items():
        for what, here, there in _differences(dataset, other):
            raise UserError(
                f"this site has other {what} than the data set: {there[:LONGEST_QUOTE]} instead of "
                f"{here[:LONGEST_QUOTE]}",
                where=file,
                hint="describe the data alike at all sites, in dataset.json, and plan again",
            )
        if any(max(-one.minimum, one.maximum) > LARGEST_INTENSITY for one in other.channels):
            what = f"an intensity beyond {LARGEST_INTENSITY:g}"
            raise UserError(what, where=file, hint="look for damaged images at that site")
    return others


def add_sites(own: SiteFingerprint, others: OtherSites) -> SiteFingerprint:
    """The sum of this site's and the other sites' fingerprints.

    Sums of real numbers depend on their order. It is that of the fingerprints' digests, so that all sites get the same.

    Raises:
        UserError: If a fingerprint would be counted twice, or a sum is impossible.
    """
    sites = {_digest(own): own}
    for file, other in others.items():
        digest = _digest(other)
        if digest in sites:
            what = "this site's own fingerprint" if sites[digest] is own else "a fingerprint that is given twice"
            raise UserError(what, where=file, hint="give the site.json of each other site once")
        sites[digest] = other
    try:
        return reduce(add, (sites[digest] for digest in sorted(sites)))
    except ValidationError as error:
        what = f"the fingerprints do not add up: {'; '.join(wrong_fields(error))}"
        raise UserError(what, where=", ".join(map(str, others)), hint=SiteFingerprint.if_wrong) from None


def _differences(dataset: Dataset, other: SiteFingerprint) -> Iterator[tuple[str, str, str]]:
    """What differs in the two descriptions, and both in words."""
    for what, here, there in (
        ("dimensions", dataset.dimension, other.dimension),
        ("units", dataset.unit, other.unit),
        ("channels", dataset.channel_names, tuple(one.name for one in other.channels)),
        ("labels", dataset.labels[1:], tuple((one.name, one.value) for one in other.labels)),
        ("regions", dataset.regions, other.regions),
        ("ignored label values", dataset.ignore, other.ignore),
    ):
        if here != there:
            yield what, repr(here), repr(there)


def _digest(site: SiteFingerprint) -> str:
    return content_digest(json.loads(site.to_json()))
