"""The command line: each command parses its options, calls one function of :mod:`seg_transfer`, and shows the result.

Commands are generated from the options types (:mod:`seg_transfer.options`) and the table :data:`COMMANDS`.

Exit codes: 0 done; 2 user error; 3 done, but some cases failed; 130 interrupted. Any other exception is a defect of
segtl and keeps its traceback.
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
ENVIRONMENT_ERRORS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EISDIR}
"""Errors of the operating system that the user can fix; defects of segtl do not cause them."""


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes:
        name: Name on the command line.
        options: Type of its options.
        show: Shows the result. Its arguments are :mod:`seg_transfer.cli.show`, which is not loaded for ``--help``, the
            result and the options.
        help: One sentence.
        epilog: Examples and notes below the options.
        run: Function of the options; by default the one of :mod:`seg_transfer` with the command's name.
    """

    name: str
    options: type[Options]
    show: Callable[[Any, Any, Any], object]
    help: str
    epilog: str
    run: Callable[[Any], Any] | None = None

    def __call__(self, options: Options) -> None:
        """Run the command and show the result."""
        run = self.run or getattr(api, self.name)
        result = run(options)
        from seg_transfer.cli import show

        self.show(show, result, options)


def _status(options: StatusOptions) -> Status:
    from seg_transfer.workflow.status import read_status

    return read_status(options.work)


def _demo(options: DemoOptions) -> object:
    from seg_transfer.demo import run_demo
    from seg_transfer.workflow.work_folder import WorkFolder

    console.log_tracebacks(WorkFolder(options.output / "work").log)
    return run_demo(options.output, seed=options.seed, device=options.device)


def _show_line(_: ModuleType, result: object, __: Options) -> None:
    typer.echo(result)


def _show_training(show: ModuleType, runs: list[TrainedFold], options: TrainOptions) -> None:
    show.show_runs(runs)
    if options.control:
        show.show_control(runs, options.work)
    scored = [fold.scores for run in runs for fold in (run, run.control) if fold and fold.scores]
    failures = {case: cause for scores in scored for case, cause in scores.failures.items()}
    if failures:
        raise SomeCasesFailed(failures)


def _show_scores(show: ModuleType, scores: Scores, _: EvaluateOptions) -> None:
    show.show_scores(scores)
    if scores.failures:
        raise SomeCasesFailed(scores.failures)


def _show_status(show: ModuleType, status: Status, options: StatusOptions) -> None:
    if options.as_json:
        typer.echo(status.model_dump_json(indent=2))
    else:
        show.show_status(status)


COMMANDS = (
    Command(
        "plan",
        PlanOptions,
        lambda show, plan, options: show.show_plan(plan, options.work),
        "Check and measure a data set, and decide how to train on it.",
        "Example: [bold]segtl plan data/hippocampus --config 2.5d --time-budget 20m --memory 8GB[/]\n\n"
        "Planning again reuses measurements and preprocessed cases; earlier runs stay.",
    ),
    Command(
        "preprocess",
        PreprocessOptions,
        _show_line,
        "Preprocess every case; `train` does this itself for missing cases.",
        "Example: [bold]segtl preprocess --workers 4[/]",
    ),
    Command(
        "train",
        TrainOptions,
        _show_training,
        "Train a fold of the plan and validate it on its held-out cases.",
        "Examples: [bold]segtl train 0[/], [bold]segtl train cv --time-budget 20m[/]\n\n"
        "The same command resumes an interrupted training.",
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
        lambda show, summary, options: show.show_summary(summary, options.work),
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
        "Show an exported model's input, output, training data, scores and licence terms.",
        "Example: [bold]segtl card model.segtl[/]",
    ),
    Command(
        "status",
        StatusOptions,
        _show_status,
        "Show the state of a work folder and the next commands.",
        "Example: [bold]segtl status -w segtl-work[/]",
        _status,
    ),
    Command(
        "demo",
        DemoOptions,
        lambda show, result, _: show.show_demo(result),
        "Make a small data set and run the whole pipeline on it; about 5 minutes on 2 cores.",
        "Example: [bold]segtl demo[/]",
        _demo,
    ),
    Command(
        "probe",
        ProbeOptions,
        lambda show, evidence, options: show.show_probe(evidence, options.work),
        "Measure how well the plan's frozen encoder predicts the labels, compared with controls.",
        "Example: [bold]segtl probe --with vgg16_bn[/]\n\n"
        "All figures are of held-out cases. The gain over random weights shows what pretraining taught the encoder. "
        "Features that score below intensities or local filters are of no use by themselves.",
    ),
    Command(
        "pretrain",
        PretrainOptions,
        lambda show, pretrained, _: show.show_pretrained(pretrained),
        "Pretrain an encoder on images in class folders.",
        "Example: [bold]segtl pretrain IMAGES --encoder resnet18 --time-budget 100m -o my_encoder[/], then "
        "[bold]segtl plan DATASET --encoder resnet18 --weights my_encoder.safetensors[/]\n\n"
        "The same command resumes an interrupted pretraining.",
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
    epilog="Steps: [bold]segtl plan DATASET[/], [bold]segtl train cv[/], "
    "[bold]segtl predict -i IMAGES -o OUT[/]. Try it: [bold]segtl demo[/].",
)
encoders = typer.Typer(
    invoke_without_command=True,
    help="List the encoders, or fetch their ImageNet weights.",
    epilog="Examples: [bold]segtl encoders[/], [bold]segtl encoders fetch resnet50[/]",
)


for _group, _commands in ((app, COMMANDS), (encoders, (FETCH,))):
    for _entry in _commands:
        _group.command(_entry.name, help=_entry.help, epilog=_entry.epilog)(command(_entry.options, _entry))
app.add_typer(encoders, name="encoders")


def _show_version(version: bool) -> None:
    if version:
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
        arguments: Arguments without the program's name; None for those of this process.
    """
    with console.shown_on_stderr():
        return _exit_code(arguments)


def _exit_code(arguments: Sequence[str] | None) -> int:
    try:
        app(args=arguments, prog_name="segtl")
    except (UserError, SomeCasesFailed) as error:
        logger.error(str(error))
        return USER_ERROR if isinstance(error, UserError) else SOME_FAILED
    except OSError as error:
        if error.errno not in ENVIRONMENT_ERRORS:
            raise
        hint = "free disk space, or check the permissions; then run the same command again"
        logger.error(str(UserError(f"cannot be read or written: {error.strerror}", where=error.filename, hint=hint)))
        return USER_ERROR
    except SystemExit as end:
        if end.code == INTERRUPTED:
            logger.error("interrupted; run the same command again to resume")
        return end.code if isinstance(end.code, int) else 0
    raise AssertionError("typer always ends with SystemExit")
