"""How often does `segtl check` warn about cases of real data sets, and does it notice one case that was made wrong?

False alarms: cases with at least one warning, of the committed fingerprints (``plans/NAME.fingerprint.json``), whose
cases are taken to be right; fragments are of the label maps. Noticed: one thing is changed in the measurements of one
case at a time: spacing in centimetres, intensities halved, the first channel exchanged with the last, the image
mirrored from left to right, the first two labels exchanged, the label map laid somewhere else (its labels are as bright
as the image is on average). "By brightness" are cases with a label that is unusually dark or bright.

    python bench/case_checks.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from channel_checks import DATASETS
from runner import DATA, DATA_HELP, HERE

from seg_transfer.data.dataset import Dataset, find_dataset
from seg_transfer.data.fragments import Fragments, count_fragments
from seg_transfer.planning.case_fingerprint import CaseChannel, CaseFingerprint, CaseLabel, LabelPosition
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.unusual import unusual

MARK = "unusually dark or bright"
"""What the warnings of brightness have in them."""
Change = Callable[[CaseFingerprint], CaseFingerprint]


def in_centimetres(case: CaseFingerprint) -> CaseFingerprint:
    return case.model_copy(update={"spacing": tuple(size / 10 for size in case.spacing)})


def halved(channel: CaseChannel) -> CaseChannel:
    figures = {name: getattr(channel, name) / 2 for name in ("minimum", "maximum", "mean", "std")}
    means = tuple(None if mean is None else mean / 2 for mean in channel.label_means)
    return channel.model_copy(update={**figures, "label_means": means})


def darker(case: CaseFingerprint) -> CaseFingerprint:
    return case.model_copy(update={"channels": tuple(map(halved, case.channels))})


def exchanged_channels(case: CaseFingerprint) -> CaseFingerprint:
    first, *middle, last = case.channels
    return case.model_copy(update={"channels": (last, *middle, first)})


def mirrored_position(position: LabelPosition) -> LabelPosition:
    return LabelPosition(lower=1 - position.upper, upper=1 - position.lower, low_half=1 - position.low_half)


def mirrored_label(label: CaseLabel) -> CaseLabel:
    if label.positions is None:
        return label
    x, y, z = label.positions
    return label.model_copy(update={"positions": (mirrored_position(x), y, z)})


def mirrored(case: CaseFingerprint) -> CaseFingerprint:
    return case.model_copy(update={"labels": tuple(map(mirrored_label, case.labels))})


def exchanged_means(channel: CaseChannel) -> CaseChannel:
    background, first, second, *others = channel.label_means
    return channel.model_copy(update={"label_means": (background, second, first, *others)})


def exchanged_labels(case: CaseFingerprint) -> CaseFingerprint:
    first, second, *others = case.labels
    channels = tuple(map(exchanged_means, case.channels))
    return case.model_copy(update={"labels": (second, first, *others), "channels": channels})


def means_of_the_image(channel: CaseChannel) -> CaseChannel:
    means = tuple(None if mean is None else channel.mean for mean in channel.label_means)
    return channel.model_copy(update={"label_means": means})


def laid_elsewhere(case: CaseFingerprint) -> CaseFingerprint:
    return case.model_copy(update={"channels": tuple(map(means_of_the_image, case.channels))})


CHANGES: Mapping[str, Change] = {
    "centimetres": in_centimetres,
    "half as bright": darker,
    "channels exchanged": exchanged_channels,
    "mirrored": mirrored,
    "labels exchanged": exchanged_labels,
    "labels elsewhere": laid_elsewhere,
}


def applies(name: str, fingerprint: Fingerprint) -> bool:
    if name == "centimetres":
        return fingerprint.unit == "mm"
    if name == "channels exchanged":
        return len(fingerprint.channels) > 1
    return name != "labels exchanged" or len(fingerprint.labels) > 1


def noticed(fingerprint: Fingerprint, change: Change, usual: Mapping[str, Sequence[str]]) -> int:
    """Changed cases with a warning that the case as it is does not have."""
    count = 0
    for index, case in enumerate(fingerprint.cases):
        cases = (*fingerprint.cases[:index], change(case), *fingerprint.cases[index + 1 :])
        found = unusual(fingerprint.model_copy(update={"cases": cases}), {}, only=case.id).get(case.id, ())
        count += bool(set(found) - set(usual.get(case.id, ())))
    return count


def fragments_of(dataset: Dataset) -> dict[str, tuple[Fragments, ...]]:
    count = partial(count_fragments, dataset=dataset)
    return {case.id: count(case) for case in dataset.cases}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help=DATA_HELP)
    given = parser.parse_args()
    print(f"| data set | cases | with a warning | by brightness | by fragments | {' | '.join(CHANGES)} |")
    print("|---" * (5 + len(CHANGES)) + "|")
    for name in DATASETS:
        fingerprint = Fingerprint.load(HERE.parent / "plans" / f"{name}.fingerprint.json")
        usual = unusual(fingerprint, {})
        count = len(fingerprint.cases)
        texts = fragments_of(find_dataset(given.data / name).select([case.id for case in fingerprint.cases]))
        by_brightness = sum(any(MARK in text for text in found) for found in usual.values())
        by_fragments = sum(any("fragments" in text for text in found) for found in unusual(fingerprint, texts).values())
        cells = [
            f"{noticed(fingerprint, change, usual)} of {count}" if applies(what, fingerprint) else "–"
            for what, change in CHANGES.items()
        ]
        print(
            f"| {name} | {count} | {len(usual)} | {by_brightness} | {by_fragments} | {' | '.join(cells)} |", flush=True
        )


if __name__ == "__main__":
    main()
