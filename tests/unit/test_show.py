"""Results as a person reads them."""

from __future__ import annotations

import math
import re
from pathlib import Path

import made_scores
import pytest
from rich.table import Table

from seg_transfer.cli import console, printing, show, show_scores
from seg_transfer.data.description import Region
from seg_transfer.evaluation.largest_component import Trial
from seg_transfer.evaluation.scores import Scores
from seg_transfer.options.other_options import EvaluateOptions, StatusOptions
from seg_transfer.options.plan_options import PlanOptions
from seg_transfer.planning.brief import brief
from seg_transfer.planning.plan import Plan, Split
from seg_transfer.training.run_folder import RunFolder
from seg_transfer.workflow.status import RunStatus, Status
from seg_transfer.workflow.validate import TrainedFold

PLANS = Path(__file__).resolve().parents[2] / "plans"


def scores(*dice: float) -> Scores:
    """One label of as many cases; nan where the label is in neither map."""
    return made_scores.scores({f"case_{number}": value for number, value in enumerate(dice)})


def rows(text: str) -> dict[str, list[str]]:
    """First cell of each row of a table -> its other cells."""
    cells = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in text.splitlines() if "│" in line]
    return {first: others for first, *others in cells}


def test_no_command_is_shown_by_two_functions() -> None:
    """They are found by their names in both modules."""
    assert not [name for name in vars(show).keys() & vars(show_scores).keys() if name.startswith(("show_", "end_"))]


def test_a_plan_shows_regions_and_what_is_not_annotated(capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan.load(PLANS / "hippocampus.plan.json")
    regions = (Region(name="whole", values=(1, 2), writes=1), Region(name="posterior", values=(2,), writes=2))
    data = plan.data.model_copy(update={"regions": regions, "ignore": 9})
    show.show_plan(plan.model_copy(update={"data": data}), PlanOptions(dataset="d", work="w"))
    lines = capsys.readouterr().out.splitlines()
    assert "regions: whole 1+2, posterior 2" in lines
    assert "not annotated: 9" in lines


def test_a_plan_is_explained_with_every_decision_and_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan.load(PLANS / "hippocampus.plan.json")
    show.show_plan(plan, PlanOptions(dataset="d", work="elsewhere", explain=True))
    words = " ".join(capsys.readouterr().out.split())
    for reason in plan.reasons:
        assert " ".join(f"{reason.field}: {reason.choice} {reason.reason}".split()) in words


@pytest.mark.parametrize("file", sorted(PLANS.glob("*.plan.json")), ids=lambda file: file.stem)
def test_a_plan_in_brief_fits_on_a_screen(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan.load(file)
    monkeypatch.setattr(printing, "FILE_WIDTH", 80)
    with console.shown_on_stderr():
        show.show_plan(plan, PlanOptions(dataset="d", work="elsewhere"))
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert (
        sum(-(-len(line) // 80) for line in lines) + 5 <= 25
    )  # planning itself says three, and what is next takes two
    assert f"{len(plan.data.cases)} {'volumes' if plan.data.dimension == 3 else '2D images'}" in lines[0]
    assert not re.search(r"\b(none|off|recipe|model|data)\b", out.replace(str(file), ""))
    expected = next(line for line in lines if line.startswith("expected: "))
    assert all(part in expected for part in (" of training per fold", " of memory", " of disk"))
    assert f"plan: {Path('elsewhere') / 'plan.json'} (plan --explain" in out
    assert "segtl train 0 -w elsewhere" in err and "segtl train" not in out
    for row in brief(plan):
        assert row.choice and row.why and len(row.why) <= 90


@pytest.mark.parametrize(("held", "text"), [(1, "1 case"), (2, "2 cases")])
def test_a_plan_in_brief_counts_the_cases_that_folds_hold_out(held: int, text: str) -> None:
    plan = Plan.load(PLANS / "sarcoma.plan.json")
    cases = plan.recipe.splits[0].train[: held + 1]
    split = Split(train=cases[held:], validation=cases[:held])
    alike = plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"splits": (split, split)})})
    (folds,) = (row.choice for row in brief(alike) if row.decision == "folds")
    assert folds == f"2, each holds out {text}"


def test_folds_are_shown_with_their_mean(capsys: pytest.CaptureFixture[str]) -> None:
    show_scores.show_runs(
        [
            TrainedFold(RunFolder(Path("runs/fold_0"), 0), scores(0.9, 0.7), "gradual", True),
            TrainedFold(RunFolder(Path("runs/fold_1"), 1), scores(0.6, math.nan), "gradual", True),
        ]
    )
    out = capsys.readouterr().out
    table = rows(out)
    assert table["0"] == ["2", "0.800", "0.800"]
    assert table["1"] == ["2", "0.600", "0.600"]
    assert table["mean"] == ["4", "0.700", "0.700"]
    assert f"fold_1: {Path('runs/fold_1')}" in out


def test_a_fold_of_all_cases_has_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    show_scores.show_runs([TrainedFold(RunFolder(Path("runs/full"), "full"), None, "gradual", True)])
    assert capsys.readouterr().out == f"full: {Path('runs/full')}\n"


def controlled(mine: tuple[float, ...], theirs: tuple[float, ...], strategy: str = "gradual") -> list[TrainedFold]:
    control = TrainedFold(RunFolder(Path("runs/control"), 0), scores(*theirs), "scratch", False)
    return [TrainedFold(RunFolder(Path("runs/fold_0"), 0), scores(*mine), strategy, strategy != "scratch", control)]


