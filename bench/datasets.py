"""The other four data sets with their defaults and 10 minutes of training, beside a constant baseline.

The baseline predicts, for every case, the most frequent label per position (positions as a fraction of the image) of
the training cases; a label that it never predicts scores 0. Finished runs are kept in ``bench/results/datasets.csv``.

    python bench/datasets.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rows import Row, append_rows, figures_of, find_row, pairs_text, read_rows
from runner import COLUMNS, RESULTS, BenchRun, arguments, lists_of, run_all
from scipy.ndimage import zoom

from seg_transfer.data.dataset import Dataset, find_dataset
from seg_transfer.data.image import read_label

MINUTES = 10
BASELINE = "baseline"
"""Strategy of the rows of the constant baseline."""
RETINA_PATIENT = r"retina_(\d+)"
TRAINING = {"abdomen_mr": "10", "sarcoma": "12", "cells": "150", "retina": "16"}
ATLAS = (64, 64, 64)


def runs(data: Path) -> list[BenchRun]:
    made = []
    for name, size in TRAINING.items():
        splits = lists_of(name)
        options: dict = {"time_budget": MINUTES * 60}
        if name == "retina":
            options["group_by"] = RETINA_PATIENT
        made.append(
            BenchRun(
                name=name,
                dataset=data / name,
                train=splits["few_shot"][size],
                test=splits["test"],
                options=options,
            )
        )
    return made


def constant_baseline(dataset: Dataset, train: list[str], test: list[str]) -> dict[str, float]:
    """Dice per label of the most frequent label per position; 0 for a label that is never the most frequent."""
    classes = len(dataset.labels)
    votes = np.zeros((classes, *ATLAS), dtype=np.int32)
    for case in dataset.select(train).cases:
        label = _classes(dataset, case.label)
        atlas = zoom(
            label, [n / s for n, s in zip(ATLAS, label.shape, strict=True)], order=0, grid_mode=True, mode="nearest"
        )
        votes += atlas[None] == np.arange(classes)[:, None, None, None]
    constant = votes.argmax(0)
    scores = []
    for case in dataset.select(test).cases:
        label = _classes(dataset, case.label)
        guess = _resized(constant, label.shape)
        scores.append([_dice(guess == index, label == index) for index in range(1, classes)])
    means = np.nanmean(np.array(scores), axis=0)
    return {name: round(float(value), 4) for (name, _), value in zip(dataset.labels[1:], means, strict=True)}


def _resized(label: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    factors = [wanted / size for wanted, size in zip(shape, label.shape, strict=True)]
    return zoom(label, factors, order=0, grid_mode=True, mode="nearest")


def _classes(dataset: Dataset, path: Path) -> np.ndarray:
    return dataset.classes(read_label(path))


def _dice(guess: np.ndarray, label: np.ndarray) -> float:
    total = int(guess.sum() + label.sum())
    return 2 * int((guess & label).sum()) / total if total else float("nan")


def table(rows: list[Row]) -> str:
    baselines = {row["name"]: figures_of(row["dice"]) for row in rows if row["strategy"] == BASELINE}
    lines = [
        "| data set | training cases | test cases | configuration | patch | steps | label | Dice | baseline | commit |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in sorted(
        (row for row in rows if row["strategy"] != BASELINE), key=lambda row: (row["name"], int(row["seed"]))
    ):
        commit = r["commit"].removesuffix("-dirty")
        for label, dice in figures_of(r["dice"]).items():
            lines.append(
                f"| {r['name']} | {r['train_cases']} | {r['test_cases']} | {r['configuration']} | {r['patch']} | "
                f"{r['steps']} | {label} | {dice:.3f} | {baselines[r['name']][label]:.3f} | {commit} |"
            )
    return "\n".join(lines)


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    results = RESULTS / "datasets.csv"
    planned = runs(options.data)
    run_all(planned, results, options)
    for run in planned:
        known = find_row(results, name=run.name, strategy=BASELINE)
        if options.only in run.name and not (options.table or known):
            baseline = constant_baseline(find_dataset(run.dataset), run.train, run.test)
            append_rows(results, COLUMNS, [{"name": run.name, "strategy": BASELINE, "dice": pairs_text(baseline)}])
    done = read_rows(results)
    print(table(done))
    print("\n" + "; ".join(sorted({row["machine"] for row in done} - {""})))


if __name__ == "__main__":
    main()
