"""What the command line makes of its arguments, and its exit codes; commands run in this process."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import typer

import seg_transfer as api
from seg_transfer.cli.app import app, main
from seg_transfer.errors import SomeCasesFailed, UserError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each command asked the API for; the API itself only notes it and fails as a user's error."""
    noted: dict[str, Any] = {}

    def stand_in(name: str) -> Any:
        def note(*positional: Any, **named: Any) -> None:
            noted[name] = (positional, named)
            raise UserError("stopped here")

        return note

    for name in api.__all__:
        monkeypatch.setattr(api, name, stand_in(name))
    return noted


def test_plan_hands_on_every_option(asked: dict[str, Any]) -> None:
    arguments = """plan data --config 2.5d --encoder resnet34 --weights none --from m.segtl --carry encoder
        --head svm --strategy race --no-evidence --race-share 0.2 --memory 8GB
        --time-budget 30m --normalization MRI=zscore --normalization A=B=none --folds 3 --group-by ^(.)
        --cases cases.txt --skip-broken -w work --workers 0 --device cpu --seed 7"""
    assert main(arguments.split()) == 2
    positional, named = asked["plan"]
    assert positional == (Path("data"),)
    assert named == {
        "work": Path("work"),
        "config": "2.5d",
        "encoder": "resnet34",
        "weights": "none",
        "from_model": Path("m.segtl"),
        "carry": "encoder",
        "head": "svm",
        "strategy": "race",
        "evidence": False,
        "race_share": 0.2,
        "normalization": {"MRI": "zscore", "A=B": "none"},
        "memory": 8 * 10**9,
        "epochs": None,
        "time_budget": 1800.0,
        "cases": Path("cases.txt"),
        "folds": 3,
        "group_by": "^(.)",
        "groups": None,
        "splits": None,
        "skip_broken": True,
        "device": "cpu",
        "workers": 0,
        "seed": 7,
    }


def test_the_command_line_and_the_functions_have_the_same_defaults(asked: dict[str, Any]) -> None:
    import inspect

    from seg_transfer.workflow import export as exporting
    from seg_transfer.workflow import plan as planning
    from seg_transfer.workflow import preprocess as preparing
    from seg_transfer.workflow import probe as probing
    from seg_transfer.workflow import summary as summarizing
    from seg_transfer.workflow import train as training

    main(["plan", "data"])
    main(["train", "0"])
    main(["preprocess"])
    main(["summary"])
    main(["export"])
    main(["probe"])
    functions = (planning.plan, training.train, preparing.preprocess, summarizing.summary, exporting.export)
    for function in (*functions, probing.probe):
        named = asked[function.__name__][1]
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        assert {name: value or None for name, value in named.items()} == {
            name: value or None for name, value in defaults.items()
        }


def test_train_and_predict_hand_on_their_options(asked: dict[str, Any]) -> None:
    assert main(["train", "cv", "--epochs", "3", "--restart", "--control", "--seed", "5", "--device", "cuda:1"]) == 2
    assert asked["train"][0] == ("cv",)
    expected = {"epochs": 3, "restart": True, "control": True, "seed": 5, "device": "cuda:1"}
    assert asked["train"][1] | expected == asked["train"][1]
    assert main(["predict", "-i", "in", "-o", "out", "--folds", "0,2", "--no-tta", "--probabilities"]) == 2
    assert asked["predict"][0] == (Path("in"), Path("out"))
    expected = {"folds": ["0", "2"], "tta": False, "probabilities": True, "work": Path("segtl-work"), "workers": 1}
    assert asked["predict"][1] | expected == asked["predict"][1]
    assert main(["predict", "-m", "m.segtl", "-i", "in", "-o", "out"]) == 2
    assert asked["predict"][1] | {"model": Path("m.segtl"), "folds": None} == asked["predict"][1]


def test_summary_export_and_card_hand_on_their_options(asked: dict[str, Any]) -> None:
    assert main(["summary", "--ensembles", "-w", "work", "--workers", "2", "--device", "cpu"]) == 2
    assert asked["summary"] == ((), {"work": Path("work"), "ensembles": True, "device": "cpu", "workers": 2})
    arguments = "export -o m.segtl --onnx m.onnx --folds 0,full --name liver -w work"
    assert main(arguments.split()) == 2
    expected = {"onnx": Path("m.onnx"), "work": Path("work"), "folds": ["0", "full"], "name": "liver"}
    assert asked["export"] == ((Path("m.segtl"),), expected)
    assert main(["card", "m.segtl"]) == 2
    assert asked["card"] == ((Path("m.segtl"),), {})


