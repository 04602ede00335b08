"""Which labels keep to a side, and how often do few cases say so by chance?

Reads the committed fingerprints of five data sets, no images. Of each label and axis: the median, over the cases, of
the share of its voxels in the half that holds more of it, and whether all cases, or random subsets of them, forbid
mirroring.

    python bench/mirroring.py
    python bench/mirroring.py --cases 4 --subsets 500
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np

from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.sides import Sides, keeps_sides

PLANS = Path(__file__).resolve().parents[1] / "plans"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=5, help="cases in a subset")
    parser.add_argument("--subsets", type=int, default=200, help="random subsets of each data set")
    given = parser.parse_args()
    print(f"| data set | axis | share in one half | all cases | of {given.subsets} subsets of {given.cases} |")
    print("|---|---|---|---|---|")
    for path in sorted(PLANS.glob("*.fingerprint.json")):
        made = Fingerprint.load(path)
        names = [label.name for label in made.labels]
        for axis, letter in enumerate("xyz" if made.dimension == 3 else "xy"):
            shares = []
            for index, name in enumerate(names):
                held = [case.labels[index].positions for case in made.cases]
                larger = [max(one[axis].low_half, 1 - one[axis].low_half) for one in held if one is not None]
                shares.append(f"{name} {np.median(larger):.2f}")
            drawn = [random.Random(seed).sample(made.cases, given.cases) for seed in range(given.subsets)]
            forbidden = sum(bool(keeps_sides(Sides.of(cases, axis), names)) for cases in drawn)
            verdict = "forbid" if keeps_sides(Sides.of(made.cases, axis), names) else "allow"
            print(f"| {path.name.split('.')[0]} | {letter} | {', '.join(shares)} | {verdict} | {forbidden} |")


if __name__ == "__main__":
    main()
