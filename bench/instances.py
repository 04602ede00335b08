"""Are touching objects told apart better by their cores than by connected components of the foreground?

Made images of 96 x 96 pixels with 12 discs, most of which touch another one (``tests/made_discs.py``): 24 to train on,
12 to score. A default plan is trained for a given time; the network's foreground is the same for both, so that only the
way to tell objects apart differs.

    python bench/instances.py --minutes 2 --seeds 3
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

import seg_transfer
from seg_transfer.evaluation.panoptic import panoptic_quality

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from made_discs import write_discs

TRAIN, TEST = 24, 12


def qualities(folder: Path, minutes: float, seed: int) -> tuple[float, float, float]:
    """Mean PQ over the test images by cores and by connected components, and mean Dice of the foreground."""
    first = 1000 * seed
    train = write_discs(folder / "train", range(first, first + TRAIN))
    test = write_discs(folder / "test", range(first + TRAIN, first + TRAIN + TEST))
    work = folder / "work"
    seg_transfer.plan(train, work=work, time_budget=60 * minutes, seed=seed)
    seg_transfer.train("full", work=work)
    seg_transfer.predict(test / "imagesTr", folder / "out", work=work)
    cores, components, dices = [], [], []
    for path in sorted((test / "labelsTr").iterdir()):
        reference, found = np.asarray(Image.open(path)), np.asarray(Image.open(folder / "out" / path.name))
        cores.append(panoptic_quality(found, reference).quality)
        components.append(panoptic_quality(ndimage.label(found)[0], reference).quality)
        common = np.count_nonzero((found > 0) & (reference > 0))
        dices.append(2 * common / (np.count_nonzero(found) + np.count_nonzero(reference)))
    return statistics.mean(cores), statistics.mean(components), statistics.mean(dices)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2, help="of training in each run")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    print("| seed | PQ by cores | PQ by connected components | Dice of the foreground |\n|---|---|---|---|")
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as folder:
            row = qualities(Path(folder), given.minutes, seed)
        print(f"| {seed} | {' | '.join(f'{value:.3f}' for value in row)} |", flush=True)


if __name__ == "__main__":
    main()
