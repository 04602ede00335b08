"""How often does prediction warn about images like the training images, and does it notice exchanged channels?

Training images are summed up from the committed fingerprints (``plans/NAME.fingerprint.json``) of the cases in each
training list of ``bench/lists``; the ``test`` list is compared with them. An order is every other order of the channels
of a test case. *Taken alone* gives one channel in place of another one to a model of one channel.

    python bench/channel_checks.py
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import replace

from runner import HERE, lists_of

from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.rules.training_images import measures_of, training_images
from seg_transfer.planning.site_parts import SiteImages
from seg_transfer.planning.training_images import ImageMeasures, TrainingImages
from seg_transfer.planning.unlike_training import unlike_training

DATASETS = ("abdomen_mr", "cells", "hippocampus", "retina", "sarcoma")


def selected(fingerprint: Fingerprint, cases: Sequence[str]) -> Fingerprint:
    wanted = set(cases)
    return fingerprint.model_copy(update={"cases": tuple(case for case in fingerprint.cases if case.id in wanted)})


def noticed(images: Sequence[ImageMeasures], training: TrainingImages, names: Sequence[str]) -> int:
    return sum(bool(unlike_training(image, training, names, "mm")) for image in images)


def exchanged(images: Sequence[ImageMeasures], names: Sequence[str]) -> list[ImageMeasures]:
    """Every image in every wrong order of its channels."""
    orders = list(itertools.permutations(range(len(names))))[1:]
    return [
        replace(image, channels=tuple(image.channels[index] for index in order)) for image in images for order in orders
    ]


def taken_alone(images: Sequence[ImageMeasures], training: TrainingImages, names: Sequence[str]) -> tuple[int, int]:
    """Warnings, and images, where one channel is given to a model of another one alone."""
    warnings = count = 0
    for given, own in itertools.permutations(range(len(names)), 2):
        alone = training.model_copy(update={"channels": (training.channels[own],)})
        single = [replace(image, channels=(image.channels[given],)) for image in images]
        warnings += noticed(single, alone, [names[own]])
        count += len(single)
    return warnings, count


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| data set | training cases | false alarms | wrong orders noticed | taken alone |\n|---|---|---|---|---|")
    for name in DATASETS:
        fingerprint = Fingerprint.load(HERE.parent / "plans" / f"{name}.fingerprint.json")
        lists = lists_of(name)
        names = [channel.name for channel in fingerprint.channels]
        held_out = [measures_of(case) for case in selected(fingerprint, lists["test"]).cases]
        for size, cases in lists["few_shot"].items():
            training = training_images(SiteImages.of(selected(fingerprint, cases).cases), fingerprint.dimension)
            alarms = f"{noticed(held_out, training, names)} of {len(held_out)}"
            wrong = exchanged(held_out, names)
            orders = f"{noticed(wrong, training, names)} of {len(wrong)}" if wrong else "–"
            warnings, count = taken_alone(held_out, training, names)
            print(f"| {name} | {size} | {alarms} | {orders} | {f'{warnings} of {count}' if count else '–'} |")


if __name__ == "__main__":
    main()
