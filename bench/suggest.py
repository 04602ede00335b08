"""Which unlabelled cases should be labelled next: does a ranking by features or uncertainty beat random order?

A draw takes some labelled cases to start with, and lets each order choose which of the other cases to add; training
starts anew with all of them, for equal steps and with the same seed in all orders. ``diverse`` goes to the case that is
farthest from all that are labelled or chosen (k-centre greedy; Sener and Savarese, ICLR 2018), by the features of the
pretrained encoder, without a trained model. ``uncertain`` does the same among the three times as many cases in which a
model of the labelled cases has the least confidence (as in Yang et al., MICCAI 2017); it is trained for half of the
steps. Beside the U-Net there is a classifier on the frozen encoder, which is fitted in seconds and has little noise of
its own. Pool and scored cases are apart; test cases are not touched. Rows are in ``bench/results/suggest.csv``.

    python bench/suggest.py --only softmax --seeds 0 1 2 3 4 5 6 7
    python bench/suggest.py --only hippocampus-unet --seeds 0 1 2
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rows import Row, figures_of, find_row, read_rows
from runner import (
    RESULTS,
    BenchRun,
    add_result,
    arguments,
    held_out,
    in_processes,
    link_cases,
    lists_of,
    score_cases,
    train_run,
)

import seg_transfer
from seg_transfer.data.dataset import find_images
from seg_transfer.data.image import read_image
from seg_transfer.evidence.frozen_encoders import frozen_encoder, probed_model, recalibration_images
from seg_transfer.inference.predictions import PREDICTIONS_FILE, Predictions
from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.preprocessing.store import Store
from seg_transfer.util.statistics import mean_interval
from seg_transfer.workflow.work_folder import WorkFolder

RANDOM = "random"
ORDERS = (RANDOM, "diverse", "uncertain")
EPOCH = 50
UNCERTAIN_SHARE = 3
"""Of how many of the least confident cases, per case to add, the farthest are taken."""
READ_PER_AXIS = 8
"""Voxels along each axis at which features of a case are read for their mean."""
COLUMNS = ("name", "seed", "train_cases", "test_cases", "added", "configuration", "encoder", "steps")
COLUMNS += ("training_seconds", "dice", "wall_seconds", "machine", "commit", "finished")


@dataclass(frozen=True)
class Setting:
    """A data set, how many labelled cases a draw starts with and adds, and how it is planned."""

    dataset: str
    options: dict[str, Any]
    start: int = 5
    add: int = 10

    @property
    def name(self) -> str:
        """The data set and what is trained."""
        return f"{self.dataset}-{self.options['head']}"


SETTINGS = (
    Setting("cells", {"head": "softmax"}),
    Setting("hippocampus", {"config": "3d", "head": "softmax"}),
    Setting("hippocampus", {"config": "3d", "head": "unet"}),
    Setting("cells", {"head": "unet"}),
)


def farthest_first(features: NDArray[np.floating], labelled: int, count: int) -> list[int]:
    """Indices of ``count`` rows after the first ``labelled``, each the farthest from all labelled or chosen before.

    Args:
        features: ``(case, feature)``; every feature is scaled to a standard deviation of 1.
        labelled: At least one.
        count: How many to choose.
    """
    spread = features.std(axis=0)
    scaled = features / np.where(spread > 0, spread, 1)
    distance = np.full(len(scaled), np.inf)
    chosen: list[int] = []
    for centre in range(labelled):
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[centre], axis=1))
    for _ in range(count):
        chosen.append(labelled + int(distance[labelled:].argmax()))
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[chosen[-1]], axis=1))
    return chosen


class Draw:
    """The labelled cases of a draw, those that may be added, and what the orders are computed from."""

    def __init__(self, setting: Setting, data: Path, folder: Path, seed: int, epochs: int) -> None:
        self.setting, self.dataset, self.folder = setting, data / setting.dataset, folder
        self.seed, self.epochs = seed, epochs
        lists = lists_of(setting.dataset)["few_shot"]
        self.scored = held_out(lists)
        longest = max(lists.values(), key=len)
        pool = [case for case in sorted(longest) if case not in set(self.scored)]
        mixed = [pool[index] for index in np.random.default_rng(seed).permutation(len(pool))]
        self.start, self.others = mixed[: setting.start], mixed[setting.start :]

    def run(self, order: str, cases: Sequence[str], epochs: int) -> BenchRun:
        """A training on some cases; a classifier is fitted whatever the epochs."""
        trained = self.setting.options["head"] == "unet"
        return BenchRun(
            name=f"{self.setting.name}-{order}" + f"-{epochs * EPOCH}steps" * trained,
            dataset=self.dataset,
            train=sorted(cases),
            test=self.scored,
            options=self.setting.options | ({"epochs": epochs} if trained else {}),
            edits={"recipe.steps_per_epoch": EPOCH} if trained else {},
        )

    def added(self, order: str) -> list[str]:
        """The cases that an order adds."""
        count = self.setting.add
        if order == RANDOM:  # the others are in random order
            return self.others[:count]
        among = self.others
        if order == "uncertain":
            among = sorted(self.others, key=self.confidence.__getitem__)[: UNCERTAIN_SHARE * count]
        named = [*self.start, *among]
        features = np.stack([self.features[case] for case in named])
        return [named[index] for index in farthest_first(features, len(self.start), count)]

    @cached_property
    def started(self) -> Plan:
        """The plan of the labelled cases; their model is trained and their store is there."""
        plan, _ = train_run(self.run("start", self.start, self.epochs // 2), self.folder, self.seed)
        return plan

    @cached_property
    def images(self) -> Path:
        """A folder of the images of all cases of the pool."""
        images, _ = link_cases(self.dataset, [*self.start, *self.others], self.folder / "pool")
        return images

    @cached_property
    def confidence(self) -> Mapping[str, float]:
        """Of each case of the pool, by the model of the labelled cases, without mirrored copies."""
        assert self.started
        found = self.folder / "predictions"
        seg_transfer.predict(self.images, found, work=self.folder, uncertainty=True, tta=False)
        made = Predictions.load(found / PREDICTIONS_FILE).label_maps
        return {name.partition(".")[0]: entry.confidence or 0.0 for name, entry in made.items()}

    @cached_property
    def features(self) -> Mapping[str, NDArray[np.float32]]:
        """Of each case of the pool the mean of the deepest stage of the plan's pretrained encoder."""
        plan = self.started
        store = Store.open(WorkFolder(self.folder).store_folder(plan), plan.data)
        encoder = frozen_encoder(
            plan,
            probed_model(plan, stages=plan.model.stages),
            seed=self.seed,
            device="cpu",
            recalibrate=list(recalibration_images(plan, store, self.start, seed=self.seed)),
        )
        found = {}
        for case in find_images(self.images, len(plan.data.channels)):
            image = read_image(case.images)
            array = CaseTransform.fit(image, plan.data).image(image)
            axes = [np.unique(np.linspace(0, size - 1, READ_PER_AXIS).round().astype(int)) for size in array.shape[1:]]
            positions = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
            found[case.id] = encoder.at(array, positions)[-1].mean(axis=0)
        return found


