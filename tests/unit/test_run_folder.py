"""A run's files, and how the runs and the store of a plan are found again: by what lies there, not by a hash."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from made_plans import data_plan, manifest, model_plan, plan

from seg_transfer.data.splits import Split
from seg_transfer.errors import UserError
from seg_transfer.evaluation.scores import Scores
from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.store import Store
from seg_transfer.training.checkpoint import save_state
from seg_transfer.training.checkpoint_header import model_digests
from seg_transfer.training.run_folder import PlanFolder, RunFolder, TrainedRuns, are_scores_of
from seg_transfer.workflow.models import find_models
from seg_transfer.workflow.status import status
from seg_transfer.workflow.work_folder import WorkFolder


def a_plan(**recipe: object) -> Plan:
    splits = (Split(train=("a",), validation=("b",)), Split(train=("b",), validation=("a",)))
    return plan(data_plan(cases=("a", "b")), model_plan("2d", (1, 32, 32)), splits=splits, **recipe)


def finish(run: RunFolder, made: Plan, *, finished: bool = True) -> None:
    """A run as training leaves it, without weights."""
    manifest(made, run.fold, finished=finished).save(run.manifest)
    run.model.write_bytes(b"")


def weights(file: Path, value: float) -> None:
    """A model of one weight."""
    save_state(file, "model", {"weight": torch.tensor([value])}, {})


def without(file: Path, part: str, field: str) -> None:
    """Rewrite a plan as a segtl wrote it that did not have the field."""
    content = json.loads(file.read_text())
    del content[part][field], content["checksums"]
    file.write_text(json.dumps(content))


class TestRunFolder:
    def test_it_is_finished_once_its_manifest_says_so(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path / "fold_0", 0)
        assert not run.started and not run.finished
        finish(run, a_plan(), finished=False)
        assert run.started and not run.finished
        finish(run, a_plan())
        assert run.finished
        run.manifest.write_text("{")
        with pytest.raises(UserError, match="run's manifest, or damaged"):
            _ = run.finished

    def test_it_is_validated_with_the_very_model(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        run = RunFolder(tmp_path, 0)
        finish(run, a_plan())
        weights(run.model, 1.0)
        assert not run.validated
        scores = Scores(unit="mm", tolerance=1.0, labels={}, cases={}, models=model_digests([run.model]))
        scores.save(run.scores)
        for seconds in (5, 2**33):  # before its model, and by a clock that is ahead
            os.utime(run.scores, (seconds, seconds))
            assert run.validated
        finish(run, a_plan(), finished=False)
        weights(run.model, 1.0)  # as when it is written again from the resume state
        assert not run.validated
        finish(run, a_plan())
        weights(run.model, 2.0)
        assert not run.validated
        weights(run.model, 1.0)
        assert run.validated and caplog.text == ""
        run.scores.write_text(run.scores.read_text().replace('"tolerance": 1.0', '"tolerance": 2.0'))
        assert not run.validated and f"{run.scores} is damaged" in caplog.text

    def test_scores_of_an_earlier_release_count(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, 0)
        finish(run, a_plan())
        run.validation.mkdir()
        run.scores.write_text("{}")
        assert run.validated
        run.model.unlink()
        assert not run.validated

    def test_clearing_leaves_the_race_and_what_is_not_the_runs(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, "full")
        (tmp_path / "notes.txt").touch()
        for file in (run.model, run.resume, run.manifest, run.log, run.progress_plot, run.race):
            file.touch()
        for file in (run.scores, run.control, run.tensorboard / "events", run.race_candidate(1).model):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        run.clear()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "race", "race.json"]
        run.clear_race()
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    def test_scores_of_several_models(self, tmp_path: Path) -> None:
        one, two, three = (tmp_path / name for name in "abc")
        for number, file in enumerate((one, two, three)):
            weights(file, float(number))
        scores = Scores(unit="mm", tolerance=1.0, labels={}, cases={}, models=model_digests([two, one, two]))
        scores.save(tmp_path / "scores.json")
        assert are_scores_of(tmp_path / "scores.json", [one, two])
        assert not are_scores_of(tmp_path / "scores.json", [one])
        assert not are_scores_of(tmp_path / "scores.json", [one, two, three])


class TestPlanFolder:
    def test_its_runs_are_the_plans_folds_and_full(self, tmp_path: Path) -> None:
        folder = PlanFolder(tmp_path, a_plan())
        assert [(run.fold, run.path.name) for run in folder.runs] == [(0, "fold_0"), (1, "fold_1"), ("full", "full")]

    def test_the_plan_is_kept_as_it_was_at_first(self, tmp_path: Path) -> None:
        made = a_plan()
        folder = PlanFolder(tmp_path, made)
        folder.keep_plan()
        before = folder.plan_file.stat().st_mtime_ns
        folder.keep_plan()
        assert folder.plan_file.stat().st_mtime_ns == before and Plan.load(folder.plan_file) == made

    def test_held_out_cases_by_fold(self, tmp_path: Path) -> None:
        folder = PlanFolder(tmp_path, a_plan())
        assert TrainedRuns(folder, (0, 1)).held_out == {"b": 0, "a": 1}
        assert TrainedRuns(folder, ("full",)).held_out == {}
        assert TrainedRuns(folder, (1,)).models == [tmp_path / "fold_1" / "model.safetensors"]


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    """A work folder with a trained fold, made by an earlier segtl: another hash, and a field less in the plan."""
    work, made = WorkFolder(tmp_path), a_plan()
    made.save(work.plan)
    folder = PlanFolder(work.runs / "2d-resnet18-scratch-0ld0ld00", made)
    folder.keep_plan()
    finish(folder.run(0), made)
    for file in (work.plan, folder.plan_file):
        without(file, "recipe", "gradient_clip")
    return work


class TestRunsAreFoundAgain:
    def test_whatever_the_folder_is_called(self, work: WorkFolder) -> None:
        folder = work.plan_folder(work.load_plan())
        assert folder.name == "2d-resnet18-scratch-0ld0ld00"
        assert [run.fold for run in folder.runs if run.finished] == [0]
        assert [folder.name for folder in work.plan_folders()] == ["2d-resnet18-scratch-0ld0ld00"]

    def test_by_the_plan_that_is_written_anew_with_the_field(self, work: WorkFolder) -> None:
        a_plan().save(work.plan)
        assert work.plan_folder(work.load_plan()).name == "2d-resnet18-scratch-0ld0ld00"

    def test_by_status_and_by_what_predicts(self, work: WorkFolder) -> None:
        found = status(work=work.path)
        assert found.plan == "2d-resnet18-scratch-0ld0ld00"
        states = [(run.current, run.fold, run.state) for run in found.runs]
        assert states == [(True, 0, "trained"), (True, 1, "not started"), (True, "full", "not started")]
        (trained,) = find_models(work, None).runs
        assert (trained.name, trained.folds) == ("2d-resnet18-scratch-0ld0ld00", (0,))

    def test_status_shows_a_damaged_run_and_the_others(self, work: WorkFolder) -> None:
        run = work.plan_folder(work.load_plan()).run(0)
        run.manifest.write_text("{", encoding="utf-8")
        damaged, other, _ = status(work=work.path).runs
        assert (damaged.state, other.state) == ("damaged", "not started")
        assert str(run.manifest) in (damaged.problem or "")

    def test_another_plan_gets_a_folder_of_its_own(self, work: WorkFolder) -> None:
        other = a_plan(gradient_clip=1.0)
        assert work.plan_folder(other).name == f"2d-resnet18-scratch-{other.hash[:8]}"

    def test_a_name_that_another_plan_has_is_not_taken_again(self, tmp_path: Path) -> None:
        """As after a default has changed: the folder of the hash holds the plan with the former value."""
        work, former, made = WorkFolder(tmp_path), a_plan(gradient_clip=1.0), a_plan()
        name = f"2d-resnet18-scratch-{made.hash[:8]}"
        PlanFolder(work.runs / name, former).keep_plan()
        folder = work.plan_folder(made)
        assert folder.name == f"{name}-2"
        folder.keep_plan()
        assert work.plan_folder(made).name == f"{name}-2" and work.plan_folder(former).name == name

    def test_a_folder_that_cannot_be_read_is_named_and_left_alone(
        self, work: WorkFolder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (unreadable,) = (folder.plan_file for folder in work.plan_folders())
        content = json.loads(unreadable.read_text()) | {"version": 1}
        unreadable.write_text(json.dumps(content))
        made = work.load_plan()
        assert work.plan_folder(made).name == f"2d-resnet18-scratch-{made.hash[:8]}"
        capsys.readouterr()
        assert work.plan_folders() == []


class TestTheStoreIsFoundAgain:
    @pytest.fixture
    def store(self, tmp_path: Path) -> Path:
        """A store made by an earlier segtl: another hash, a field less, and without a version."""
        folder = tmp_path / "preprocessed" / "0ld0ld0ld0ld"
        made = Store.create(folder, a_plan().data)
        content = json.loads((made.folder / "plan-data.json").read_text())["data"]
        del content["image_order"]
        (made.folder / "plan-data.json").write_text(json.dumps(content))
        return folder

    def test_whatever_the_folder_is_called(self, store: Path, tmp_path: Path) -> None:
        made = a_plan()
        assert WorkFolder(tmp_path).store_folder(made) == store
        assert Store.open(store, made.data).folder == store
        assert Store.create(store, made.data).folder == store

    def test_another_data_part_gets_a_store_of_its_own(self, store: Path, tmp_path: Path) -> None:
        made = a_plan()
        other = made.model_copy(update={"data": data_plan(cases=("a", "b"), crop_nonzero=True)})
        assert WorkFolder(tmp_path).store_folder(other) != store
        with pytest.raises(UserError, match="another data part than the plan's, which differs in crop_nonzero"):
            Store.open(store, other.data)
