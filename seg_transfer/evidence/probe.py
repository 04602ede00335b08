"""The probe: how well simple classifiers segment by frozen features, stage by stage.

The plan's encoder is compared with baselines: intensities, local filters, and the same encoder with random weights,
whose BatchNorm is recalibrated on this data, since statistics of other weights would handicap it. The gain of a stage
over random weights is the contribution of pretraining.

BatchNorm is recalibrated on images of all cases, including the held-out ones; their labels are not used.
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

from seg_transfer.evidence.aggregate import FeatureScores, FeatureSet, report
from seg_transfer.evidence.baselines import ImageFeatures
from seg_transfer.evidence.classifiers import affine, cross_validate, linear_heads, share_bias
from seg_transfer.evidence.features import FrozenEncoder
from seg_transfer.evidence.frozen_encoders import frozen_encoder, probed_model, recalibration_images
from seg_transfer.evidence.labelled_voxels import case_groups, sample_cases
from seg_transfer.evidence.overlap import Overlaps
from seg_transfer.network.linear_head import LinearHead
from seg_transfer.planning.evidence_record import Probed, ProbeEvidence
from seg_transfer.planning.fields import part_hash
from seg_transfer.planning.plan import Plan, Weights
from seg_transfer.preprocessing.resample import Box
from seg_transfer.preprocessing.store import Store
from seg_transfer.util.progress import track

CASES = 20
DRAWS = 3
MOST_VOXELS = 10_000
"""Of all cases together, so that more cases take little more time; the number of cases matters more."""
FEWEST_PER_LABEL = 20
HELD_OUT = 4
"""Held-out cases of the first fold that are segmented whole."""


class Source(Protocol):
    """Source of features, in one or several stages."""

    widths: tuple[int, ...]

    def at(self, image: NDArray[np.float32], positions: NDArray[np.integer]) -> list[NDArray[np.float32]]:
        """As in :class:`FrozenEncoder`."""

    def slabs(self, image: NDArray[np.float32], heads: Sequence[LinearHead]) -> Iterator[tuple[Box, Tensor]]:
        """As in :class:`FrozenEncoder`."""


@dataclass(frozen=True)
class Group:
    """Sources of features, and the feature sets that combine them."""

    sources: Sequence[Source]
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
        plan: Names the encoder, its weights and the patch.
        store: The preprocessed cases.
        cases: Of :func:`~seg_transfer.evidence.labelled_voxels.choose_cases`.
        others: Further encoders and their weights, probed by themselves and together with the plan's.
        context: Append the mean over the slice or patch to each stage's features.
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

    def groups() -> Iterator[Group]:
        for control in ("raw", "filters"):
            features = ImageFeatures(control, plan)
            yield Group([features], [FeatureSet(control, None, None, None, ((0, 0, features.widths[0]),))])
        for draw in (None, *range(DRAWS)):
            made = {name: encoder(name, draw) for name in encoders}
            yield Group(list(made.values()), _sets("pretrained" if draw is None else "random", made))

    scored = [each for group in track(groups(), total=3 + DRAWS, title="probing") for each in probe.score_group(group)]
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
        features=report(scored),
    )


class _Probe:
    """Cases and sampled voxels, the same for every feature set."""

    def __init__(self, plan: Plan, store: Store, cases: Sequence[str], *, seed: int) -> None:
        self.plan, self.store, self.cases, self.seed = plan, store, cases, seed
        per_label = max(FEWEST_PER_LABEL, MOST_VOXELS // (len(plan.data.labels) * len(cases)))
        groups = case_groups(plan)
        drawn = sample_cases(plan, store, cases, [groups[case] for case in cases], per_label=per_label, seed=seed)
        self.samples, self.voxels, self.weights = drawn.samples, drawn.voxels, drawn.weights
        train, test = self.voxels.folds()[0]
        self.held_out = [cases[index] for index in np.unique(self.voxels.cases[test])[:HELD_OUT]]
        self.train = train

    def score_group(self, group: Group) -> list[FeatureScores]:
        """Cross-validate every feature set of a group, and segment the held-out cases with each."""
        stages: list[list[list[NDArray[np.float32]]]] = [[[] for _ in source.widths] for source in group.sources]
        for case, samples in zip(self.cases, self.samples, strict=True):
            image = self.store.case(case).image[:]
            for source, held in zip(group.sources, stages, strict=True):
                for stage, found in zip(held, source.at(image, samples.positions), strict=True):
                    stage.append(found)
        joined = [[np.concatenate(stage) for stage in held] for held in stages]
        validated, fitted = [], []
        for one in group.sets:
            features = np.concatenate([joined[source][stage] for source, stage, _ in one.parts], axis=1)
            result = cross_validate(features, self.voxels, seed=self.seed)
            weight, bias = affine(result.softmax, self.voxels.labels)
            bias = bias + share_bias(result.logits["softmax"], self.voxels, self.weights, self.train)
            fitted.append(linear_heads(weight, bias, one.parts))
            validated.append(result.scores)
        overlaps = self._segment(group, fitted)
        return [
            FeatureScores(one, scores, overlaps.mean_dice(position))
            for position, (one, scores) in enumerate(zip(group.sets, validated, strict=True))
        ]

    def _segment(self, group: Group, fitted: Sequence[Mapping[int, LinearHead]]) -> Overlaps:
        overlaps = Overlaps(self.plan.data, len(fitted))
        readers = [
            [index for index, each in enumerate(fitted) if source in each] for source in range(len(group.sources))
        ]
        for case in self.held_out:
            overlaps.begin_case()
            image, label = self.store.case(case).image[:], self.store.case(case).label[:]
            streams = [
                source.slabs(image, [fitted[index][position] for index in readers[position]])
                for position, source in enumerate(group.sources)
            ]
            for parts in zip(*streams, strict=True):  # all sources read the same windows
                box = parts[0][0]
                for index in range(len(fitted)):
                    logits = [
                        part[mine.index(index)] for (_, part), mine in zip(parts, readers, strict=True) if index in mine
                    ]
                    predicted = torch.stack(logits).sum(0).argmax(0).numpy()
                    overlaps.add(index, predicted, label[box])
        return overlaps


def _sets(source: Probed, encoders: Mapping[str, FrozenEncoder]) -> list[FeatureSet]:
    """Each stage of each encoder, all stages of each, and all stages of all encoders."""
    found: list[FeatureSet] = []
    everything: list[tuple[int, int, int]] = []
    for position, (name, encoder) in enumerate(encoders.items()):
        parts = [(position, stage, width) for stage, width in enumerate(encoder.widths)]
        for part, strides in zip(parts, encoder.strides, strict=True):
            found.append(FeatureSet(source, name, part[1], strides[1], (part,)))
        found.append(FeatureSet(source, name, None, None, tuple(parts)))
        everything += parts
    if len(encoders) > 1:
        found.append(FeatureSet(source, "+".join(encoders), None, None, tuple(everything)))
    return found
