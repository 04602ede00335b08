"""What do a second frozen encoder, and a second resolution at prediction, add to a segmentation from few cases?

A run trains the default encoder for a fixed number of steps and scores development cases: cases of the data set's
longest training list that are in none of the shorter ones. Its test cases are not touched.

    python bench/second_view.py --seeds 0 1
    python bench/second_view.py --only retina-8 --epochs 1

``frozen``: the usual network on the frozen encoder. ``frozen+lite2``: its decoder reads a second frozen encoder too,
whose BatchNorm is re-estimated in the first steps, as the first one's is before them. ``gradual``: the default.
``gradual, two resolutions``: the same model, whose probabilities are averaged with those of images that are half as
large again in-plane. Finished runs are kept in ``bench/results/second_view.csv``.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from recipe import EPOCH, SETTINGS, Setting
from rows import Row, figures_of, find_row, read_rows
from runner import (
    COLUMNS,
    RESULTS,
    BenchRun,
    about_run,
    add_result,
    arguments,
    held_out,
    in_processes,
    link_cases,
    lists_of,
    score_cases,
    train_run,
)
from torch import Tensor

import seg_transfer
from seg_transfer.catalogue.encoders import DEFAULT_ENCODER
from seg_transfer.data.dataset import Case, find_cases
from seg_transfer.data.formats import write_volume
from seg_transfer.data.image import read_image
from seg_transfer.evaluation.scores import Scores
from seg_transfer.inference.outputs import Outputs
from seg_transfer.inference.predictor import Predictor
from seg_transfer.network import encoder_network
from seg_transfer.options.model_options import ArrayOptions
from seg_transfer.planning.plan import Weights
from seg_transfer.transfer.encoder import Encoder
from seg_transfer.transfer.on_meta import on_meta
from seg_transfer.transfer.weights import load_weights
from seg_transfer.workflow.source import find_source, load_predictor

SECOND = "tf_efficientnet_lite2"
ENLARGED = 1.5
ESTIMATED = 50
"""Batches from which the second encoder's BatchNorm is estimated."""
ARMS = {"frozen": "frozen", "frozen+lite2": "frozen", "gradual": "gradual"}
"""What is trained -> its strategy."""
BOTH = "gradual, two resolutions"
STUDIED = {"hippocampus", "abdomen_mr", "cells", "retina"}
"""Settings of ``recipe.py`` that are studied."""


class PairedEncoder(Encoder):
    """The encoder, with the maps of a second one beside its own; the second one is one for the whole process."""

    second: Encoder | None = None
    batches = 0

    def __init__(self, name: str, **given: object) -> None:
        super().__init__(name, **given)  # type: ignore[arg-type]
        self._own, self._given = self.channels, given
        with on_meta():
            others = Encoder(SECOND, **given).channels  # type: ignore[arg-type]
        self.channels = tuple(one + other for one, other in zip(self._own, others, strict=True))

    def fold(self, stages: Collection[int]) -> None:
        both, self.channels = self.channels, self._own
        super().fold(stages)
        self.channels = both

    def forward(self, x: Tensor) -> list[Tensor]:
        kind = type(self)
        if kind.second is None:
            kind.second = Encoder(SECOND, **self._given)  # type: ignore[arg-type]
            load_weights(kind.second, Weights(source="bundled"), SECOND)
            for module in kind.second.modules():
                if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                    module.reset_running_stats()
                    module.momentum = None  # the mean over batches
        kind.second.train(self.training and kind.batches < ESTIMATED)
        kind.batches += self.training
        with torch.no_grad():
            others = kind.second(x)
        return [torch.cat(maps, dim=1) for maps in zip(super().forward(x), others, strict=True)]


@contextmanager
def paired(use: bool) -> Iterator[None]:
    """Build networks on two encoders meanwhile."""
    if use:
        PairedEncoder.second, PairedEncoder.batches = None, 0
        encoder_network.Encoder = PairedEncoder  # type: ignore[misc]
    try:
        yield
    finally:
        encoder_network.Encoder = Encoder  # type: ignore[misc]


