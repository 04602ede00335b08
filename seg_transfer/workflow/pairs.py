"""Label maps of held-out cases by two configurations together: the mean of their probabilities."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from seg_transfer.data.dataset import Case, Dataset
from seg_transfer.data.image import read_image, write_volume
from seg_transfer.evaluation.score_files import evaluate_files
from seg_transfer.evaluation.scores import Scores
from seg_transfer.inference.folder import label_file
from seg_transfer.inference.predictor import Predictor
from seg_transfer.planning.plan import Plan
from seg_transfer.training.run_folder import SCORES_FILE, TrainedRuns, are_newer
from seg_transfer.util.files import make_folder
from seg_transfer.util.parallel import report_failure
from seg_transfer.util.progress import track
from seg_transfer.workflow.work_folder import Work


def score_pairs(
    work: Work, dataset: Dataset, candidates: Sequence[TrainedRuns], *, device: str, workers: int
) -> dict[tuple[int, int], dict[int, Scores]]:
    """Predict every case by each pair of candidates whose models have not seen it, and score.

    Every candidate predicts a case once, for all its pairs. What an earlier call has done is not done again, unless a
    model is newer. Label maps and scores lie in ``ensembles/<run>+<run>/fold_K/``, by the folds of the first.

    Args:
        work: Work folder.
        dataset: The cases' files.
        candidates: Validated folds of plans with the same data part.
        device: Where to compute.
        workers: Processes that score; 0 scores in this one.

    Returns:
        Pair of positions in ``candidates`` -> fold of the first -> scores; pairs without a common case are left out.
    """
    pairs = list(itertools.combinations(range(len(candidates)), 2))
    held_out = [candidate.held_out for candidate in candidates]
    found: dict[tuple[int, int], dict[int, Scores]] = {}
    todo: dict[str, list[tuple[int, int]]] = {}
    for pair in pairs:
        by_fold = _by_fold(*(held_out[index] for index in pair))
        for fold, cases in by_fold.items():
            done = _folder(work, candidates, pair, fold) / SCORES_FILE
            models = [candidates[index].folder.run(held_out[index][case]).model for index in pair for case in cases]
            if are_newer(done, models):
                found.setdefault(pair, {})[fold] = Scores.load(done)
            else:
                for case in cases:
                    todo.setdefault(case, []).append(pair)
    failures = _predict(work, dataset, candidates, held_out, todo, device)
    for pair in pairs:
        for fold, cases in _by_fold(*(held_out[index] for index in pair)).items():
            if fold not in found.get(pair, {}):
                plan = candidates[pair[0]].plan
                scores = _score(_folder(work, candidates, pair, fold), dataset, plan, cases, failures, workers)
                found.setdefault(pair, {})[fold] = scores
    return {pair: dict(sorted(folds.items())) for pair, folds in found.items()}


def _predict(
    work: Work,
    dataset: Dataset,
    candidates: Sequence[TrainedRuns],
    held_out: Sequence[Mapping[str, int]],
    todo: Mapping[str, Sequence[tuple[int, int]]],
    device: str,
) -> dict[str, str]:
    """Write the label maps; cases of the same folds follow each other, so that models are loaded once."""
    cases = {case.id: case for case in dataset.select(list(todo)).cases}
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
            _predict_case(
                cases[name],
                {index: loaded[index][1] for index in needed},
                {pair: _folder(work, candidates, pair, held_out[pair[0]][name]) for pair in todo[name]},
            )
        except Exception as error:
            failures[name] = report_failure(name, error, title="predicting by pairs").cause
    return failures


def _predict_case(case: Case, predictors: Mapping[int, Predictor], folders: Mapping[tuple[int, int], Path]) -> None:
    any_of_them = next(iter(predictors.values()))
    transform, array = any_of_them.prepare(read_image(case.images))
    probabilities = {index: predictor.probabilities(array) for index, predictor in predictors.items()}
    for (first, second), folder in folders.items():
        mean = probabilities[first] + probabilities[second]
        mean /= 2
        make_folder(folder)
        labels = any_of_them.labels_of(transform, mean)
        write_volume(label_file(case, folder), labels, transform.native)


def _score(
    folder: Path, dataset: Dataset, plan: Plan, cases: Sequence[str], failures: Mapping[str, str], workers: int
) -> Scores:
    files = {}
    for case in dataset.select(cases).cases:
        assert case.label is not None, "every case of a data set has a label"
        if case.id not in failures:
            files[case.id] = label_file(case, folder), case.label
    scores = evaluate_files(
        files,
        labels=plan.data.scored,
        ignore=plan.data.ignore,
        workers=workers,
        failures={case: failures[case] for case in cases if case in failures},
    )
    scores.save(folder / SCORES_FILE)
    return scores


def _by_fold(first: Mapping[str, int], second: Mapping[str, int]) -> dict[int, list[str]]:
    """Fold of the first -> cases that both held out."""
    folds: dict[int, list[str]] = {}
    for case, fold in first.items():
        if case in second:
            folds.setdefault(fold, []).append(case)
    return folds


def _folder(work: Work, candidates: Sequence[TrainedRuns], pair: tuple[int, int], fold: int) -> Path:
    return work.pair_folder([candidates[index].name for index in pair], fold)
