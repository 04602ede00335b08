"""What ``bench/runner.py`` does to a plan before it is trained."""

from __future__ import annotations

import json
from pathlib import Path

from recipe import enlarged
from runner import edit_plan


def test_a_plan_is_edited_by_values_and_functions(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"data": {"spacing": [5.0, 1.0, 2.0]}, "recipe": {"strategy": {"name": "gradual"}}}))
    edit_plan(path, {"data.spacing": enlarged, "recipe.strategy.name": "frozen", "recipe.warmup": 0.2})
    assert json.loads(path.read_text()) == {
        "data": {"spacing": [5.0, 0.5, 1.0]},
        "recipe": {"strategy": {"name": "frozen"}, "warmup": 0.2},
    }
