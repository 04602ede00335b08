"""The command line: each command parses its options, calls one function of :mod:`seg_transfer`, and shows the result.

Commands are generated from the options types (:mod:`seg_transfer.options`); the table below says which function and
which view belong to each.

Exit codes: 0 done; 2 the user's error; 3 finished, but some cases failed; 130 interrupted. Any other exception is a
defect of segtl and keeps its traceback.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

import seg_transfer as api
from seg_transfer.cli import console
from seg_transfer.cli.generate import command
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.evaluation.metrics import metrics_help
from seg_transfer.options.base import Options
from seg_transfer.options.model_options import CardOptions, ExportOptions, PredictOptions, SummaryOptions
from seg_transfer.options.other_options import DemoOptions, EvaluateOptions, FetchOptions, StatusOptions
from seg_transfer.options.plan_options import PlanOptions, PreprocessOptions, ProbeOptions
from seg_transfer.options.pretrain_options import PretrainOptions
from seg_transfer.options.train_options import TrainOptions

if TYPE_CHECKING:
    from seg_transfer.evaluation.scores import Scores
    from seg_transfer.workflow.status import Status
    from seg_transfer.workflow.validate import TrainedFold

logger = logging.getLogger(__name__)

USER_ERROR, SOME_FAILED, INTERRUPTED = 2, 3, 130
OF_THE_MACHINE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EISDIR}
"""Errors of the operating system that a user can fix, and a defect of segtl does not cause."""


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes:
        name: As it is typed.
        options: Type of its options.
        show: Shows the result; takes :mod:`seg_transfer.cli.show`, which is not loaded for ``--help``, the result and
            the options.
        help: One sentence.
        epilog: Examples and notes below the options.
        run: Does the work; by default the function of :mod:`seg_transfer` with the command's name.
    """

    name: str
    options: type[Options]
    show: Callable[[Any, Any, Any], object]
    help: str
    epilog: str
    run: Callable[[Any], Any] | None = None

    def __call__(self, options: Options) -> None:
        """Do the work and show the result."""
        run = self.run or getattr(api, self.name)
        result = run(options)
        from seg_transfer.cli import show

        self.show(show, result, options)


def _status(options: StatusOptions) -> Status:
    from seg_transfer.workflow.status import read_status

    return read_status(options.work)


def _demo(options: DemoOptions) -> object:
    from seg_transfer.demo import run_demo
    from seg_transfer.workflow.work_folder import Work

    console.log_tracebacks(Work(options.output / "work").log)
    return run_demo(options.output, seed=options.seed, device=options.device)


def _show_line(_: ModuleType, result: object, __: Options) -> None:
    typer.echo(result)


def _show_training(show: ModuleType, runs: list[TrainedFold], options: TrainOptions) -> None:
    show.show_runs(runs)
    if options.control:
        show.show_control(runs, options.work)
    scored = [one.scores for run in runs for one in (run, run.control) if one and one.scores]
    failures = {case: cause for scores in scored for case, cause in scores.failures.items()}
    if failures:
        raise SomeCasesFailed(failures)


def _show_scores(show: ModuleType, scores: Scores, _: EvaluateOptions) -> None:
    show.show_scores(scores)
    if scores.failures:
        raise SomeCasesFailed(scores.failures)


def _show_status(show: ModuleType, found: Status, options: StatusOptions) -> None:
    if options.as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        show.show_status(found)


