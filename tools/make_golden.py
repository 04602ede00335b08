"""Rewrite ``plans/``: the plan's JSON schema, and the golden plans from the committed fingerprints.

Run ``python tools/make_golden.py --update`` after an intended change of the rules, and review the diff. With
``--measure FOLDER`` it also measures the fingerprints again, from the data sets in FOLDER.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from seg_transfer.data.dataset import find_dataset
from seg_transfer.options.plan_options import PlanOptions
from seg_transfer.planning.cost import Machine
from seg_transfer.planning.examine import examine
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.folds import assign_folds, read_fold_files
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.planner import make_plan
from seg_transfer.planning.resources import Resources
from seg_transfer.util.files import write_text

PLANS = Path(__file__).resolve().parents[1] / "plans"
SCHEMA = PLANS / "plan.schema.json"
GROUPS = {"retina": r"retina_(\d+)"}
GOLDEN: dict[str, tuple[str, dict[str, Any]]] = {
    "hippocampus": ("hippocampus", {}),
    "hippocampus-2.5d-resnet50": ("hippocampus", {"config": "2.5d", "encoder": "resnet50"}),
    "abdomen_mr": ("abdomen_mr", {}),
    "abdomen_mr-cuda": ("abdomen_mr", {"device": "cuda"}),
    "sarcoma": ("sarcoma", {}),
    "cells": ("cells", {}),
    "retina": ("retina", {}),
}
"""Name of the golden plan -> data set, and how its options and device differ from the defaults."""


def fingerprint_path(dataset: str) -> Path:
    """Where the committed fingerprint of a data set lies."""
    return PLANS / f"{dataset}.fingerprint.json"


def plan_path(name: str) -> Path:
    """Where a golden plan lies."""
    return PLANS / f"{name}.plan.json"


def golden_plan(name: str) -> Plan:
    """Plan a golden case anew from its committed fingerprint."""
    dataset, changes = GOLDEN[name]
    fingerprint = Fingerprint.load(fingerprint_path(dataset))
    changes = {"group_by": GROUPS.get(dataset)} | changes
    device = Machine(changes.pop("device", "cpu"))
    options = PlanOptions(dataset=dataset, **changes)
    files = read_fold_files(options, [case.id for case in fingerprint.cases])
    return make_plan(fingerprint, options, assign_folds(options, files, fingerprint), Resources(device))


def plan_schema() -> dict[str, Any]:
    """JSON schema of ``plan.json``, which holds the checksum of each part beside the plan."""
    schema = Plan.model_json_schema()
    names = ("data", "model", "recipe")
    schema["properties"]["checksums"] = {
        "type": "object",
        "description": "checksum of each part when the plan was written: another one means edited by hand",
        "properties": {name: {"type": "string"} for name in names},
        "additionalProperties": False,
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def main() -> None:
    """Rewrite the schema and the golden plans, and the fingerprints where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", type=Path, metavar="FOLDER", help="folder that holds the five data sets")
    parser.add_argument("--update", action="store_true", required=True, help="yes, rewrite what is committed")
    folder = parser.parse_args().measure
    if folder is not None:
        for dataset in sorted({dataset for dataset, _ in GOLDEN.values()}):
            examine(find_dataset(folder / dataset), workers=0).fingerprint().save(fingerprint_path(dataset))
    write_text(SCHEMA, json.dumps(plan_schema(), indent=2) + "\n")
    for name in GOLDEN:
        golden_plan(name).save(plan_path(name))


if __name__ == "__main__":
    main()
