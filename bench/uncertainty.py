"""Which number of a prediction, known without a reference, ranks cases by their true Dice?

Of each data set a list of training cases is cut into two halves. Models of either half (default plan, two folds of some
minutes) predict the cases of the other, with mirrored copies, and half of the cases of the longest list that are in
none of the others. The candidates are computed from the probabilities on the network's grid. What ranks best for the
models of the first half (``choose``) is judged by those of the second (``report``), on other cases. Test cases are not
touched. Models stay in ``--work``; figures per case go to ``bench/results/uncertainty.csv``.

    python bench/uncertainty.py --minutes 3
"""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rows import Row, append_rows, find_row, read_rows
from runner import RESULTS, arguments, commit, held_out, link_cases, lists_of
from scipy.stats import rankdata
from torch import Tensor

import seg_transfer
from seg_transfer.data.dataset import find_images
from seg_transfer.data.image import read_image
from seg_transfer.inference.classes import decide
from seg_transfer.inference.predictor import Predictor
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.plan import Plan

LISTS = {"hippocampus": "40", "cells": "40", "abdomen_mr": "10", "retina": "16"}
PATIENT = {"retina": r"retina_(\d+)"}
"""What cases of one patient have in common."""
FOLDS = "0,1"
PURPOSES = ("choose", "report")
DRAWS = 2000
COLUMNS = ("data", "purpose", "case", "dice", "figures", "steps", "commit")