COMMANDS = (
    Command(
        "plan",
        PlanOptions,
        lambda show, made, options: show.show_plan(made, options.work),
        "Check and measure a data set, and decide how to train on it.",
        "Example: [bold]segtl plan data/hippocampus --config 2.5d --time-budget 20m --memory 8GB[/]\n\n"
        "Plan again as often as you like: what is measured and preprocessed is used again, earlier runs stay.",
    ),
    Command(
        "preprocess",
        PreprocessOptions,
        _show_line,
        "Prepare every case for training; `train` does it by itself where it is missing.",
        "Example: [bold]segtl preprocess --workers 4[/]",
    ),
    Command(
        "train",
        TrainOptions,
        _show_training,
        "Train a fold of the plan and validate it on its held-out cases.",
        "Examples: [bold]segtl train 0[/], [bold]segtl train cv --time-budget 20m[/]\n\n"
        "Interrupted? The same command goes on where it stopped.",
    ),
    Command(
        "predict",
        PredictOptions,
        _show_line,
        "Segment images: with an exported model, the choice of `summary`, or else the plan's trained folds.",
        "Example: [bold]segtl predict -i new_images -o predictions[/]",
    ),
    Command(
        "evaluate",
        EvaluateOptions,
        _show_scores,
        "Score label maps per case and label.",
        "Example: [bold]segtl evaluate predictions data/labels --csv scores.csv[/]\n\n"
        f"{metrics_help()} Label maps pair by file name. Means leave out undefined values (–).",
    ),
    Command(
        "summary",
        SummaryOptions,
        lambda show, found, options: show.show_summary(found, options.work),
        "Compare all validated runs, and choose what `predict` and `export` use.",
        "Example: [bold]segtl summary --ensembles[/]\n\n"
        "Runs are ranked by cross-validated mean Dice, on the same cases. The choice is in choice.json of the work "
        "folder: delete it, and the current plan is used again.",
    ),
    Command(
        "export",
        ExportOptions,
        lambda _, files, __: typer.echo("\n".join(map(str, files))),
        "Write trained models into one file that needs no work folder.",
        "Example: [bold]segtl export -o model.segtl[/], then anywhere "
        "[bold]segtl predict -m model.segtl -i new_images -o predictions[/]\n\n"
        "No names of cases or of the data set, no paths and nothing of the images' headers goes into it.",
    ),
    Command(
        "card",
        CardOptions,
        _show_line,
        "Show what an exported model reads, predicts and was trained on, its scores and terms.",
        "Example: [bold]segtl card model.segtl[/]",
    ),
    Command(
        "status",
        StatusOptions,
        _show_status,
        "Show what is done in a work folder and what comes next.",
        "Example: [bold]segtl status -w segtl-work[/]",
        _status,
    ),
    Command(
        "demo",
        DemoOptions,
        lambda show, result, _: show.show_demo(result),
        "Make a small data set and go the whole way on it; about 5 minutes on 2 cores.",
        "Example: [bold]segtl demo[/]",
        _demo,
    ),
    Command(
        "probe",
        ProbeOptions,
        lambda show, found, options: show.show_probe(found, options.work),
        "Measure how well labels can be read off the plan's frozen encoder, beside controls.",
        "Example: [bold]segtl probe --with vgg16_bn[/]\n\n"
        "Figures are of cases that a classifier was not fitted to. What pretraining taught the encoder shows in its "
        "gain over random weights; features worse than intensities or local filters are of no use by themselves.",
    ),
    Command(
        "pretrain",
        PretrainOptions,
        lambda show, made, _: show.show_pretrained(made),
        "Pretrain an encoder on images in class folders.",
        "Example: [bold]segtl pretrain IMAGES --encoder resnet18 --time-budget 100m -o my_encoder[/], then "
        "[bold]segtl plan DATASET --encoder resnet18 --weights my_encoder.safetensors[/]\n\n"
        "Interrupted? The same command resumes.",
    ),
)
FETCH = Command(
    "fetch",
    FetchOptions,
    lambda show, fetched, _: show.show_fetched(fetched),
    "Cache ImageNet weights and record their sha256, which is checked whenever they are loaded.",
    "Examples: [bold]segtl encoders fetch resnet34 resnet50[/]\n\n"
    "For a machine without a network: [bold]segtl encoders fetch resnet50 --to stick[/], and there "
    "[bold]segtl plan DATASET --encoder resnet50 --weights stick/resnet50.safetensors[/]",
    lambda options: api.fetch_encoders(options),
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Medical image segmentation that configures itself, on an encoder pretrained on ImageNet.",
    epilog="The way: [bold]segtl plan DATASET[/], [bold]segtl train cv[/], "
    "[bold]segtl predict -i IMAGES -o OUT[/]. Try it: [bold]segtl demo[/].",
)
encoders = typer.Typer(
    invoke_without_command=True,
    help="List the encoders, or fetch their ImageNet weights.",
    epilog="Examples: [bold]segtl encoders[/], [bold]segtl encoders fetch resnet50[/]",
)


def _add(group: typer.Typer, one: Command) -> None:
    group.command(one.name, help=one.help, epilog=one.epilog)(command(one.options, one))


for _one in COMMANDS:
    _add(app, _one)
_add(encoders, FETCH)
app.add_typer(encoders, name="encoders")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"segtl {metadata.version('seg-transfer')}")
        raise typer.Exit


@app.callback()
def _segtl(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


@encoders.callback()
def _encoders(context: typer.Context) -> None:
    """List the encoders, or fetch their ImageNet weights."""
    if context.invoked_subcommand is None:
        from seg_transfer.cli import show

        show.show_encoders(api.encoders())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: Without the program's name; None for those of this process.
    """
    with console.shown_on_stderr():
        return _exit_code(arguments)


def _exit_code(arguments: Sequence[str] | None) -> int:
    try:
        app(args=arguments, prog_name="segtl")
    except UserError as error:
        logger.error(str(error))
        return USER_ERROR
    except SomeCasesFailed as error:
        logger.error(str(error))
        return SOME_FAILED
    except OSError as error:
        if error.errno not in OF_THE_MACHINE:
            raise
        cause = UserError(
            f"cannot be read or written: {error.strerror}",
            where=error.filename,
            hint="free disk space, or check the permissions; then run the same command again",
        )
        logger.error(str(cause))
        return USER_ERROR
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            logger.error("interrupted; run the same command again to go on")
        return ended.code if isinstance(ended.code, int) else 0
    raise AssertionError("typer always ends with SystemExit")
