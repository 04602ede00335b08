"""Does a network that knows positions still segment an image that shows less of the body than those of training?

Trains ``usual`` and ``position`` of ``bench/recipe.py`` on 5 cases of abdomen MR, and scores
development cases whole and cut: to the half of each axis that has more labelled voxels. Results are printed.

    python bench/crops.py --epochs 4
"""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path

import nibabel as nib
import numpy as np
from recipe import runs
from runner import arguments, score_cases, train_run

AXES = ("left to right", "back to front", "feet to head")
VARIANTS = ("usual", "position")


def cut(dataset: Path, cases: list[str], axis: int, folder: Path) -> Path:
    """A copy of some cases, each with the half along an axis that has more labelled voxels."""
    for case in cases:
        files = [Path("imagesTr") / f"{case}_0000.nii.gz", Path("labelsTr") / f"{case}.nii.gz"]
        label = nib.as_closest_canonical(nib.load(dataset / files[1]))
        counts = (np.asarray(label.dataobj) > 0).sum(axis=tuple(each for each in range(3) if each != axis))
        middle = len(counts) // 2
        part = slice(0, middle) if counts[:middle].sum() > counts[middle:].sum() else slice(middle, None)
        for file in files:
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            whole = nib.as_closest_canonical(nib.load(dataset / file))
            nib.save(whole.slicer[tuple(part if each == axis else slice(None) for each in range(3))], target)
    shutil.copy(dataset / "dataset.json", folder / "dataset.json")
    return folder


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4, help="of 100 steps")
    options = parser.parse_args()
    work = options.work / "crops"
    for seed in options.seeds:
        for variant in VARIANTS:
            (run,) = [
                each
                for each in runs(options.data, options.epochs)
                if f"abdomen_mr-5-{variant}-{options.epochs}00steps" in each.name
            ]
            folder = work / f"{variant}-{seed}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            train_run(run, folder, seed)
            for name, dataset in [
                ("whole", run.dataset),
                *((axis, cut(run.dataset, run.test, number, work / axis)) for number, axis in enumerate(AXES)),
            ]:
                dice = score_cases(dataset, run.test, folder).label_dice
                figures = {label: round(value, 3) for label, value in dice.items()}
                print(seed, variant, name, round(statistics.mean(dice.values()), 4), json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
