"""Golden plans of five real data sets: they change only by running ``python tools/make_golden.py --update``."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import make_golden
import pytest

from seg_transfer.planning.plan import Plan


def assert_same(found: object, golden: object, path: str = "plan") -> None:
    """Equal, floats to 1e-6 relative; the message names the field."""
    if isinstance(golden, dict):
        assert isinstance(found, dict) and sorted(found) == sorted(golden), path
        for key in golden:
            assert_same(found[key], golden[key], f"{path}.{key}")
    elif isinstance(golden, list):
        assert isinstance(found, list) and len(found) == len(golden), path
        for index, (one, other) in enumerate(zip(found, golden, strict=True)):
            assert_same(one, other, f"{path}.{index}")
    elif isinstance(golden, float):
        assert found == pytest.approx(golden, rel=1e-6, abs=1e-6), path
    else:
        assert found == golden, path


@pytest.mark.parametrize("name", make_golden.GOLDEN)
def test_planning_anew_gives_the_golden_plan(name: str, tmp_path: Path) -> None:
    make_golden.golden_plan(name).save(tmp_path / "plan.json")
    found = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    golden = json.loads(make_golden.plan_path(name).read_text(encoding="utf-8"))
    del found["checksums"], golden["checksums"]  # they hang on the last bit of every float
    assert_same(found, golden)


@pytest.mark.parametrize("name", make_golden.GOLDEN)
def test_golden_plans_load_and_fit_the_schema(name: str) -> None:
    path = make_golden.plan_path(name)
    Plan.load(path)
    schema = json.loads(make_golden.SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(path.read_text(encoding="utf-8")), schema)


def test_the_committed_schema_is_that_of_the_code() -> None:
    assert json.loads(make_golden.SCHEMA.read_text(encoding="utf-8")) == json.loads(
        json.dumps(make_golden.plan_schema())
    )


def test_the_comparison_sees_a_changed_float() -> None:
    assert_same({"a": [1.0]}, {"a": [1.0 + 1e-8]})
    with pytest.raises(AssertionError, match=r"plan\.a\.0"):
        assert_same({"a": [1.0]}, {"a": [1.0 + 1e-4]})


def test_eyes_of_one_child_never_straddle_folds() -> None:
    plan = Plan.load(make_golden.plan_path("retina"))
    for split in plan.recipe.splits:
        assert not {case[:-1] for case in split.train} & {case[:-1] for case in split.validation}
