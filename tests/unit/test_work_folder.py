"""The layout of a work folder, which the README shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_plans import data_plan, learns, manifest, model_plan, plan

from seg_transfer.data.splits import Split
from seg_transfer.errors import UserError
from seg_transfer.options.common import DEFAULT_WORK
from seg_transfer.planning.fields import part_hash
from seg_transfer.planning.plan import Plan
from seg_transfer.workflow.status import status
from seg_transfer.workflow.work_folder import WorkFolder, fold_from_text


def a_plan(*, strategy: str = "finetune", folds: int = 2) -> Plan:
    splits = (Split(train=("a",), validation=("b",)), Split(train=("b",), validation=("a",)))
    return plan(
        data_plan(cases=("a", "b")),
        model_plan("2.5d", (3, 32, 32)),
        strategy=learns(0.0, 0.0, name=strategy),
        splits=splits[:folds],
    )


def test_the_layout_is_the_one_in_the_readme(tmp_path: Path) -> None:
    work, plan = WorkFolder(tmp_path), a_plan()
    assert work.store_folder(plan) == tmp_path / "preprocessed" / part_hash(plan.data)
    runs = tmp_path / "runs" / f"2.5d-resnet18-finetune-{plan.hash[:8]}"
    assert work.plan_folder(plan).run(1).path == runs / "fold_1"
    assert work.plan_folder(plan).run("full").path == runs / "full"


def test_another_strategy_has_its_own_runs_and_the_same_store(tmp_path: Path) -> None:
    work, one, other = WorkFolder(tmp_path), a_plan(), a_plan(strategy="scratch")
    assert work.store_folder(one) == work.store_folder(other)
    assert work.plan_folder(one).run(0).path != work.plan_folder(other).run(0).path


@pytest.mark.parametrize(("text", "fold"), [("0", 0), ("1", 1), ("full", "full")])
def test_folds_as_people_write_them(text: str, fold: object) -> None:
    assert fold_from_text(text, a_plan(), option="FOLD") == fold


@pytest.mark.parametrize("text", ["2", "-1", "all", "", "0.5"])
def test_folds_that_are_not_there_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="has 0 to 1, and full"):
        fold_from_text(text, a_plan(), option="FOLD")


def test_the_work_option_is_said_only_where_it_is_needed() -> None:
    assert WorkFolder(DEFAULT_WORK).option == ""
    assert WorkFolder(Path("my work")).option == " -w 'my work'"


def test_status_follows_the_work(tmp_path: Path) -> None:
    work, plan, earlier = WorkFolder(tmp_path), a_plan(), a_plan(strategy="scratch")
    assert status(work=tmp_path).next == ["segtl plan DATASET"]
    plan.save(work.plan)
    found = status(work=tmp_path)
    assert (found.dataset, found.cases, found.preprocessed, found.edited) == ("made", 2, 0, [])
    assert [(run.fold, run.state) for run in found.runs] == [
        (0, "not started"),
        (1, "not started"),
        ("full", "not started"),
    ]
    assert found.next == [f"segtl train 0{work.option}"]

    (work.store_folder(plan) / "a").mkdir(parents=True)
    work.plan_folder(earlier).keep_plan()
    work.plan_folder(earlier).run("full").path.mkdir()
    manifest(plan, 1).save(work.plan_folder(plan).run(1).manifest)
    found = status(work=tmp_path)
    assert found.preprocessed == 1
    assert [(run.fold, run.state) for run in found.runs if run.current] == [
        (0, "not started"),
        (1, "trained"),
        ("full", "not started"),
    ]
    assert found.next == [f"segtl predict -i IMAGES -o PREDICTIONS{work.option}", f"segtl train cv{work.option}"]
    assert [(run.fold, run.state) for run in found.runs if not run.current] == [("full", "interrupted")]


def test_status_of_nothing_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        status(work=tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="this is a file, a folder is needed"):
        status(work=tmp_path / "file")
