"""Predicts cases on a cluster, one task per case; each of its workers keeps the models that it used last."""

from __future__ import annotations

import platform
import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from seg_transfer.data.dataset import Case
from seg_transfer.errors import EveryCaseFails, UserError
from seg_transfer.options.model_options import PredictOptions
from seg_transfer.util.local_files import make_folder
from seg_transfer.util.parallel import CaseFailure, map_cases
from seg_transfer.workflow.source import find_any, load_any

if TYPE_CHECKING:
    from seg_transfer.inference.one_case import CasePredictor
    from seg_transfer.inference.outputs import Outputs
    from seg_transfer.inference.predictions import Prediction, PredictionLog

_loaded: dict[object, CasePredictor] = {}
"""The models of this worker, at most those of one command, by what :func:`_models` is asked for."""
_loading = threading.Lock()


def predict_on_cluster(options: PredictOptions, cases: Sequence[Case], log: PredictionLog) -> dict[str, str]:
    """Predict every case as :func:`~seg_transfer.inference.folder.predict_folder` does, on the workers of a cluster.

    They write the files; this process writes the record.

    Args:
        options: Which models, and how.
        cases: The cases to predict.
        log: Records the cases, and knows their files.

    Returns:
        Case identifier -> one-line cause, for the cases that failed.

    Raises:
        EveryCaseFails: If a worker cannot load the models, or finds others than this process.
    """
    from seg_transfer.inference.one_case import warn_if_unlike

    make_folder(log.outputs.folder)
    sent = options.model_copy(update={"images": ()})  # may be many
    function = partial(_predict_case, options=sent, outputs=log.outputs, digest=log.model)
    failures: dict[str, str] = {}
    try:
        for case, result in map_cases(function, cases, workers=0, title="predicting", name=lambda case: case.id):
            if isinstance(result, CaseFailure):
                failures[case.id] = result.cause
            else:
                warn_if_unlike(case, result.warnings)
                log.add(case, result)
    finally:
        log.save()
    return {case.id: failures[case.id] for case in cases if case.id in failures}


def _predict_case(case: Case, *, options: PredictOptions, outputs: Outputs, digest: str) -> Prediction:
    from seg_transfer.inference.one_case import CaseSteps

    made = CaseSteps(_models(options, digest), outputs, options.tta, digest)(case)
    assert made is not None, "with a digest of the models it is recorded"
    return made


def _models(options: PredictOptions, digest: str) -> CasePredictor:
    """The models with this digest; on the device that the options mean on this machine."""
    asked = (digest, options.device, options.memory)
    with _loading:
        if asked not in _loaded:
            _loaded.clear()  # before loading, so that memory never holds two
            try:
                models = find_any(options)
                if models.digest() != digest:
                    what, hint = "these are other models than those of the command", "start the same command again"
                    raise UserError(what, where=options.nnunet or options.model or options.work, hint=hint)
                _loaded[asked] = load_any(models, options)
            except UserError as error:
                what = f"{error.what} (on the worker {platform.node()})"
                raise EveryCaseFails(what, where=error.where, hint=error.hint) from error
        return _loaded[asked]