def halves(name: str) -> tuple[list[str], list[str]]:
    """A data set's list in two halves, a patient in one of them."""
    cases = lists_of(name)["few_shot"][LISTS[name]]
    patients = [match[1] if (match := re.match(PATIENT.get(name, r"(.*)"), case)) else case for case in cases]
    known = list(dict.fromkeys(patients))
    first = set(known[: len(known) // 2])
    return (
        [case for case, patient in zip(cases, patients, strict=True) if patient in first],
        [case for case, patient in zip(cases, patients, strict=True) if patient not in first],
    )


def train(dataset: Path, cases: list[str], folder: Path, minutes: float, **options: Any) -> list[Path]:
    """Two folds by the default plan; those that are there are not trained again. Their models."""
    if not (folder / "plan.json").is_file():
        seg_transfer.plan(dataset, work=folder, cases=cases, time_budget=60 * minutes, **options)
    return [seg_transfer.train(fold, work=folder)[0].run.model for fold in FOLDS.split(",")]


def mirrored(network: Callable[[Tensor], Tensor], dims: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """A network that sees its input mirrored."""
    return lambda windows: network(windows.flip(dims)).flip(dims)


def copies(predictor: Predictor) -> Iterator[Predictor]:
    """Predictors of one fold and one mirrored copy each, whose mean is the prediction."""
    axes = predictor.plan.recipe.tta_axes
    for network in predictor.networks:
        for count in range(len(axes) + 1):
            for flip in itertools.combinations(axes, count):
                dims = tuple(axis + 2 for axis in flip)
                yield Predictor(predictor.plan, [mirrored(network, dims)], predictor.device)


def masks(probabilities: NDArray[np.float32], data: DataPlan) -> NDArray[np.bool_]:
    """What is predicted of each output but the background, ``(output, slice, u, v)``."""
    if data.regions:
        return probabilities > 0.5
    winner = decide(probabilities, data)
    return np.stack([winner == index for index in range(1, len(probabilities))])


def dice(a: NDArray, b: NDArray) -> float:
    total = float(a.sum(dtype=np.float64) + b.sum(dtype=np.float64))
    return 2 * float((a * b).sum(dtype=np.float64)) / total if total else math.nan


def mean_dice(pairs: Sequence[tuple[NDArray, NDArray]]) -> float:
    found = [value for value in (dice(*pair) for pair in pairs) if not math.isnan(value)]
    return statistics.mean(found) if found else 0.0


def candidates(predictor: Predictor, array: NDArray[np.float32]) -> dict[str, float]:
    """Each candidate for one case; higher is meant to be better."""
    data = predictor.plan.data
    members = [each.probabilities(array, tta=False) for each in copies(predictor)]
    mean = np.mean(members, axis=0)
    found = masks(mean, data)
    foreground = found.any(axis=0)
    if data.regions:
        entropy = sum(_entropy([p, 1 - p]) for p in mean) / (len(mean) * math.log(2))
        shares = mean
    else:
        entropy, shares = _entropy(mean) / math.log(len(mean)), mean[1:]
    edge = _edge(found)
    pairs = list(zip(shares, found, strict=True))
    expected = [dice(share, mask.astype(np.float32)) for share, mask in pairs]
    defined = [value for value in expected if not math.isnan(value)]
    binary = [masks(member, data) for member in members]
    networks = len(predictor.networks)
    per_fold = [masks(np.mean(part, axis=0), data) for part in np.array_split(members, networks)]
    present = found.any(axis=(1, 2, 3))
    return {
        "entropy, whole image": -float(entropy.mean()),
        "entropy in the foreground": -float(entropy[foreground].mean()) if foreground.any() else -1.0,
        "entropy over foreground voxels": -float(entropy.sum() / max(1, foreground.sum())),
        "entropy over boundary voxels": -float(entropy.sum() / max(1, edge)),
        "expected Dice": statistics.mean(defined) if defined else 0.0,
        "expected Dice, predicted labels": mean_of([e for e, there in zip(expected, present, strict=True) if there]),
        "expected Dice, lowest label": min(defined, default=0.0),
        "probability in the foreground": mean_of([float(s[m].mean()) for s, m in pairs if m.any()]),
        "Dice between folds": mean_dice(list(zip(*per_fold[:2], strict=True))),
        "Dice of copies with the mean": statistics.mean(
            mean_dice(list(zip(each, found, strict=True))) for each in binary
        ),
        "Dice between copies": statistics.mean(
            mean_dice(list(zip(a, b, strict=True))) for a, b in itertools.combinations(binary, 2)
        ),
    }


def mean_of(values: list[float]) -> float:
    return statistics.mean(values) if values else 0.0


def _entropy(probabilities: Any) -> NDArray[np.float32]:
    total = np.zeros(probabilities[0].shape, np.float32)
    for p in probabilities:
        total -= p * np.log(np.maximum(p, 1e-12))
    return total


def _edge(found: NDArray[np.bool_]) -> int:
    """Voxels of a label that touch one outside of it."""
    padded = np.pad(found, ((0, 0), (1, 1), (1, 1), (1, 1)), mode="edge")
    inner = padded[:, 1:-1, 1:-1, 1:-1]
    inside = inner.copy()
    for axis in (1, 2, 3):
        for shift in (-1, 1):
            inside &= np.roll(padded, shift, axis)[:, 1:-1, 1:-1, 1:-1]
    return int((inner & ~inside).sum())


def measure(name: str, purpose: str, options: Any, results: Path) -> None:
    """Train on one half of a data set and measure every case of the other."""
    first, second = halves(name)
    trained, scored = (first, second) if purpose == "choose" else (second, first)
    more = held_out(lists_of(name)["few_shot"]) if LISTS[name] != max(lists_of(name)["few_shot"], key=int) else []
    scored = [*scored, *more[PURPOSES.index(purpose) :: 2]]
    folder = options.work / "uncertainty" / f"{name}-{purpose}"
    grouping = {"group_by": PATIENT[name]} if name in PATIENT else {}
    dataset = options.data / name
    models = train(dataset, trained, folder, options.minutes, **grouping)
    images, labels = link_cases(dataset, scored, folder / "test")
    predictor = Predictor.load(models)
    shutil.rmtree(folder / "predictions", ignore_errors=True)
    seg_transfer.predict(images, folder / "predictions", work=folder, folds=FOLDS)
    scores = seg_transfer.evaluate(folder / "predictions", labels, work=folder)
    plan = Plan.load(folder / "plan.json")
    steps = [json.loads((model.parent / "manifest.json").read_text())["result"]["steps"] for model in models]
    for case in find_images(images, len(plan.data.channels)):
        if find_row(results, data=name, purpose=purpose, case=case.id) is None:
            _, array = predictor.prepare(read_image(case.images))
            figures = {key: round(value, 6) for key, value in candidates(predictor, array).items()}
            row = {"data": name, "purpose": purpose, "case": case.id, "dice": round(scores.case_dice(case.id), 4)}
            row |= {"figures": json.dumps(figures), "steps": " ".join(map(str, steps)), "commit": commit()}
            append_rows(results, COLUMNS, [row])


def spearman(rows: Sequence[Row], figure: str) -> float:
    """Rank correlation within each data set, weighted by its cases (those of fewer than three do not count)."""
    total, weight = 0.0, 0
    for name in sorted({row["data"] for row in rows}):
        mine = [row for row in rows if row["data"] == name]
        x = rankdata([json.loads(row["figures"])[figure] for row in mine])
        y = rankdata([float(row["dice"]) for row in mine])
        if len(mine) >= 3 and x.std() > 0 and y.std() > 0:
            total, weight = total + len(mine) * float(np.corrcoef(x, y)[0, 1]), weight + len(mine)
    return total / weight if weight else math.nan


def interval(rows: Sequence[Row], figure: str) -> tuple[float, float]:
    """95 % percentile interval of :func:`spearman` over draws of cases with replacement, within each data set."""
    generator = np.random.default_rng(0)
    by_data = [[row for row in rows if row["data"] == name] for name in sorted({row["data"] for row in rows})]
    drawn = [
        spearman([mine[index] for mine in by_data for index in generator.integers(len(mine), size=len(mine))], figure)
        for _ in range(DRAWS)
    ]
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return float(low), float(high)


def table(rows: Sequence[Row]) -> str:
    """A row per candidate, the best of ``choose`` first."""
    chosen, reported = ([row for row in rows if row["purpose"] == purpose] for purpose in PURPOSES)
    names = sorted({row["data"] for row in rows})
    counts = ", ".join(f"{name} {sum(row['data'] == name for row in reported)}" for name in names)
    lines = [
        f"| figure | choose, {len(chosen)} cases | report, {len(reported)} cases | 95 % interval | "
        + " | ".join(f"report: {name}" for name in names)
        + " |",
        "|---" * (4 + len(names)) + "|",
    ]
    for figure in sorted(json.loads(rows[0]["figures"]), key=partial(spearman, chosen), reverse=True):
        low, high = interval(reported, figure)
        each = [spearman([row for row in reported if row["data"] == name], figure) for name in names]
        ranks = [f"{spearman(chosen, figure):.2f}", f"{spearman(reported, figure):.2f}", f"{low:.2f} to {high:.2f}"]
        lines.append("| " + " | ".join([figure, *ranks, *(f"{value:.2f}" for value in each)]) + " |")
    return "\n".join([*lines, "", f"cases of report: {counts}"])


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3, help="training per fold")
    options = parser.parse_args()
    results = RESULTS / "uncertainty.csv"
    if not options.table:
        for name, purpose in itertools.product(LISTS, PURPOSES):
            if options.only in name:
                measure(name, purpose, options, results)
                print(name, purpose, "done", flush=True)
    print(table(read_rows(results)))


if __name__ == "__main__":
    main()
