"""`segtl probe` on 20 hippocampus cases: its time, and its table; and what the penalty of a classifier decides.

    python bench/probe.py --config 3d
    python bench/probe.py --config 3d --penalties

The cases are the data set's list of 20; its test cases are not touched. ``--penalties`` prints the balanced accuracy of
the softmax on held-out cases for each penalty by itself, in place of the one chosen by the other folds. Processor time
counts all threads, so that on idle cores the command takes between its half (two cores) and all of it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from unittest import mock

from runner import DATA, DATA_HELP, commit, lists_of

import seg_transfer
from seg_transfer.cli.show_scores import show_probe
from seg_transfer.planning.evidence_record import ProbeEvidence
from seg_transfer.util.environment import machine_text


def probe(work: Path) -> tuple[ProbeEvidence, float, float]:
    """Evidence, seconds on the clock, and the processor's."""
    clock, processor = time.perf_counter(), time.process_time()
    found = seg_transfer.probe(work=work, device="cpu", workers=0)
    return found, time.perf_counter() - clock, time.process_time() - processor


def penalties(work: Path) -> None:
    """One row per set of features, one column per penalty."""
    from seg_transfer.evidence import classifiers

    columns: dict[float, dict[str, float]] = {}
    for penalty in classifiers.PENALTIES:
        with mock.patch.object(classifiers, "PENALTIES", (penalty,)):
            found, _, _ = probe(work)
        columns[penalty] = {
            " ".join(str(part) for part in (one.source, one.encoder, one.stage) if part is not None): one.scores[
                "softmax"
            ].balanced_accuracy.mean
            for one in found.features
        }
    print("| features | " + " | ".join(f"{penalty:g}" for penalty in columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for name in next(iter(columns.values())):
        print(f"| {name} | " + " | ".join(f"{column[name]:.3f}" for column in columns.values()) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help=DATA_HELP)
    parser.add_argument("--config", default="auto", help="configuration of the plan")
    parser.add_argument("--cases", type=int, default=20, help="the first of the list of 20")
    parser.add_argument("--penalties", action="store_true", help="each penalty by itself")
    options = parser.parse_args()
    dataset = options.data / "hippocampus"
    cases = lists_of(dataset.name)["few_shot"]["20"][: options.cases]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        seg_transfer.plan(dataset, work=work, config=options.config, cases=cases, device="cpu", workers=0)
        if options.penalties:
            penalties(work)
        else:
            found, clock, processor = probe(work)
            show_probe(found, work)
            print(f"{clock:.0f} s on the clock, {processor:.0f} s of processor time, preparing the cases included")
    print(f"{machine_text()}, {commit()}")


if __name__ == "__main__":
    main()
