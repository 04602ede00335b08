"""Fit the head of a plan whose head is a classifier of single voxels. It replaces training and fills the run folder.

Voxels of the fold's training cases are sampled as for the probe. The frozen encoder reads patches of the plan's size,
as in prediction. The penalty and the bias of the classes' logits are chosen by cross-validation; the classifier is then
fitted to all cases.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from torch import Tensor

from seg_transfer.evidence.classifiers import affine, cross_validate, fit, share_bias
from seg_transfer.evidence.features import FrozenEncoder
from seg_transfer.evidence.frozen_encoders import recalibration_images
from seg_transfer.evidence.labelled_voxels import sample_cases
from seg_transfer.network.build import build_network
from seg_transfer.network.pixel_head import PixelHead
from seg_transfer.options.train_options import RunOptions
from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.store import Store
from seg_transfer.training.checkpoint import is_whole_model, load_header, save_state
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
UNSEEN_BAYES = -1e30
"""Logit of a class that naive Bayes was not fitted to; far below the log-likelihoods of voxels far from all classes."""


def fit_head(plan: Plan, store: Store, run: RunFolder, *, options: RunOptions) -> RunResult:
    """Fit a fold's classifier, unless an earlier call has.

    Args:
        plan: A plan whose head is a classifier; its budget is not used.
        store: The preprocessed cases.
        run: The fold and its folder, which is created if missing.
        options: Options of this run, with a resolved device.

    Raises:
        UserError: If an earlier fit used other options, or the cases have a single label.
    """
    if options.restart:
        run.clear()
    task = Task.of(plan, run.fold, options)
    if run.manifest.is_file() and is_whole_model(run.model):
        header = load_header(run.model, "model")
        check_plan(plan, header, run)
        task.resumed(header["task"], options, run)
        return Manifest.load(run.manifest).result
    cases = Cases.of(plan, run.fold)
    started = time.perf_counter()
    network, weights, figures = _fit(plan, store, cases.train, task.seed, options.device)
    seconds = time.perf_counter() - started
    result = RunResult(finished=True, progress=1.0, epochs=0, steps=0, seconds=seconds, head=figures)
    progress = result.model_dump(include={"finished", "progress", "epochs", "steps", "seconds"})
    header = {"plan": plan.model_dump(mode="json"), "task": task.model_dump(), "weights": "fitted", **progress}
    save_state(run.model, "model", network.state_dict(), header)
    schedule = StrategySchedule(network, plan.recipe.strategy, warmup=0.0)
    row = Row(
        epoch=0,
        step=0,
        seconds=seconds,
        progress=1.0,
        loss=figures["log_loss"],
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
    """The fitted network, how its encoder's weights were loaded, and figures of the fit for the manifest."""
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
    sampled = sample_cases(plan, store, cases, per_label=per_label, seed=seed)
    of_cases = [
        np.concatenate(encoder.at(store.case(case).image[:], samples.positions), axis=1)
        for case, samples in track(zip(cases, sampled.samples, strict=True), total=len(cases), title="reading features")
    ]
    features, classes = np.concatenate(of_cases), sampled.voxels.classes
    validated = cross_validate(features, sampled.voxels, seed=seed, kinds=(kind,))
    pipeline = fit(kind, features, classes, penalty=validated.penalty, seed=seed)
    bias = share_bias(validated.logits[kind], sampled.voxels, sampled.weights, np.arange(len(classes)))
    with torch.no_grad():
        put_head(network, pipeline, bias)
    scores = validated.scores[kind]
    accuracy = float(np.nanmean(scores.balanced_accuracy))
    figures = {
        "kind": kind,
        "voxels": len(classes),
        "penalty": None if kind == "bayes" else validated.penalty,
        "balanced_accuracy": accuracy,
        "log_loss": None if scores.log_loss is None else float(np.nanmean(scores.log_loss)),
        "share_bias": bias.tolist(),
    }
    logger.info(
        f"{kind} fitted to {len(classes)} voxels of {len(cases)} cases; cross-validated balanced accuracy: "
        f"{accuracy:.3f}"
    )
    return network, LoadedWeights.of(report), figures


def put_head(network: PixelHead, pipeline: Pipeline, class_bias: NDArray[np.float32]) -> None:
    """Copy a fitted classifier into a network.

    The stages' weights combine standardizing, PCA and, where it is linear, the classifier.

    Args:
        network: A network with the classifier's kind of head.
        pipeline: ``StandardScaler``, ``PCA`` and the classifier, fitted to the concatenated features of all stages.
        class_bias: Bias of each class's logit, ``(class,)``.
    """
    scaler, pca, model = (step for _, step in pipeline.steps)
    if network.quadratic:
        weight = pca.components_ / scaler.scale_
        bias = -pca.components_ @ (pca.mean_ + scaler.mean_ / scaler.scale_)
        precision = 1 / model.var_
        constant = -0.5 * (np.log(2 * np.pi * model.var_) + precision * model.theta_**2).sum(axis=1)
        offset = np.full(len(class_bias), UNSEEN_BAYES)
        offset[model.classes_] = constant + np.log(model.class_prior_) + class_bias[model.classes_]
        rows = len(weight)
        _put(network.linear[:, :rows], model.classes_, precision * model.theta_)
        _put(network.square[:, :rows], model.classes_, -0.5 * precision)
        network.offset.copy_(torch.from_numpy(offset))
    else:
        weight, bias = affine(pipeline, len(class_bias))
        bias = bias + class_bias
    rows, start = len(weight), 0
    network.bias[:rows] = torch.from_numpy(bias)
    for stage, width in enumerate(network.encoder.channels):
        part = np.ascontiguousarray(weight[:, start : start + width])
        network.get_buffer(f"weight_{stage}")[:rows] = torch.from_numpy(part)
        start += width


def _put(target: Tensor, classes: NDArray[np.int64], values: NDArray[np.float64]) -> None:
    target[torch.from_numpy(classes)] = torch.from_numpy(values).to(target)
