"""Fits the classifier of a plan whose head is one, in place of training: the same run folder, in seconds.

Voxels of the fold's training cases are sampled as for the probe, and read by the frozen encoder in patches of the
plan's size, as in prediction. The penalty and the bias of the classes' logits are chosen by cross-validation; the
classifier is then fitted to all cases.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from torch import Tensor

from seg_transfer.evidence.classifiers import CaseScores, affine, cross_validate, fit, share_bias
from seg_transfer.evidence.features import FrozenEncoder
from seg_transfer.evidence.frozen_encoders import recalibration_images
from seg_transfer.evidence.labelled_voxels import case_groups, sample_cases
from seg_transfer.network.build import build_network
from seg_transfer.network.pixel_head import PixelHead
from seg_transfer.options.train_options import RunOptions
from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.store import Store
from seg_transfer.training.checkpoint import load_header, save_state
from seg_transfer.training.history import Row, write_csv
from seg_transfer.training.manifest import (
    Cases,
    LearningStages,
    LoadedWeights,
    Manifest,
    RunResult,
    UsedOptions,
    installed_versions,
)
from seg_transfer.training.run_folder import RunFolder
from seg_transfer.training.task import Task, check_plan
from seg_transfer.transfer.unfreezing import StrategySchedule, recalibrate_batchnorm
from seg_transfer.util.progress import track

logger = logging.getLogger(__name__)

MOST_VOXELS = 20_000
NEVER = -1e30
"""Logit of a class that naive Bayes was not fitted to: far from all classes its log-likelihoods are low as well."""


def fit_head(plan: Plan, store: Store, run: RunFolder, *, options: RunOptions) -> RunResult:
    """Fit a fold's classifier; returns at once where an earlier call has.

    Args:
        plan: Its head is a classifier; its budget is not used.
        store: The preprocessed cases.
        run: Which fold, and its folder, which is made if need be.
        options: Of this run; its device is resolved.

    Raises:
        UserError: If what is there was fitted with other options, or the cases hold one label alone.
    """
    if options.restart:
        run.clear()
    task = Task.of(plan, run.fold, options)
    if run.model.is_file() and run.manifest.is_file():
        header = load_header(run.model, "model")
        check_plan(plan, header, run)
        task.resumed(header["task"], options, run)
        return Manifest.load(run.manifest).result
    cases = Cases.of(plan, run.fold)
    started = time.perf_counter()
    network, weights, found = _fit(plan, store, cases.train, task.seed, options.device)
    seconds = time.perf_counter() - started
    result = RunResult(finished=True, progress=1.0, epochs=0, steps=0, seconds=seconds, head=found)
    done = result.model_dump(include={"finished", "progress", "epochs", "steps", "seconds"})
    header = {"plan": plan.model_dump(mode="json"), "task": asdict(task), "weights": "fitted", **done}
    save_state(run.model, "model", network.state_dict(), header)
    schedule = StrategySchedule(network, plan.recipe.strategy, warmup=0.0)
    row = Row(
        epoch=0,
        step=0,
        seconds=seconds,
        progress=1.0,
        loss=found["log_loss"],
        dice=dict.fromkeys(plan.data.scored),
        rates={},
        stages={str(stage): state for stage, state in schedule.describe(1.0).items()},
        skipped=0,
    )
    write_csv(run.log, [row])
    manifest = Manifest(
        plan=plan.hash,
        fold=run.fold,
        cases=cases,
        options=UsedOptions.of(task, options, threads=torch.get_num_threads()),
        versions=installed_versions(),
        device=options.device,
        weights=weights,
        frozen=LearningStages.of(schedule),
        result=result,
    )
    manifest.save(run.manifest)
    return result


def _fit(
    plan: Plan, store: Store, cases: Sequence[str], seed: int, device: str
) -> tuple[PixelHead, LoadedWeights, dict[str, Any]]:
    """The fitted network, what became of its encoder's weights, and figures of the fit."""
    kind = plan.model.head
    network, report = build_network(
        plan.model, channels=len(plan.data.channels), classes=len(plan.data.labels), seed=seed
    )
    assert isinstance(network, PixelHead) and kind != "unet", "the U-Net is trained, not fitted"
    logger.info(str(report))
    encoder = FrozenEncoder(
        network.to(device), plan.model, reduced=plan.recipe.precision == "bfloat16", whole_slices=False
    )
    if plan.recipe.strategy.recalibrates:
        images = recalibration_images(plan, store, cases, seed=seed)
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=encoder.reduced):
            recalibrate_batchnorm(encoder, encoder.encoder, images)
    per_label = max(1, MOST_VOXELS // (len(plan.data.labels) * len(cases)))
    drawn = sample_cases(plan, store, cases, _groups(plan, cases), per_label=per_label, seed=seed)
    read = [
        np.concatenate(encoder.at(store.case(case).image[:], samples.positions), axis=1)
        for case, samples in track(zip(cases, drawn.samples, strict=True), total=len(cases), title="reading features")
    ]
    features, classes = np.concatenate(read), drawn.voxels.classes
    tried = cross_validate(features, drawn.voxels, seed=seed, kinds=(kind,))
    pipeline = fit(kind, features, classes, penalty=tried.penalty, seed=seed)
    shares = share_bias(tried.logits[kind], drawn.voxels, drawn.weights, np.arange(len(classes)))
    with torch.no_grad():
        put_head(network, pipeline, shares)
    scores = tried.scores[kind]
    found = {"kind": kind, "voxels": len(classes), "penalty": None if kind == "bayes" else tried.penalty}
    found |= _means(scores) | {"share_bias": shares.tolist()}
    logger.info(
        f"{kind} fitted to {len(classes)} voxels of {len(cases)} cases; balanced accuracy on cases that it was not "
        f"fitted to: {found['balanced_accuracy']:.3f}"
    )
    return network, LoadedWeights.of(report), found


def _groups(plan: Plan, cases: Sequence[str]) -> list[int]:
    """Group of each case; where a plan of two folds leaves a single one, each case is by itself."""
    groups = case_groups(plan)
    found = [groups[case] for case in cases]
    return found if len(set(found)) > 1 else list(range(len(cases)))


def _means(scores: CaseScores) -> dict[str, float | None]:
    loss = scores.log_loss
    return {
        "balanced_accuracy": float(np.nanmean(scores.balanced_accuracy)),
        "log_loss": None if loss is None else float(np.nanmean(loss)),
    }


def put_head(network: PixelHead, pipeline: Pipeline, shares: NDArray[np.float32]) -> None:
    """Put a fitted classifier into a network.

    Standardizing and PCA are folded into the stages' weights; of a linear classifier, it too.

    Args:
        network: Of the plan's head.
        pipeline: ``StandardScaler``, ``PCA`` and the classifier, fitted to all stages' features side by side.
        shares: Bias of each class's logit, ``(class,)``.
    """
    scaler, pca, last = (step for _, step in pipeline.steps)
    if network.quadratic:
        weight = pca.components_ / scaler.scale_
        bias = -pca.components_ @ (pca.mean_ + scaler.mean_ / scaler.scale_)
        precision = 1 / last.var_
        fitted = -0.5 * (np.log(2 * np.pi * last.var_) + precision * last.theta_**2).sum(axis=1)
        offset = np.full(len(shares), NEVER)
        offset[last.classes_] = fitted + np.log(last.class_prior_) + shares[last.classes_]
        rows = len(weight)
        _put(network.linear[:, :rows], last.classes_, precision * last.theta_)
        _put(network.square[:, :rows], last.classes_, -0.5 * precision)
        network.offset.copy_(torch.from_numpy(offset))
    else:
        weight, bias = affine(pipeline, len(shares))
        bias = bias + shares
    rows, start = len(weight), 0
    network.bias[:rows] = torch.from_numpy(bias)
    for stage, width in enumerate(network.encoder.channels):
        part = np.ascontiguousarray(weight[:, start : start + width])
        network.get_buffer(f"weight_{stage}")[:rows] = torch.from_numpy(part)
        start += width


def _put(target: Tensor, classes: NDArray[np.int64], values: NDArray[np.float64]) -> None:
    target[torch.from_numpy(classes)] = torch.from_numpy(values).to(target)
