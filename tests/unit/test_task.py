"""Options that decide a run's result: taken from options, plan or record, and compared when a run is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_plans import data_plan, model_plan, plan

from seg_transfer.errors import UserError
from seg_transfer.options.train_options import RunOptions, TaskOptions
from seg_transfer.planning.evidence_record import RaceEvidence
from seg_transfer.training.manifest import UsedOptions
from seg_transfer.training.run_folder import RunFolder
from seg_transfer.training.task import Task

MADE = plan(data_plan(), model_plan("2d", (1, 16, 16)), seed=3, epochs=4)
RUN = RunFolder(Path("fold_0"), 0)


def task_of(**options: object) -> Task:
    return Task.of(MADE, 0, RunOptions(**options))


def test_each_is_an_option_that_is_none_unless_given() -> None:
    assert {name: RunOptions.model_fields[name].default for name in TaskOptions.model_fields} == dict.fromkeys(
        TaskOptions.model_fields
    )


@pytest.mark.parametrize("record", [Task, UsedOptions, RaceEvidence])
def test_each_is_recorded(record: type) -> None:
    assert record.model_fields.keys() >= TaskOptions.model_fields.keys()


def test_options_replace_the_plans_values() -> None:
    assert task_of() == Task(fold=0, seed=3, epochs=4, time_budget=None)
    assert task_of(seed=0) == Task(fold=0, seed=0, epochs=4, time_budget=None)
    assert task_of(time_budget=9.0) == Task(fold=0, seed=3, epochs=None, time_budget=9.0)


def test_what_is_not_given_is_taken_from_the_record() -> None:
    recorded = task_of(seed=7, time_budget=9.0).model_dump()
    for given in ({}, {"seed": 7}, {"time_budget": 9.0}):
        options = RunOptions(**given)
        assert Task.of(MADE, 0, options).resumed(recorded, options, RUN).model_dump() == recorded
    options = RunOptions(epochs=4)
    with pytest.raises(UserError, match=r"started with epochs None \(now 4\), time_budget 9.0 \(now None\)"):
        Task.of(MADE, 0, options).resumed(recorded, options, RUN)


def test_a_record_without_a_newer_option_has_its_default() -> None:
    class Newer(Task):
        most: int | None = None

    recorded = task_of().model_dump()
    task = Newer(**recorded)
    assert task.resumed(recorded, RunOptions(), RUN) == task
    with pytest.raises(UserError, match=r"started with most None \(now 5\)"):
        Newer(**recorded, most=5).resumed(recorded, RunOptions(), RUN)