def both_resolutions(predictor: Predictor, case: Case) -> tuple[np.ndarray, object]:
    """Label map from the mean of two resolutions' probabilities, in the file's order, and the file's grid."""
    image = read_image(case.images)
    transform, array = predictor.prepare(image)
    scale = np.ones(4)
    scale[list(transform.axes[1:])] = ENLARGED  # as if its voxels were larger
    large = dataclasses.replace(image, affine=image.affine * scale)
    total = 0.0
    for grid, windowed in ((transform, array), predictor.prepare(large)):
        total = total + grid.restore_probabilities(predictor.probabilities(windowed), predictor.data)
    values = np.array([label.value for label in predictor.data.labels], np.uint8)
    return values[np.argmax(total, axis=0)], image.native


def score_both(dataset: Path, cases: list[str], folder: Path) -> Scores:
    """Predict with both resolutions and score."""
    images, labels = link_cases(dataset, cases, folder / "test")
    options = ArrayOptions(work=folder)
    predictor = load_predictor(find_source(options), options)
    outputs = Outputs(folder / "both")
    outputs.folder.mkdir()
    for case in find_cases([images], len(predictor.data.channels)):
        labelled, native = both_resolutions(predictor, case)
        write_volume(outputs.label_map(case), labelled, native, predictor.data.written_names)
    return seg_transfer.evaluate(outputs.folder, labels, work=folder)


def run(setting: Setting, arm: str, epochs: int, seed: int, data: Path, work: Path) -> Row:
    """Do a run unless its row is there; returns the row."""
    size, path = str(setting.cases[0]), RESULTS / "second_view.csv"
    name = f"{setting.name}-{size}-{arm}-{epochs * EPOCH}"
    known = find_row(path, name=name, seed=seed)
    if known is not None:
        return known
    lists = lists_of(setting.dataset)["few_shot"]
    options = {"config": setting.configuration, "encoder": DEFAULT_ENCODER, "weights": "bundled"}
    options |= {"epochs": epochs, "strategy": ARMS[arm]}
    given = BenchRun(
        name=name,
        dataset=data / setting.dataset,
        train=lists[size],
        test=held_out(lists),
        options=options,
        edits={"recipe.steps_per_epoch": EPOCH},
    )
    folder, started = work / f"{name}-seed{seed}", time.perf_counter()
    shutil.rmtree(folder, ignore_errors=True)
    with paired(arm == "frozen+lite2"):
        plan, trained = train_run(given, folder, seed)
        scores = score_cases(given.dataset, given.test, folder)
    about = about_run(given, plan, trained)
    row = add_result(path, COLUMNS, given, seed, about, scores, started)
    if arm == "gradual":
        other = dataclasses.replace(given, name=name.replace(arm, BOTH))
        scores = score_both(given.dataset, given.test, folder)
        add_result(path, COLUMNS, other, seed, about, scores, started)
    shutil.rmtree(folder)
    return row


def table() -> str:
    """Mean Dice of each arm, and each draw's points over the arm without a second view."""
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in read_rows(RESULTS / "second_view.csv"):
        setting, size, arm, steps = row["name"].split("-")
        dice = list(figures_of(row["dice"]).values())
        found[f"{setting}, {size}, {steps} steps"][arm][row["seed"]] = sum(dice) / len(dice)
    lines = ["| data set, cases | arm | Dice of each draw | points over it without |", "|---|---|---|---|"]
    for name, arms in found.items():
        for arm, draws in arms.items():
            without = arms.get({"frozen+lite2": "frozen", BOTH: "gradual"}.get(arm, ""), {})
            gains = [f"{100 * (dice - without[seed]):+.1f}" for seed, dice in draws.items() if seed in without]
            lines.append(f"| {name} | {arm} | {', '.join(f'{d:.3f}' for d in draws.values())} | {', '.join(gains)} |")
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5, help=f"of {EPOCH} steps")
    given = parser.parse_args()
    todo = [
        (setting, arm, given.epochs, seed, given.data, given.work / "second_view")
        for seed in given.seeds
        for setting in SETTINGS
        for arm in ARMS
        if setting.name in STUDIED and given.only in f"{setting.name}-{setting.cases[0]}-{arm}" and not given.table
    ]
    for row in in_processes(run, todo, given.parallel):
        print(row["dice"], row["name"], "seed", row["seed"], flush=True)
    print(table())


if __name__ == "__main__":
    main()
