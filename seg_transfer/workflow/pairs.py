"""Label maps and scores of held-out cases by ensembles of two configurations: the mean of their probabilities."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from seg_transfer.data.dataset import Case, Dataset
from seg_transfer.data.formats import write_volume
from seg_transfer.data.image import read_image
from seg_transfer.evaluation.score_files import evaluate_files
from seg_transfer.evaluation.scores import Scores
from seg_transfer.inference.outputs import label_file, label_maps
from seg_transfer.inference.predictor import Predictor
from seg_transfer.training.checkpoint_header import model_digests
from seg_transfer.training.run_folder import SCORES_FILE, TrainedRuns, are_scores_of
from seg_transfer.util.local_files import make_folder
from seg_transfer.util.parallel import report_failure
from seg_transfer.util.progress import track
from seg_transfer.workflow.work_folder import WorkFolder

Pair = tuple[int, int]
"""Two configurations, by their positions among the candidates."""


def score_pairs(
    work: WorkFolder, dataset: Dataset, candidates: Sequence[TrainedRuns], *, device: str, workers: int | None
) -> dict[Pair, dict[int, Scores]]:
    """Predict every case by each pair of candidates that both held it out, and score.

    Every candidate predicts a case once, for all its pairs. Scores of an earlier call are read if they are of the same
    models. Label maps and scores are in ``ensembles/<run>+<run>/fold_K/``, by the folds of the first candidate.

    Args:
        work: WorkFolder folder.
        dataset: The cases' files.
        candidates: Validated folds of plans with the same data part.
        device: Device of the networks.
        workers: Processes that score; 0 scores in this one, None takes what pays.

    Returns:
        Pair -> fold of the first candidate -> scores; pairs without a common case are left out.
    """
    held_out = [candidate.held_out for candidate in candidates]
    parts = {
        (pair, fold): cases
        for pair in itertools.combinations(range(len(candidates)), 2)
        for fold, cases in _by_fold(*(held_out[index] for index in pair)).items()
    }
    folders = {(pair, fold): work.pair_folder([candidates[index].name for index in pair], fold) for pair, fold in parts}
    scores: dict[tuple[Pair, int], Scores] = {}
    models: dict[tuple[Pair, int], list[Path]] = {}
    todo: dict[str, dict[Pair, Path]] = {}
    for (pair, fold), cases in parts.items():
        models[pair, fold] = [
            candidates[index].folder.run(held_out[index][case]).model for index in pair for case in cases
        ]
        file = folders[pair, fold] / SCORES_FILE
        if are_scores_of(file, models[pair, fold]):
            scores[pair, fold] = Scores.load(file)
        else:
            for case in cases:
                todo.setdefault(case, {})[pair] = folders[pair, fold]
    failures = _predict(dataset, candidates, held_out, todo, device)
    for (pair, fold), cases in parts.items():
        if (pair, fold) not in scores:
            data, folder = candidates[pair[0]].plan.data, folders[pair, fold]
            scored = evaluate_files(
                label_maps(dataset.select([case for case in cases if case not in failures]).cases, folder),
                labels=data.scored,
                names=data.names,
                ignore=data.ignore,
                instances=data.instances,
                workers=workers,
                failures={case: failures[case] for case in cases if case in failures},
            )
            scores[pair, fold] = scored.model_copy(update={"models": model_digests(models[pair, fold])})
            scores[pair, fold].save(folder / SCORES_FILE)
    result: dict[Pair, dict[int, Scores]] = {}
    for pair, fold in sorted(scores):
        result.setdefault(pair, {})[fold] = scores[pair, fold]
    return result


def _by_fold(first: Mapping[str, int], second: Mapping[str, int]) -> dict[int, list[str]]:
    """Fold of the first candidate -> cases that both held out."""
    folds: dict[int, list[str]] = {}
    for case, fold in first.items():
        if case in second:
            folds.setdefault(fold, []).append(case)
    return folds


def _predict(
    dataset: Dataset,
    candidates: Sequence[TrainedRuns],
    held_out: Sequence[Mapping[str, int]],
    todo: Mapping[str, Mapping[Pair, Path]],
    device: str,
) -> dict[str, str]:
    """Write the label maps of each case into the folder of each pair; returns case -> cause of failure."""
    cases = {case.id: case for case in dataset.select(list(todo)).cases}
    # Cases of the same folds follow each other, so that models are loaded once.
    order = sorted(todo, key=lambda case: [folds.get(case, -1) for folds in held_out])
    loaded: dict[int, tuple[int, Predictor]] = {}
    failures: dict[str, str] = {}
    for name in track(order, total=len(order), title="predicting by pairs"):
        needed = sorted({index for pair in todo[name] for index in pair})
        for index in needed:
            fold = held_out[index][name]
            if loaded.get(index, (None,))[0] != fold:
                loaded[index] = fold, Predictor.load([candidates[index].folder.run(fold).model], device)
        try:
            _predict_case(cases[name], {index: loaded[index][1] for index in needed}, todo[name])
        except Exception as error:
            failures[name] = report_failure(name, error, title="predicting by pairs").cause
    return failures


def _predict_case(case: Case, predictors: Mapping[int, Predictor], folders: Mapping[Pair, Path]) -> None:
    predictor = next(iter(predictors.values()))  # all plans share their data part
    transform, array = predictor.prepare(read_image(case.images))
    probabilities = {index: predictor.probabilities(array) for index, predictor in predictors.items()}
    for (first, second), folder in folders.items():
        mean = probabilities[first] + probabilities[second]
        mean /= 2
        make_folder(folder)
        write_volume(label_file(case, folder), predictor.labels_of(transform, mean), transform.native)