def do_draw(setting: Setting, data: Path, results: Path, work: Path, seed: int, epochs: int) -> Row:
    """Do what is missing of a draw: a row per order; returns the last one."""
    folder = work / f"{setting.name}-seed{seed}-epochs{epochs}"
    draw = Draw(setting, data, folder / "start", seed, epochs)
    row = None
    for order in ORDERS:
        started = time.perf_counter()
        name = draw.run(order, (), epochs).name
        row = find_row(results, name=name, seed=seed)
        if row is not None:
            continue
        added = draw.added(order)
        run = draw.run(order, [*draw.start, *added], epochs)
        plan, trained = train_run(run, folder / order, seed)
        scores = score_cases(run.dataset, run.test, folder / order)
        about = {
            "added": " ".join(added),
            "configuration": plan.model.configuration,
            "encoder": plan.model.encoder,
            "steps": trained["steps"],
            "training_seconds": round(trained["seconds"], 1),
        }
        row = add_result(results, COLUMNS, run, seed, about, scores, started)
    shutil.rmtree(folder, ignore_errors=True)
    assert row is not None
    return row


def table(results: Sequence[Row]) -> str:
    """Mean Dice of each order, and its differences from random order in the same draws, in points."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for row in results:
        dataset, head, order, *steps = row["name"].split("-")
        mean = statistics.mean(figures_of(row["dice"]).values())
        found.setdefault(f"{dataset} | {' '.join([head, *steps])}", {}).setdefault(order, {})[int(row["seed"])] = mean
    lines = [
        "| data set | training | order | draws | mean Dice | minus random, points | 95 % interval |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, orders in found.items():
        usual = orders.get(RANDOM, {})
        for order in (order for order in ORDERS if order in orders):
            seeds = sorted(orders[order].keys() & usual.keys())
            less = [100 * (orders[order][seed] - usual[seed]) for seed in seeds]
            shown = ["–", "–"]
            if less and order != RANDOM:
                shown[0] = f"{statistics.mean(less):+.2f}"
            if len(less) > 1 and order != RANDOM:
                shown[1] = "{:+.2f} to {:+.2f}".format(*mean_interval(less))
            dice = statistics.mean(orders[order].values())
            lines.append(f"| {name} | {order} | {len(orders[order])} | {dice:.4f} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6, help=f"of {EPOCH} steps, of the U-Net")
    options = parser.parse_args()
    results = RESULTS / "suggest.csv"
    if not options.table:
        todo = [
            (setting, options.data, results, options.work / "suggest", seed, options.epochs)
            for seed in options.seeds
            for setting in SETTINGS
            if options.only in setting.name
        ]
        for row in in_processes(do_draw, todo, options.parallel):
            print(row["dice"], row["name"], "seed", row["seed"], flush=True)
    print(table(read_rows(results)))


if __name__ == "__main__":
    main()