def test_a_control_is_shown_beside_its_fold(capsys: pytest.CaptureFixture[str]) -> None:
    show_scores.show_control(controlled((0.8, 0.7), (0.7, 0.6)), Path("work"))
    out = capsys.readouterr().out
    assert rows(out) == {"planned": ["gradual", "0.750", "0.750"], "from scratch": ["scratch", "0.650", "0.650"]}
    assert out.splitlines()[-1] == (
        "The pretrained start improved Dice: +0.100 mean Dice over 2 held-out case(s), compared with training from "
        "scratch (95 % interval +0.100 to +0.100)."
    )


@pytest.mark.parametrize(
    ("mine", "strategy", "said"),
    [
        ((0.7, 0.5), "gradual", "The pretrained start worsened Dice: -0.050 mean Dice"),
        ((0.9, 0.5), "gradual", "The pretrained start made no significant difference: +0.050 mean Dice"),
        ((0.7,), "gradual", "(no interval: one case is too few)"),
        ((0.9, 0.5), "scratch", "The start that the races chose made no significant difference: +0.050"),
    ],
)
def test_without_an_improvement_the_user_is_shown_how_to_start_from_scratch(
    mine: tuple[float, ...], strategy: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show_scores.show_control(controlled(mine, (0.75, 0.55)[: len(mine)], strategy), Path("my work"))
    out = capsys.readouterr().out
    assert said in out
    assert out.splitlines()[-1] == "to start from scratch: `segtl plan DATASET --strategy scratch -w 'my work'`"


def test_scores_name_undefined_figures_by_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    show_scores.show_evaluate(scores(0.5, math.nan), EvaluateOptions(predictions="p", reference="r"))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["case_0", "0.500", "0.500"] in lines and ["case_1", "–", "–"] in lines


def test_status_says_what_is_done_and_what_comes_next(capsys: pytest.CaptureFixture[str]) -> None:
    run = RunStatus(plan="3d-x", current=True, fold=0, state="validated", mean_dice=0.8125, folder="runs/3d-x/fold_0")
    show.show_status(
        Status(
            work="work",
            dataset="organs",
            plan="3d-x",
            edited=["recipe"],
            cases=5,
            preprocessed=3,
            runs=[run, run.model_copy(update={"fold": 1, "state": "interrupted", "mean_dice": None})],
            next=["segtl train 1"],
        ),
        StatusOptions(),
    )
    out = capsys.readouterr().out
    assert "plan: 3d-x, edited by hand: recipe" in out and "preprocessed: 3 of 5 cases" in out
    assert "current plan's runs: runs/3d-x" in out
    assert rows(out) == {"0": ["validated", "0.812"], "1": ["interrupted", ""]}
    assert out.splitlines()[-1] == "next: segtl train 1"


@pytest.mark.parametrize("folder", ["runs/2.5d-tf_efficientnet_lite0-gradual-e0608bfc", "a/very/" + "long" * 30])
def test_no_word_is_broken_at_80_columns(
    folder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printing, "FILE_WIDTH", 80)
    plan, name = "2.5d-tf_efficientnet_lite0-gradual-e0608bfc", "patient_0001_visit_2021-03-14_series_0007"
    run = RunStatus(plan=plan, current=True, fold=0, state="validated", mean_dice=0.8, folder=f"{folder}/fold_0")
    status = Status(
        work="w", dataset="organs", plan=plan, edited=[], cases=5, preprocessed=3, runs=[run], next=["segtl train cv"]
    )
    show.show_status(status, StatusOptions())
    found = made_scores.scores({name: 0.5})
    show_scores.show_evaluate(found, EvaluateOptions(predictions="p", reference="r"))
    show_scores.show_runs([TrainedFold(RunFolder(Path(f"{folder}/fold_0"), 0), found, "gradual", True)])
    words = capsys.readouterr().out.split()
    assert words.count(folder) == 1 and f"{folder}/fold_0" in words and name in words


@pytest.mark.parametrize(
    ("after", "lower", "cases", "why"),
    [
        (0.8, math.nan, 3, "not kept, since 5 cases are needed to decide"),
        (0.8, -0.1, 6, "not kept, since the gain may be chance"),
        (0.8, 0.1, 6, "not kept, since it worsens a label"),
        (0.7, 0.0, 6, "not kept, since it gains nothing"),
    ],
)
def test_a_step_of_postprocessing_that_is_not_kept_says_why(
    after: float, lower: float, cases: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = Trial(what="liver", before=0.7, after=after, lower=lower, cases=cases, changed=2, kept=False)
    show_scores.show_trial(trial)
    assert f"largest component of liver: {why} (Dice 0.700 -> {after:.3f}" in capsys.readouterr().out


def test_a_table_that_is_too_wide_becomes_lines_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table("label", "a_very_long_header_without_spaces", "other", title="scores")
    table.add_row("left_kidney_without_spaces", "0.912", "")
    printing.print_table(table)
    assert "│" in capsys.readouterr().out
    monkeypatch.setattr(printing, "FILE_WIDTH", 50)
    printing.print_table(table)
    assert capsys.readouterr().out.splitlines() == [
        "scores:",
        "left_kidney_without_spaces",
        "  a_very_long_header_without_spaces: 0.912",
    ]
