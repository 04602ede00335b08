"""When cases are added, what does an earlier model of fewer cases save, with and without its heads?

A model of 5 cases of hippocampus starts another training on 10, of 20 to 200 steps. Arms: the earlier model with its
heads, as `plan --from` takes it; with new heads; and no earlier model. Scored on development cases that none of them
saw. Finished runs are rows of `bench/results/added_cases.csv`.

    python bench/added_cases.py --seeds 0 1
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rows import Row, figures_of, read_rows
from runner import RESULTS, BenchRun, arguments, held_out, lists_of, run_one, train_run

import seg_transfer

DATASET, FIRST, AFTER = "hippocampus", "5", "10"
FIRST_EPOCHS = 4
ARMS = ("heads", "new-heads", "none")
STEPS = (20, 50, 200)
FILE = RESULTS / "added_cases.csv"


def bench_run(data: Path, arm: str, steps: int, model: Path) -> BenchRun:
    """The training on all cases."""
    few = lists_of(DATASET)["few_shot"]
    options: dict[str, Any] = {"epochs": 1} if arm == "none" else {"epochs": 1, "from_model": model}
    edits: dict[str, Any] = {"recipe.steps_per_epoch": steps}
    return BenchRun(
        name=f"{DATASET}-{FIRST}-to-{AFTER}-{arm}-{steps}steps",
        dataset=data / DATASET,
        train=few[AFTER],
        test=held_out(few),
        options=options,
        edits=edits | ({"model.weights.heads": False} if arm == "new-heads" else {}),
    )


def first_model(data: Path, folder: Path, seed: int) -> Path:
    """The earlier model, trained if it is not there."""
    model = folder / "model.segtl"
    if not model.is_file():
        few = lists_of(DATASET)["few_shot"][FIRST]
        run = BenchRun(name="first", dataset=data / DATASET, train=few, test=[], options={"epochs": FIRST_EPOCHS})
        train_run(run, folder / "first", seed)
        seg_transfer.export(model, work=folder / "first")
    return model


def table(rows: list[Row]) -> str:
    """Mean Dice of each arm by steps, all seeds together, as Markdown."""
    lines = [f"| steps | {' | '.join(ARMS)} |", f"|{'---|' * (1 + len(ARMS))}"]
    for steps in STEPS:
        cells = []
        for arm in ARMS:
            dice = [
                sum(figures_of(row["dice"]).values()) / len(figures_of(row["dice"]))
                for row in rows
                if row["name"].endswith(f"-to-{AFTER}-{arm}-{steps}steps")
            ]
            cells.append(f"{sum(dice) / len(dice):.3f} ({len(dice)})" if dice else "")
        lines.append(f"| {steps} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    for seed in [] if options.table else options.seeds:
        folder = options.work / FILE.stem / f"seed{seed}"
        model = first_model(options.data, folder, seed)
        for steps in STEPS:
            for arm in ARMS:
                run_one(bench_run(options.data, arm, steps, model), FILE, folder, seed)
    print(table(read_rows(FILE)))


if __name__ == "__main__":
    main()
