"""The transfer evidence of a plan: the frozen encoder's features on this data, compared with random weights.

A small part of the probe, so that planning takes seconds: one classifier, the stages in use, few cases, and no
segmentation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from seg_transfer.evidence.aggregate import estimate
from seg_transfer.evidence.classifiers import cross_validate
from seg_transfer.evidence.frozen_encoders import frozen_encoder, probed_model, recalibration_images
from seg_transfer.evidence.labelled_voxels import sample_cases
from seg_transfer.planning.evidence_record import TransferEvidence
from seg_transfer.planning.plan import Plan, Weights
from seg_transfer.preprocessing.store import Store
from seg_transfer.util.progress import track

DRAWS = 2
"""Draws of random weights."""
PER_LABEL = 100
"""Largest number of voxels of each label and case."""
WINDOWS_PER_LABEL = 2
"""Slices, in 3D windows, of a case that voxels of a label are taken from."""


def gather(
    plan: Plan, store: Store, cases: Sequence[str], *, measured_on: str, seed: int, device: str
) -> TransferEvidence:
    """Compare the plan's frozen encoder with random weights on some cases.

    BatchNorm of random weights is recalibrated on this data; that of the plan's weights if the plan recalibrates it.

    Args:
        plan: The plan, for the encoder, its weights and the patch.
        store: The preprocessed cases.
        cases: Identifiers of at least two cases, of more than one group.
        measured_on: Digest of what the measurement depends on, for the record.
        seed: Random seed.
        device: Device of the networks.

    Raises:
        TooFewError: If all labelled voxels outside some fold's cases have one label.
        UserError: If weights cannot be loaded.
    """
    started = time.perf_counter()
    sampled = sample_cases(plan, store, cases, per_label=PER_LABEL, seed=seed, parts_per_label=WINDOWS_PER_LABEL)
    images = list(recalibration_images(plan, store, cases, seed=seed))
    keeps_source = plan.recipe.strategy.batchnorm == "source"
    model = probed_model(plan, stages=plan.model.stages)
    random_model = model.model_copy(update={"weights": Weights(source="none")})

    encoders = [
        frozen_encoder(
            plan,
            model if draw is None else random_model,
            seed=seed + (draw or 0),
            device=device,
            recalibrate=() if keeps_source and draw is None else images,
        )
        for draw in (None, *range(DRAWS))
    ]

    def features() -> Iterator[list[list[NDArray[np.float32]]]]:
        """Of each case, which is read once, those of each encoder and stage."""
        for case, samples in zip(cases, sampled.samples, strict=True):
            image = store.case(case).image[:]
            yield [encoder.at(image, samples.positions) for encoder in encoders]

    def accuracy(of_cases: Sequence[list[NDArray[np.float32]]]) -> NDArray[np.float64]:
        """Balanced accuracy of the softmax with an encoder's features, ``(stages, cases)``."""
        validated = [
            cross_validate(np.concatenate(stage), sampled.voxels, seed=seed, kinds=("softmax",))
            for stage in zip(*of_cases, strict=True)
        ]
        return np.stack([stage.scores["softmax"].balanced_accuracy for stage in validated])

    found = list(track(features(), total=len(cases), title="measuring transfer"))
    pretrained, *draws = (accuracy(of_encoder) for of_encoder in zip(*found, strict=True))
    random = np.mean(draws, axis=0)
    return TransferEvidence(
        measured_on=measured_on,
        cases=len(cases),
        voxels=len(sampled.voxels.classes),
        pretrained=tuple(map(estimate, pretrained)),
        random=tuple(map(estimate, random)),
        gain=tuple(map(estimate, pretrained - random)),
        seconds=round(time.perf_counter() - started, 1),
    )