def test_probe_hands_on_its_options(asked: dict[str, Any]) -> None:
    arguments = "probe --cases 8 --with vgg16_bn --with alexnet --context -w work --workers 0 --device cpu --seed 3"
    assert main(arguments.split()) == 2
    expected = {"cases": 8, "encoders": ["vgg16_bn", "alexnet"], "context": True, "seed": 3}
    assert asked["probe"] == ((), expected | {"work": Path("work"), "workers": 0, "device": "cpu"})


def test_encoders_fetch_hands_on_its_names_and_folder(asked: dict[str, Any]) -> None:
    assert main(["encoders", "fetch", "resnet34", "resnet50", "--to", "stick"]) == 2
    assert asked == {"fetch_encoders": ((["resnet34", "resnet50"],), {"to": Path("stick")})}


def test_encoders_alone_lists_the_catalogue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from seg_transfer.catalogue.encoders import entry
    from seg_transfer.workflow.encoder_weights import EncoderStatus

    found = [EncoderStatus(entry("resnet18"), ("bundled", "cached")), EncoderStatus(entry("vgg16_bn"), ())]
    monkeypatch.setattr(api, "encoders", lambda: found)
    assert main(["encoders"]) == 0
    lines = [[cell.strip() for cell in line.split("│")] for line in capsys.readouterr().out.splitlines()]
    rows = {cells[1]: cells[2:-1] for cells in lines if len(cells) > 2}
    assert rows == {
        "resnet18": ["64 64 128 256 512", "2 4 8 16 32", "11.2 M", "apache-2.0", "yes", "bundled, cached"],
        "vgg16_bn": ["128 256 512 512 512", "2 4 8 16 32", "14.7 M", "bsd-3-clause", "yes", "no"],
    }


def test_fetched_files_are_shown_as_sha256sum_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from seg_transfer.transfer.fetch import Fetched

    monkeypatch.setattr(
        api, "fetch_encoders", lambda names, to: [Fetched("resnet50", Path("a/b.safetensors"), "0f" * 32)]
    )
    assert main(["encoders", "fetch", "resnet50"]) == 0
    assert capsys.readouterr().out == f"{'0f' * 32}  a/b.safetensors\n"


def test_commands_that_belong_to_a_data_set_share_their_options() -> None:
    shared = {"work", "verbose", "quiet"}
    computing = shared | {"workers"}
    on_a_device = computing | {"device"}
    expected = {
        "plan": on_a_device | {"seed"},
        "preprocess": computing,
        "train": on_a_device | {"seed"},
        "probe": on_a_device | {"seed"},
        "predict": on_a_device,
        "evaluate": computing,
        "summary": on_a_device,
        "export": shared,
        "status": shared,
    }
    commands = typer.main.get_group(app).commands
    offline = {name for name, one in commands.items() if "offline" in {option.name for option in one.params}}
    assert offline == {"plan", "preprocess", "probe", "train", "predict", "demo"}
    for name, options in expected.items():
        by_name = {parameter.name: parameter.opts for parameter in commands[name].params}
        assert options <= by_name.keys()
        assert by_name["work"] == ["-w", "--work"]
        assert (by_name["verbose"], by_name["quiet"]) == (["-v", "--verbose"], ["-q", "--quiet"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan"],
        ["plan", "data", "--config", "4d"],
        ["plan", "data", "--folds", "1"],
        ["plan", "data", "--memory", "much"],
        ["plan", "data", "--normalization", "zscore"],
        ["train", "0", "--time-budget", "soon"],
        ["train", "0", "--epochs", "0"],
        ["predict", "-i", "in"],
        ["fly"],
    ],
    ids=" ".join,
)
def test_misuse_is_exit_code_2(arguments: list[str], asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert asked == {} and out == ""
    assert err and "Traceback" not in err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (UserError("no good", where="x.nii", hint="mend it"), 2, "x.nii: no good\n  hint: mend it\n"),
        (SomeCasesFailed({"case_1": "cut off"}), 3, "case_1: cut off"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_exit_codes(
    raised: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def preprocess(**_: Any) -> None:
        raise raised

    monkeypatch.setattr(api, "preprocess", preprocess)
    assert main(["preprocess", "-q"]) == code
    out, err = capsys.readouterr()
    assert out == "" and said in err and "Traceback" not in err


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def preprocess(**_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(api, "preprocess", preprocess)
    with pytest.raises(ZeroDivisionError):
        main(["preprocess"])


def test_results_alone_go_to_stdout(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def preprocess(**_: Any) -> Path:
        logger = logging.getLogger("seg_transfer.some.module")
        logger.info("said")
        logger.debug("detailed")
        return Path("store")

    monkeypatch.setattr(api, "preprocess", preprocess)
    said = {}
    for option in ("-q", "-v", None):
        assert main(["preprocess", *([option] if option else [])]) == 0
        out, said[option] = capsys.readouterr()
        assert out == "store\n"
    assert said == {"-q": "", "-v": "said\ndetailed\n", None: "said\n"}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("segtl 0.")
