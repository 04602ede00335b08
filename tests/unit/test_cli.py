"""What the command line makes of its arguments, and its exit codes; commands run in this process."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import seg_transfer as api
from seg_transfer.cli.app import app, main
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.options.base import Options
from seg_transfer.options.import_options import ImportNnunetOptions
from seg_transfer.options.model_options import CardOptions, ExportOptions, PredictOptions, SummaryOptions
from seg_transfer.options.other_options import EvaluateOptions, FetchOptions
from seg_transfer.options.plan_options import PlanOptions, PreprocessOptions, ProbeOptions
from seg_transfer.options.train_options import TrainOptions
from seg_transfer.transfer.fetch import OFFLINE
from seg_transfer.version import VERSION


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The options that each function of the API was called with; the function itself only fails as a user's error."""
    noted: dict[str, Any] = {}

    def stand_in(name: str) -> Any:
        def note(options: Options) -> None:
            noted[name] = options
            raise UserError("stopped here")

        return note

    for name in api.__all__:
        monkeypatch.setattr(api, name, stand_in(name))
    return noted


@pytest.mark.parametrize(
    ("line", "name", "options"),
    [
        (
            "plan data --config 2.5d --encoder resnet34 --strategy race --no-evidence --race-share 0.2 --memory 8GB "
            "--time-budget 30m --normalization MRI=zscore --normalization A=B=none --folds 3 --group-by ^(.) "
            "--cases cases.txt --skip-broken -w work --workers 0 --device cpu --seed 7",
            "plan",
            PlanOptions(
                dataset=Path("data"),
                config="2.5d",
                encoder="resnet34",
                strategy="race",
                evidence=False,
                race_share=0.2,
                memory=8 * 10**9,
                time_budget=1800.0,
                normalization={"MRI": "zscore", "A=B": "none"},
                folds=3,
                group_by="^(.)",
                cases=Path("cases.txt"),
                skip_broken=True,
                work=Path("work"),
                workers=0,
                device="cpu",
                seed=7,
            ),
        ),
        (
            "plan data --from m.segtl --carry encoder --groups g.csv --splits s.json --epochs 3 --offline",
            "plan",
            PlanOptions(
                dataset=Path("data"),
                from_model=Path("m.segtl"),
                carry="encoder",
                groups=Path("g.csv"),
                splits=Path("s.json"),
                epochs=3,
                offline=True,
            ),
        ),
        ("plan data --weights none", "plan", PlanOptions(dataset=Path("data"), weights="none")),
        (
            "import-nnunet nn --raw raw --config 3d_lowres --plans P --encoder resnet34 --memory 8GB --epochs 3",
            "import_nnunet",
            ImportNnunetOptions(
                folder=Path("nn"),
                raw=Path("raw"),
                config="3d_lowres",
                plans="P",
                encoder="resnet34",
                memory=8 * 10**9,
                epochs=3,
            ),
        ),
        ("preprocess --workers 2 -v", "preprocess", PreprocessOptions(workers=2, verbose=True)),
        (
            "train cv --epochs 3 --restart --control --seed 5 --device cuda:1 --track mlflow,wandb",
            "train",
            TrainOptions(
                fold="cv", epochs=3, restart=True, control=True, seed=5, device="cuda:1", track=("mlflow", "wandb")
            ),
        ),
        (
            "predict -i in -o out --folds 0,2 --no-tta --probabilities --overwrite",
            "predict",
            PredictOptions(
                images=Path("in"), output=Path("out"), folds=("0", "2"), tta=False, probabilities=True, overwrite=True
            ),
        ),
        (
            "predict -i in.mha -o seg.nii.gz --keep",
            "predict",
            PredictOptions(images=Path("in.mha"), output=Path("seg.nii.gz"), keep=True),
        ),
        (
            "predict -m m.segtl -i in -o out",
            "predict",
            PredictOptions(images=Path("in"), output=Path("out"), model=Path("m.segtl")),
        ),
        (
            "evaluate a b --tolerance 2 --ignore 0 --json s.json --csv s.csv -w work",
            "evaluate",
            EvaluateOptions(
                predictions=Path("a"),
                reference=Path("b"),
                tolerance=2.0,
                ignore=0,
                json=Path("s.json"),
                csv=Path("s.csv"),
                work=Path("work"),
            ),
        ),
        (
            "summary --ensembles -w work --workers 2 --device cpu -q",
            "summary",
            SummaryOptions(ensembles=True, work=Path("work"), workers=2, device="cpu", quiet=True),
        ),
        (
            "export -o m.segtl --onnx m.onnx --folds 0,full --name liver -w work",
            "export",
            ExportOptions(
                output=Path("m.segtl"), onnx=Path("m.onnx"), folds=("0", "full"), name="liver", work=Path("work")
            ),
        ),
        ("card m.segtl", "card", CardOptions(model=Path("m.segtl"))),
        (
            "probe --cases 8 --with vgg16_bn --with alexnet --context --seed 3",
            "probe",
            ProbeOptions(cases=8, encoders=("vgg16_bn", "alexnet"), context=True, seed=3),
        ),
        (
            "encoders fetch resnet34 resnet50 --to stick",
            "fetch_encoders",
            FetchOptions(names=("resnet34", "resnet50"), to=Path("stick")),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_typed_reaches_the_function(
    line: str, name: str, options: Options, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(OFFLINE, raising=False)
    assert main(line.split()) == 2
    assert asked == {name: options}
    assert (OFFLINE in os.environ) == getattr(options, "offline", False)


def test_encoders_alone_lists_the_catalogue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from seg_transfer.catalogue.encoders import entry
    from seg_transfer.workflow.encoder_weights import EncoderStatus

    found = [EncoderStatus(entry("tf_efficientnet_lite0"), ("bundled", "cached")), EncoderStatus(entry("vgg16_bn"), ())]
    monkeypatch.setattr(api, "encoders", lambda: found)
    assert main(["encoders"]) == 0
    lines = [[cell.strip() for cell in line.split("│")] for line in capsys.readouterr().out.splitlines()]
    rows = {cells[1]: cells[2:-1] for cells in lines if len(cells) > 2}
    assert rows == {
        "tf_efficientnet_lite0": [
            "16 24 40 112 320",
            "2 4 8 16 32",
            "3.0 M",
            "apache-2.0",
            "yes",
            "bundled (ImageNet-1k), cached",
        ],
        "vgg16_bn": ["128 256 512 512 512", "2 4 8 16 32", "14.7 M", "bsd-3-clause", "yes", "no"],
    }


def test_fetched_files_are_shown_as_sha256sum_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from seg_transfer.transfer.fetch import Fetched

    monkeypatch.setattr(api, "fetch_encoders", lambda _: [Fetched("resnet50", Path("a/b.safetensors"), "0f" * 32)])
    assert main(["encoders", "fetch", "resnet50"]) == 0
    assert capsys.readouterr().out == f"{'0f' * 32}  a/b.safetensors\n"


def test_commands_that_belong_to_a_data_set_share_their_options() -> None:
    shared = {"work", "verbose", "quiet"}
    computing = shared | {"workers"}
    on_a_device = computing | {"device"}
    expected = {
        "plan": on_a_device | {"seed"},
        "import-nnunet": on_a_device | {"seed"},
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
    assert offline == {"plan", "import-nnunet", "preprocess", "probe", "train", "predict", "demo"}
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
        ["plan", "data", "--race-share", "0.2"],
        ["train", "0", "--epochs", "1", "--time-budget", "1m"],
        ["export"],
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
        (UserError("no good", where="x.nii", hint="fix it"), 2, "x.nii: no good\n  hint: fix it\n"),
        (
            SomeCasesFailed({"case_1": "cut off"}, of=2),
            3,
            "1 of 2 cases failed, the others are done:\n  case_1",
        ),
        (SomeCasesFailed({"case_1": "cut off"}, of=1), 2, "the only case failed:\n  case_1: cut off"),
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
    def preprocess(_: PreprocessOptions) -> None:
        raise raised

    monkeypatch.setattr(api, "preprocess", preprocess)
    assert main(["preprocess", "-q"]) == code
    out, err = capsys.readouterr()
    assert out == "" and said in err and "Traceback" not in err


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def preprocess(_: PreprocessOptions) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(api, "preprocess", preprocess)
    with pytest.raises(ZeroDivisionError):
        main(["preprocess"])


def test_results_alone_go_to_stdout(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def preprocess(_: PreprocessOptions) -> Path:
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
    assert capsys.readouterr().out == f"segtl {VERSION}\n"


def test_the_shell_completes_commands_and_options() -> None:
    def completed(*words: str) -> set[str]:
        environment = {
            "_SEGTL_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        }
        return set(CliRunner().invoke(app, [], prog_name="segtl", env=environment).output.split())

    assert completed("segtl", "pre") == {"preprocess", "predict", "pretrain"}
    assert completed("segtl", "predict", "--unc") == {"--uncertainty"}
