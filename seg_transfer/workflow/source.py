"""Loads the trained models of a model file or a work folder onto their device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from seg_transfer.nnunet.model_folder import NnunetModel, find_model
from seg_transfer.options.model_options import PredictOptions, SegmenterOptions
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.model_file import read_model_file
from seg_transfer.util import environment
from seg_transfer.util.files import file_digest
from seg_transfer.workflow.models import Models, find_models
from seg_transfer.workflow.work_folder import WorkFolder

if TYPE_CHECKING:
    from seg_transfer.inference.one_case import CasePredictor
    from seg_transfer.inference.predictor import Predictor


@dataclass(frozen=True)
class Source:
    """The models to predict with.

    Attributes:
        data: Data part of their plan.
        load: Loads them onto a device.
        digest: Digest of their files and of what is removed from their label maps.
    """

    data: DataPlan
    load: Callable[[str], Predictor]
    digest: Callable[[], str]


def find_source(options: SegmenterOptions) -> Source:
    """Find the models that the options name; nothing is loaded yet.

    Raises:
        UserError: If no fold is trained, or the model file is damaged.
    """
    if options.model is not None:
        data = read_model_file(options.model).header.plan.data
        return Source(data, partial(_from_file, options.model), partial(file_digest, options.model))
    models = find_models(WorkFolder(options.work), options.folds)
    return Source(models.runs[0].plan.data, partial(_from_work, models), partial(_digest, models))


def load_predictor(source: Source, options: SegmenterOptions) -> Predictor:
    """The models on their device, which need no more than the allowed memory.

    Raises:
        UserError: If they are damaged or need more.
    """
    predictor = source.load(options.device)
    predictor.limit_memory(environment.device_memory("cpu") if options.memory is None else options.memory)
    return predictor


def find_any(options: PredictOptions) -> Source | NnunetModel:
    """As :func:`find_source`; a model of nnU-Net if the options name one."""
    return find_source(options) if options.nnunet is None else find_model(options.nnunet, options.folds)


def load_any(models: Source | NnunetModel, options: PredictOptions) -> CasePredictor:
    """The models that :func:`find_any` has found, on their device.

    Raises:
        UserError: If they are damaged or need more memory than is allowed; of nnU-Net also if they would run code, or
            are of a network that is not known.
        MissingPackage: If the package that builds nnU-Net's networks is not installed.
    """
    if isinstance(models, Source):
        return load_predictor(models, options)
    device = environment.resolve_device(options.device)
    environment.check_torch()
    from seg_transfer.nnunet.predictor import NnunetPredictor

    memory = environment.device_memory("cpu") if options.memory is None else options.memory
    return NnunetPredictor(models, device, memory)


def _digest(models: Models) -> str:
    runs = [[file_digest(file) for file in run.models] for run in models.runs]
    text = json.dumps([runs, models.postprocessing.model_dump(mode="json")])
    return hashlib.sha256(text.encode()).hexdigest()


def _from_work(models: Models, device: str) -> Predictor:
    device = environment.resolve_device(device)
    environment.check_torch()
    from seg_transfer.inference.ensemble import Ensemble
    from seg_transfer.inference.predictor import Predictor

    members = [Predictor.load(run.models, device) for run in models.runs]
    predictor = members[0] if len(members) == 1 else Ensemble(members)
    predictor.postprocessing = models.postprocessing
    return predictor


def _from_file(model: Path, device: str) -> Predictor:
    device = environment.resolve_device(device)
    environment.check_torch()
    from seg_transfer.exporting.load import load_model_file

    return load_model_file(model, device)
