"""How often does prediction warn about images like the training images, and does it notice wrong ones?

Training images are summed up from the committed fingerprints (``plans/NAME.fingerprint.json``) of the cases in each
training list of ``bench/lists``; the ``test`` list is compared with them. An order is every other order of the channels
of a test case. *Taken alone* gives one channel in place of another one to a model of one channel. Of label maps, the
reference of a test case stands for what is predicted: as it is, with one label gone, with a twentieth of it left.

    python bench/channel_checks.py
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import replace

from runner import HERE, lists_of

from seg_transfer.planning.case_fingerprint import CaseFingerprint
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.rules.training_images import measures_of, training_images
from seg_transfer.planning.training_images import ImageMeasures, TrainingImages
from seg_transfer.planning.unlike_training import unlike_training
from seg_transfer.planning.unlike_volumes import far_volumes

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


def volumes_of(case: CaseFingerprint, names: Sequence[str]) -> dict[str, float]:
    return {name: label.volume for name, label in zip(names, case.labels, strict=True)}


def shares_missed(cases: Sequence[CaseFingerprint], training: TrainingImages, names: Sequence[str], left: float) -> str:
    """Warnings, and labels, where this share of one label is left; those that a case does not hold are left out."""
    tried = [(volumes_of(case, names), name) for case in cases for name in names if volumes_of(case, names)[name]]
    found = sum(bool(far_volumes(volumes | {name: left * volumes[name]}, training)) for volumes, name in tried)
    return f"{found} of {len(tried)}"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    titles = ("data set", "training cases", "false alarms", "wrong orders noticed", "taken alone")
    of_labels = ("false alarms of label maps", "labels gone", "a twentieth left")
    print(f"| {' | '.join(titles + of_labels)} |\n{'|---' * len(titles + of_labels)}|")
    for name in DATASETS:
        fingerprint = Fingerprint.load(HERE.parent / "plans" / f"{name}.fingerprint.json")
        lists = lists_of(name)
        names = [channel.name for channel in fingerprint.channels]
        labels = [label.name for label in fingerprint.labels]
        tested = selected(fingerprint, lists["test"]).cases
        held_out = [measures_of(case) for case in tested]
        for size, cases in lists["few_shot"].items():
            site = selected(fingerprint, cases).site()
            training = training_images(site.images, fingerprint.dimension, site.labels)
            alarms = f"{noticed(held_out, training, names)} of {len(held_out)}"
            wrong = exchanged(held_out, names)
            orders = f"{noticed(wrong, training, names)} of {len(wrong)}" if wrong else "–"
            warnings, count = taken_alone(held_out, training, names)
            alone = f"{warnings} of {count}" if count else "–"
            maps = sum(bool(far_volumes(volumes_of(case, labels), training)) for case in tested)
            missed = [shares_missed(tested, training, labels, left) for left in (0.0, 0.05)]
            print(
                f"| {name} | {size} | {alarms} | {orders} | {alone} | {maps} of {len(tested)} | {' | '.join(missed)} |"
            )


if __name__ == "__main__":
    main()
