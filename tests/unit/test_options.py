"""Options types: what they accept, what they refuse and how, and the command line and signatures made from them."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import seg_transfer as api
from seg_transfer.cli.app import app, commands, main
from seg_transfer.errors import UserError
from seg_transfer.options.base import Command, Options, cli_of, fields_of, flag_of
from seg_transfer.options.calls import takes
from seg_transfer.options.model_options import ExportOptions, PredictOptions
from seg_transfer.options.other_options import EvaluateOptions
from seg_transfer.options.plan_options import PlanOptions, ProbeOptions
from seg_transfer.options.train_options import TrainOptions

FIELDS = [(one, kind, name) for one, kind in commands() for name in fields_of(kind)]


@pytest.fixture(scope="module")
def helped() -> dict[str, str]:
    """Help of each command by its name."""
    found = {}
    for one, _ in commands():
        path = [one.group, one.name] if one.group else [one.name]
        found[one.name] = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "160"}).output
    return found


@pytest.mark.parametrize(("one", "kind", "name"), FIELDS, ids=lambda value: getattr(value, "name", str(value)))
def test_every_field_is_in_the_help_with_its_description(
    one: Command, kind: type[Options], name: str, helped: dict[str, str]
) -> None:
    field = kind.model_fields[name]
    assert field.description, "every field is described"
    shown = helped[one.name]
    # Columns of flags and types stand between the lines of a long description: its words are looked for in order.
    pattern = r"[\s\S]*?".join(re.escape(word) for word in field.description.split())
    assert re.search(pattern, shown)
    assert flag_of(kind, name) in shown


def test_the_command_line_has_no_options_of_its_own() -> None:
    generated = typer.main.get_group(app).commands
    generated |= {f"encoders {name}": each for name, each in generated["encoders"].commands.items()}
    for one, kind in commands():
        name = f"{one.group} {one.name}".strip()
        assert {parameter.name for parameter in generated[name].params} == set(fields_of(kind))


def test_every_option_is_described_in_the_schema() -> None:
    properties = PlanOptions.model_json_schema()["properties"]
    assert properties["folds"]["description"] == PlanOptions.model_fields["folds"].description
    assert properties["folds"]["minimum"] == 2
    assert json.dumps(properties["config"]["enum"]) == '["auto", "2d", "2.5d", "3d"]'


class TestSignatures:
    def test_arguments_go_by_position_and_options_by_keyword(self) -> None:
        signature = inspect.signature(api.plan)
        kinds = {name: parameter.kind.name for name, parameter in signature.parameters.items()}
        assert kinds.pop("dataset") == "POSITIONAL_OR_KEYWORD"
        assert set(kinds.values()) == {"KEYWORD_ONLY"}
        assert signature.parameters["folds"].default == 5
        assert signature.parameters["dataset"].default is inspect.Parameter.empty

    def test_what_belongs_to_the_command_line_alone_is_no_keyword(self) -> None:
        only = {name for name, field in fields_of(PlanOptions).items() if cli_of(field).only}
        assert only == {"verbose", "quiet", "offline", "explain", "as_json"}
        assert not only & set(inspect.signature(api.plan).parameters)
        assert "verbose" not in (api.plan.__doc__ or "")

    def test_the_docstring_lists_the_fields_before_its_other_sections(self) -> None:
        lines = (api.export.__doc__ or "").splitlines()
        assert lines[0].startswith("Write trained models into one file")
        at = lines.index("Args:")
        assert lines[at + 1] == f"    output: {ExportOptions.model_fields['output'].description}"
        assert at < lines.index("Returns:") < lines.index("Raises:")

    def test_predict_describes_its_options(self) -> None:
        for name, field in fields_of(PredictOptions).items():
            assert (f"    {name}: {field.description}" in (api.predict.__doc__ or "")) == (not cli_of(field).only)

    def test_a_function_takes_its_options_as_keywords_or_as_one_object(self) -> None:
        @takes(PlanOptions)
        def planned(options: PlanOptions) -> PlanOptions:
            """Return the options."""
            return options

        options = PlanOptions(dataset=Path("data"), folds=3)
        assert planned("data", folds=3) == planned(dataset="data", folds=3) == planned(options) == options
        with pytest.raises(TypeError, match=r"^planned\(\) got an unexpected keyword argument 'colds'"):
            planned("data", colds=3)
        with pytest.raises(TypeError, match=r"^planned\(\) missing a required .*'dataset'"):
            planned(folds=3)

    def test_predict_refuses_unknown_keywords_alike_for_files_and_arrays(self) -> None:
        for arguments, options in ((("in", "out"), {}), ((object(),), {"spacing": (1, 1, 1)})):
            with pytest.raises(TypeError, match=r"^predict\(\) got an unexpected keyword argument 'wrk'"):
                api.predict(*arguments, wrk="w", **options)

    def test_files_named_json_and_csv_keep_these_keywords(self) -> None:
        assert {"json", "csv"} < set(inspect.signature(api.evaluate).parameters)
        assert EvaluateOptions(predictions="a", reference="b", json="c.json").json_file == Path("c.json")


class TestTextForms:
    @pytest.mark.parametrize(
        ("kind", "given", "name", "value"),
        [
            (PlanOptions, {"memory": "8GB"}, "memory", 8 * 10**9),
            (PlanOptions, {"memory": 10**9}, "memory", 10**9),
            (PlanOptions, {"time_budget": "1h30m"}, "time_budget", 5400.0),
            (PlanOptions, {"time_budget": 20}, "time_budget", 20.0),
            (PlanOptions, {"normalization": ["A=B=none", "MRI=auto"]}, "normalization", {"A=B": "none", "MRI": "auto"}),
            (PlanOptions, {"normalization": None}, "normalization", {}),
            (PlanOptions, {"cases": "cases.txt"}, "cases", Path("cases.txt")),
            (PlanOptions, {"cases": ["a", "b"]}, "cases", ("a", "b")),
            (PredictOptions, {"folds": "0,2"}, "folds", ("0", "2")),
            (PredictOptions, {"folds": [0, "full"]}, "folds", ("0", "full")),
            (TrainOptions, {"fold": 0}, "fold", "0"),
        ],
        ids=str,
    )
    def test_they_are_read(self, kind: type[Options], given: dict[str, Any], name: str, value: object) -> None:
        needed: dict[str, Any] = {"dataset": "d"} if kind is PlanOptions else {"fold": "cv"}
        if kind is PredictOptions:
            needed = {"images": "i", "output": "o"}
        assert getattr(kind(**needed | given), name) == value


class TestRefusals:
    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"config": "4d"}, "--config: unknown choice '4d'\n  hint: choose one of: auto, 2d, 2.5d, 3d"),
            ({"folds": 1}, "--folds: 1 is out of range\n  hint: give 2 or more"),
            ({"seed": 2**70}, f"--seed: {2**70} is out of range\n  hint: give 0 or more and {2**32 - 1} or less"),
            ({"race_share": 1.0}, "--race-share: 1.0 is out of range\n  hint: give more than 0 and less than 1"),
            ({"time_budget": 0}, "--time-budget: 0 is out of range"),
            ({"time_budget": "soon"}, "--time-budget: cannot read 'soon'\n  hint: write it as one of 90s"),
            ({"memory": "much"}, "--memory: cannot read 'much'"),
            ({"workers": "many"}, "--workers: cannot read 'many'\n  hint: give a whole number"),
            ({"normalization": ["zscore"]}, "--normalization: cannot read 'zscore'"),
            ({"normalization": {"MRI": "log"}}, "--normalization MRI=log: unknown choice 'log'"),
            ({"weights": "missing.pth"}, "missing.pth: there is no such weights file"),
            ({"epochs": 1, "time_budget": 1.0}, "--epochs and --time-budget exclude each other"),
            ({"group_by": "(.)", "groups": "g.csv"}, "--group-by and --groups exclude each other"),
            ({"verbose": True, "quiet": True}, "--verbose and --quiet exclude each other"),
            ({"normalization": ["MRI=zscore", "MRI=minmax"]}, "--normalization: two kinds for channel 'MRI'"),
            ({"race_share": 0.2}, "--race-share: needs --strategy race"),
            ({"strategy": "race", "weights": "none"}, "--weights none: a race compares pretrained strategies"),
            ({"carry": "all"}, "--carry: needs a model to carry over from"),
            (
                {"strategy": "scratch", "weights": "imagenet"},
                "--weights: --strategy scratch starts from random weights",
            ),
            ({"from_model": "m.segtl", "weights": "none"}, "--weights: --from starts from an earlier model's weights"),
            ({"from_model": "m.segtl", "strategy": "scratch"}, "--strategy: --from starts from an earlier model's"),
            ({"head": "svm", "strategy": "gradual"}, "--head svm: a classifier needs a frozen encoder"),
            ({"head": "svm", "from_model": "m.segtl", "carry": "all"}, "--head svm: a classifier has no decoder"),
            ({"head": "svm", "epochs": 3}, "--head svm: a classifier is fitted, which excludes --epochs"),
            ({"head": "svm", "time_budget": 60}, "--head svm: a classifier is fitted, which excludes --time-budget"),
            ({"dataset": None}, "DATASET: cannot read None\n  hint: give a path"),
            ({"dataset": ""}, "DATASET: is empty"),
            ({"work": ""}, "--work: is empty"),
            ({"cases": ["a", ""]}, "--cases: is empty"),
            ({"cases": 3}, "--cases: cannot read 3\n  hint: give a path"),
            ({"normalization": 3}, "--normalization: cannot read 3\n  hint: give a mapping"),
            ({"race_share": "much", "strategy": "race"}, "--race-share: cannot read 'much'\n  hint: give a number"),
            ({"evidence": "perhaps"}, "--evidence: cannot read 'perhaps'\n  hint: give true or false"),
            ({"colds": 5}, "colds: there is no such option\n  hint: options: config, encoder, "),
        ],
        ids=str,
    )
    def test_they_name_the_option_the_value_and_a_way_out(self, given: dict[str, Any], said: str) -> None:
        with pytest.raises(UserError) as error:
            PlanOptions(**{"dataset": "data"} | given)
        assert str(error.value).startswith(said)
        assert error.value.hint

    def test_what_is_missing_is_named(self) -> None:
        with pytest.raises(UserError, match=r"^--output: is missing"):
            PredictOptions(images="in")
        with pytest.raises(UserError, match="no output file is given"):
            ExportOptions()

    def test_a_model_file_needs_no_work_folder(self) -> None:
        for given in ({"folds": [0]}, {"work": "w"}):
            with pytest.raises(UserError, match=r"m\.segtl: an exported model excludes --folds and --work"):
                PredictOptions(images="in", output="out", model="m.segtl", **given)

    @pytest.mark.parametrize(
        ("line", "flag"),
        [
            ("plan data --epochs 0", "--epochs"),
            ("plan data --memory much", "--memory"),
            ("plan data --race-share 2 --strategy race", "--race-share"),
            ("train 0 --time-budget soon", "--time-budget"),
            ("probe --cases 1", "--cases"),
            ("plan data --config 4d", "--config: unknown choice '4d'\n  hint: choose one of: auto, 2d, 2.5d, 3d"),
            ("plan data --folds many", "--folds: cannot read 'many'\n  hint: give a whole number"),
            ("plan data --seed -1", "--seed: -1 is out of range\n  hint: give 0 or more"),
            ("plan data --confg 2d", "No such option: --confg"),
            ("plan data more", "extra argument"),
            ("plan --folds", "--folds"),
            ("plan", "Missing argument 'DATASET'\n  hint: `segtl plan --help`"),
            ("plann data", "No such command 'plann'"),
            ("encoders fetch", "Missing argument 'NAME'"),
            ("predict -i '' -o out", "--input: is empty"),
            ("--nope", "No such option: --nope\n  hint: `segtl --help`"),
        ],
    )
    def test_the_command_line_ends_with_exit_code_2(
        self, line: str, flag: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(shlex.split(line)) == 2
        out, err = capsys.readouterr()
        assert out == "" and flag in err and "  hint: " in err and "Traceback" not in err

    def test_a_default_is_not_taken_for_a_given_value(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["pretrain", "images", "--val", "others", "-o", "out"]) == 2
        assert "images: there is no such folder" in capsys.readouterr().err  # not: --val excludes --held-out

    def test_options_are_frozen(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            ProbeOptions().cases = 3
