"""The transfer evidence of a plan: the frozen encoder's features on this data, compared with random weights.

A small part of the probe, so that a plan takes seconds: one classifier, the stages in use, few cases, and nothing is
segmented.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg_transfer.evidence.aggregate import estimate
from seg_transfer.evidence.classifiers import cross_validate
from seg_transfer.evidence.features import FrozenEncoder
from seg_transfer.evidence.frozen_encoders import frozen_encoder, probed_model, recalibration_images
from seg_transfer.evidence.labelled_voxels import CaseSamples, case_groups, sample_cases
from seg_transfer.planning.evidence_record import TransferEvidence
from seg_transfer.planning.plan import Plan, Weights
from seg_transfer.preprocessing.store import Store
from seg_transfer.util.progress import track

DRAWS = 2
"""Draws of random weights."""
PER_LABEL = 100
"""At most so many voxels of each label and case."""
SLICES_PER_LABEL = 2
"""Voxels of a label are taken from so many slices of a case."""

Accuracies = list[NDArray[np.float64]]
"""Of each stage, ``(cases,)``."""


def gather(
    plan: Plan, store: Store, cases: Sequence[str], *, measured_on: str, seed: int, device: str
) -> TransferEvidence:
    """Compare the plan's frozen encoder with random weights on some cases.

    BatchNorm of random weights is recalibrated on this data; that of the plan's weights as in the plan.

    Args:
        plan: Names the encoder, its weights and the patch.
        store: The preprocessed cases.
        cases: At least two, of more than one group.
        measured_on: Description of the cases for the record.
        seed: Random seed.
        device: Device of the networks.

    Raises:
        UserError: If all labelled voxels outside some fold's cases have one label, or weights cannot be loaded.
    """
    started = time.perf_counter()
    groups = case_groups(plan)
    drawn = sample_cases(
        plan,
        store,
        cases,
        [groups[case] for case in cases],
        per_label=PER_LABEL,
        seed=seed,
        slices_per_label=SLICES_PER_LABEL,
    )
    images = list(recalibration_images(plan, store, cases, seed=seed))
    keeps_source = plan.recipe.strategy.batchnorm == "source"
    model = probed_model(plan, first=plan.model.stages)
    sampled = _SampledVoxels(store, cases, drawn, seed)
    pretrained, *random = track(
        (
            sampled.accuracies(
                frozen_encoder(
                    plan,
                    model if draw is None else model.model_copy(update={"weights": Weights(source="none")}),
                    seed=seed + (draw or 0),
                    device=device,
                    recalibrate=() if keeps_source and draw is None else images,
                )
            )
            for draw in (None, *range(DRAWS))
        ),
        total=1 + DRAWS,
        title="measuring transfer",
    )
    means = [np.mean(draws, axis=0) for draws in zip(*random, strict=True)]
    return TransferEvidence(
        measured_on=measured_on,
        cases=len(cases),
        voxels=len(drawn.voxels.classes),
        pretrained=tuple(map(estimate, pretrained)),
        random=tuple(map(estimate, means)),
        gain=tuple(estimate(known - mean) for known, mean in zip(pretrained, means, strict=True)),
        seconds=round(time.perf_counter() - started, 1),
    )


@dataclass(frozen=True)
class _SampledVoxels:
    """The sampled voxels of some cases."""

    store: Store
    cases: Sequence[str]
    drawn: CaseSamples
    seed: int

    def accuracies(self, encoder: FrozenEncoder) -> Accuracies:
        """Balanced accuracy of the softmax on held-out cases."""
        found = [
            encoder.at(self.store.case(case).image[:], samples.positions)
            for case, samples in zip(self.cases, self.drawn.samples, strict=True)
        ]
        stages = [np.concatenate(stage) for stage in zip(*found, strict=True)]
        return [
            cross_validate(features, self.drawn.voxels, seed=self.seed, kinds=("softmax",))
            .scores["softmax"]
            .balanced_accuracy
            for features in stages
        ]
