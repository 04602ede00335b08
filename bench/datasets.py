"""The other four data sets with their defaults and 10 minutes of training, beside a constant baseline.

The baseline predicts, for every case, the most frequent label per position (positions as a fraction of the image) of
the training cases; a label it never predicts scores 0. Finished cells are kept in ``bench/results/datasets``.

    python bench/datasets.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from cells import HERE, Cell, arguments, lists_of, run_cells
from scipy.ndimage import zoom

from seg_transfer.data.dataset import Dataset, find_dataset
from seg_transfer.data.image import read_label
from seg_transfer.util.files import write_text

MINUTES = 10
RETINA_PATIENT = r"retina_(\d+)"
TRAINING = {"abdomen_mr": "10", "sarcoma": "12", "cells": "150", "retina": "16"}
ATLAS = (64, 64, 64)


def cells(data: Path) -> list[Cell]:
    made = []
    for name, size in TRAINING.items():
        splits = lists_of(name)
        options: dict = {"time_budget": MINUTES * 60}
        if name == "retina":
            options["group_by"] = RETINA_PATIENT
        made.append(
            Cell(
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


def table(results: list[dict], baselines: dict[str, dict[str, float]]) -> str:
    lines = [
        "| data set | training cases | test cases | configuration | strategy | steps | label | Dice | baseline |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        for label, dice in r["dice"].items():
            lines.append(
                f"| {r['cell']} | {r['train_cases']} | {r['test_cases']} | {r['configuration']} | {r['strategy']} | "
                f"{r['steps']} | {label} | {dice:.3f} | {baselines[r['cell']][label]:.3f} |"
            )
    return "\n".join(lines)


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    results = HERE / "results" / "datasets"
    planned = cells(options.data)
    run_cells(planned, results, options)
    for cell in planned:
        path = results / f"{cell.name}-baseline.json"
        if options.only in cell.name and not (options.table or path.is_file()):
            baseline = constant_baseline(find_dataset(cell.dataset), cell.train, cell.test)
            write_text(path, json.dumps(baseline, indent=2) + "\n")
    baselines = {
        path.name.removesuffix("-baseline.json"): json.loads(path.read_text())
        for path in results.glob("*-baseline.json")
    }
    done = [json.loads(path.read_text()) for path in sorted(results.glob("*-seed*.json"))]
    print(table(done, baselines))
    print("\n" + "; ".join(sorted({r["machine"] for r in done})))


if __name__ == "__main__":
    main()
