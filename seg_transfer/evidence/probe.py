"""The probe: how well simple classifiers segment by frozen features, stage by stage.

The plan's encoder is compared with baselines: intensities, local filters, and the same encoder with random weights. The
gain of a stage over random weights is the contribution of pretraining. BatchNorm of random weights is recalibrated,
since statistics of other weights would handicap them. It is recalibrated on images of all cases, including the held-out
ones; their labels are not used.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg_transfer.data.geometry import Box
from seg_transfer.evidence.aggregate import FeatureScores, FeatureSet, aggregate
from seg_transfer.evidence.baselines import ImageFeatures
from seg_transfer.evidence.classifiers import affine, cross_validate, linear_heads, share_bias
from seg_transfer.evidence.features import FrozenEncoder
from seg_transfer.evidence.frozen_encoders import frozen_encoder, probed_model, recalibration_images
from seg_transfer.evidence.labelled_voxels import sample_cases
from seg_transfer.evidence.overlap import Overlaps
from seg_transfer.network.linear_head import LinearHead
from seg_transfer.planning.evidence_record import Probed, ProbeEvidence
from seg_transfer.planning.fields import part_hash
from seg_transfer.planning.plan import Plan, Weights
from seg_transfer.preprocessing.store import Store
from seg_transfer.util.progress import track

CASES = 20
DRAWS = 3
MOST_VOXELS = 10_000
"""In all cases together, so that more cases take little more time; the number of cases matters more."""
FEWEST_PER_LABEL = 20
SEGMENTED_CASES = 4
"""Held-out cases of the first fold that are segmented whole."""


class FeatureSource(Protocol):
    """Source of features in one or several stages; see :class:`FrozenEncoder` for the methods."""

    widths: tuple[int, ...]

    def at(self, image: NDArray[np.float32], positions: NDArray[np.integer]) -> list[NDArray[np.float32]]: ...

    def slabs(self, image: NDArray[np.float32], heads: Sequence[LinearHead]) -> Iterator[tuple[Box, Tensor]]: ...


@dataclass(frozen=True)
class SourceGroup:
    """Sources of features, and the feature sets that combine them."""

    sources: Sequence[FeatureSource]
    sets: Sequence[FeatureSet]


def run_probe(
    plan: Plan,
    store: Store,
    cases: Sequence[str],
    *,
    others: Mapping[str, Weights],
    context: bool,
    seed: int,
    device: str,
) -> ProbeEvidence:
    """Probe the plan's encoder and the baselines on some cases.

    Args:
        plan: The plan, for the encoder, its weights and the patch.
        store: The preprocessed cases.
        cases: The result of :func:`~seg_transfer.evidence.labelled_voxels.choose_cases`.
        others: Further encoders and their weights, probed by themselves and together with the plan's.
        context: Whether to append the mean over the slice or patch to each stage's features.
        seed: Random seed.
        device: Device of the networks.

    Raises:
        UserError: If there are too few cases, or weights cannot be loaded.
    """
    started = time.perf_counter()
    probe = _Probe(plan, store, cases, seed=seed)
    images = list(recalibration_images(plan, store, cases, seed=seed))
    keeps_source = plan.recipe.strategy.batchnorm == "source"
    encoders = {plan.model.encoder: plan.model.weights, **others}

    def encoder(name: str, draw: int | None = None) -> FrozenEncoder:
        """The encoder with its weights, or with the random weights of a draw in the same stages."""
        model = probed_model(plan, encoder=name, weights=encoders[name])
        if draw is not None:
            model = model.model_copy(update={"weights": Weights(source="none")})
        return frozen_encoder(
            plan,
            model,
            seed=seed + (draw or 0),
            device=device,
            recalibrate=() if keeps_source and draw is None else images,
            context=context,
        )

    def groups() -> Iterator[SourceGroup]:
        for kind in ("raw", "filters"):
            features = ImageFeatures(kind, plan)
            yield SourceGroup([features], [FeatureSet(kind, None, None, None, ((0, 0, features.widths[0]),))])
        for draw in (None, *range(DRAWS)):
            built = {name: encoder(name, draw) for name in encoders}
            yield SourceGroup(list(built.values()), _sets("pretrained" if draw is None else "random", built))

    scores = [
        score for group in track(groups(), total=3 + DRAWS, title="probing") for score in probe.score_group(group)
    ]
    return ProbeEvidence(
        plan=part_hash(plan.data, plan.model),
        configuration=plan.model.configuration,
        weights={name: weights.source for name, weights in encoders.items()},
        batchnorm="source" if keeps_source else "recalibrated",
        context=context,
        draws=DRAWS,
        cases=len(cases),
        folds=len(probe.voxels.folds()),
        held_out=len(probe.held_out),
        voxels=len(probe.voxels.classes),
        seed=seed,
        seconds=round(time.perf_counter() - started, 1),
        features=aggregate(scores),
    )


class _Probe:
    """Cases and sampled voxels, the same for every feature set."""

    def __init__(self, plan: Plan, store: Store, cases: Sequence[str], *, seed: int) -> None:
        self.plan, self.store, self.cases, self.seed = plan, store, cases, seed
        per_label = max(FEWEST_PER_LABEL, MOST_VOXELS // (len(plan.data.labels) * len(cases)))
        sampled = sample_cases(plan, store, cases, per_label=per_label, seed=seed)
        self.samples, self.voxels, self.weights = sampled.samples, sampled.voxels, sampled.weights
        self.train, test = self.voxels.folds()[0]
        self.held_out = [cases[index] for index in np.unique(self.voxels.cases[test])[:SEGMENTED_CASES]]

    def score_group(self, group: SourceGroup) -> list[FeatureScores]:
        """Cross-validate every feature set of a group, and segment the held-out cases with each."""
        collected: list[list[list[NDArray[np.float32]]]] = [[[] for _ in source.widths] for source in group.sources]
        for case, samples in zip(self.cases, self.samples, strict=True):
            image = self.store.case(case).image[:]
            for source, of_stages in zip(group.sources, collected, strict=True):
                for of_cases, values in zip(of_stages, source.at(image, samples.positions), strict=True):
                    of_cases.append(values)
        stages = [[np.concatenate(of_cases) for of_cases in of_stages] for of_stages in collected]
        scores, heads = [], []
        for feature_set in group.sets:
            features = np.concatenate([stages[source][stage] for source, stage, _ in feature_set.parts], axis=1)
            validated = cross_validate(features, self.voxels, seed=self.seed)
            weight, bias = affine(validated.softmax, self.voxels.labels)
            bias = bias + share_bias(validated.logits["softmax"], self.voxels, self.weights, self.train)
            heads.append(linear_heads(weight, bias, feature_set.parts))
            scores.append(validated.scores)
        overlaps = self._segment(group, heads)
        return [
            FeatureScores(feature_set, scores[index], overlaps.mean_dice(index))
            for index, feature_set in enumerate(group.sets)
        ]

    def _segment(self, group: SourceGroup, heads: Sequence[Mapping[int, LinearHead]]) -> Overlaps:
        """Segment the held-out cases with each feature set's heads, given by source."""
        overlaps = Overlaps(self.plan.data, len(heads))
        readers = [
            [index for index, by_source in enumerate(heads) if source in by_source]
            for source in range(len(group.sources))
        ]
        for case in self.held_out:
            overlaps.begin_case()
            image, label = self.store.case(case).image[:], self.store.case(case).label[:]
            slabs = [
                source.slabs(image, [heads[index][position] for index in readers[position]])
                for position, source in enumerate(group.sources)
            ]
            for of_sources in zip(*slabs, strict=True):  # all sources read the same windows
                box = of_sources[0][0]
                for index in range(len(heads)):
                    logits = [
                        slab[indices.index(index)]
                        for (_, slab), indices in zip(of_sources, readers, strict=True)
                        if index in indices
                    ]
                    predicted = torch.stack(logits).sum(0).argmax(0).numpy()
                    overlaps.add(index, predicted, label[box])
        return overlaps


def _sets(source: Probed, encoders: Mapping[str, FrozenEncoder]) -> list[FeatureSet]:
    """Each stage of each encoder, all stages of each, and all stages of all encoders."""
    sets: list[FeatureSet] = []
    all_parts: list[tuple[int, int, int]] = []
    for position, (name, encoder) in enumerate(encoders.items()):
        parts = [(position, stage, width) for stage, width in enumerate(encoder.widths)]
        for part, strides in zip(parts, encoder.strides, strict=True):
            sets.append(FeatureSet(source, name, part[1], strides[1], (part,)))
        sets.append(FeatureSet(source, name, None, None, tuple(parts)))
        all_parts += parts
    if len(encoders) > 1:
        sets.append(FeatureSet(source, "+".join(encoders), None, None, tuple(all_parts)))
    return sets
