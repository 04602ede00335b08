"""The command line: each command parses, calls one function of :mod:`seg_transfer.api`, and shows the result.

Exit codes: 0 done; 2 the user's error; 3 finished, but some cases failed; 130 interrupted. Any other exception is a
defect of segtl and keeps its traceback.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from seg_transfer.cli import console, options, show
from seg_transfer.cli import models as cli_models
from seg_transfer.cli import probe as cli_probe
from seg_transfer.cli.encoders import group as encoders
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.util.units import bytes_from_text, seconds_from_text
from seg_transfer.workflow.work_folder import DEFAULT, Work

logger = logging.getLogger(__name__)

USER_ERROR, SOME_FAILED, INTERRUPTED = 2, 3, 130
OF_THE_MACHINE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EISDIR}
"""Errors of the operating system that a user can hint, and a defect of segtl does not cause."""

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


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"segtl {metadata.version('seg-transfer')}")
        raise typer.Exit


@app.callback()
def _segtl(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


@app.command(
    epilog="Example: [bold]segtl plan data/hippocampus --config 2.5d --time-budget 20m --memory 8GB[/]\n\n"
    "Plan again as often as you like: what is measured and preprocessed is used again, earlier runs stay."
)
def plan(
    dataset: options.DatasetFolder,
    config: options.Config = "auto",
    encoder: options.Encoder = "auto",
    weights: options.Weights = "auto",
    from_model: options.FromModel = None,
    carry: options.Carry = "auto",
    strategy: options.Strategy = "auto",
    evidence: options.Evidence = True,
    race_share: options.RaceShare = None,
    head: options.Head = "unet",
    normalization: options.Normalization = None,
    memory: options.Memory = None,
    epochs: options.Epochs = None,
    time_budget: options.TimeBudget = None,
    cases: options.Cases = None,
    folds: options.Folds = 5,
    group_by: options.GroupBy = None,
    groups: options.Groups = None,
    splits: options.Splits = None,
    skip_broken: options.SkipBroken = False,
    work: options.Work = DEFAULT,
    device: options.Device = "auto",
    workers: options.Workers = None,
    seed: options.Seed = 0,
    offline: options.Offline = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Check and measure a data set, and decide how to train on it."""
    import seg_transfer as api

    made = api.plan(
        dataset,
        work=work,
        config=config,
        encoder=encoder,
        weights=weights,
        from_model=from_model,
        carry=carry,
        strategy=strategy,
        evidence=evidence,
        race_share=race_share,
        head=head,
        normalization=dict(_channel_and_kind(text) for text in normalization or ()),
        memory=None if memory is None else bytes_from_text(memory, option="--memory"),
        epochs=epochs,
        time_budget=_seconds(time_budget),
        cases=cases,
        folds=folds,
        group_by=group_by,
        groups=groups,
        splits=splits,
        skip_broken=skip_broken,
        device=device,
        workers=workers,
        seed=seed,
    )
    show.show_plan(made, work)


@app.command(epilog="Example: [bold]segtl preprocess --workers 4[/]")
def preprocess(
    work: options.Work = DEFAULT,
    workers: options.Workers = None,
    offline: options.Offline = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Prepare every case for training; `train` does it by itself where it is missing."""
    import seg_transfer as api

    typer.echo(api.preprocess(work=work, workers=workers))


@app.command(
    epilog="Examples: [bold]segtl train 0[/], [bold]segtl train cv --time-budget 20m[/]\n\n"
    "Interrupted? The same command goes on where it stopped."
)
def train(
    fold: Annotated[
        str,
        typer.Argument(
            metavar="FOLD", help="0 … K-1; cv: all of them; full: on every case, unvalidated.", show_default=False
        ),
    ],
    epochs: options.Epochs = None,
    time_budget: options.TimeBudget = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start over instead of going on.")] = False,
    control: Annotated[
        bool,
        typer.Option("--control", help="Also train from scratch under the same budget, and compare."),
    ] = False,
    work: options.Work = DEFAULT,
    device: options.Device = "auto",
    workers: options.Workers = None,
    seed: options.OtherSeed = None,
    offline: options.Offline = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a fold of the plan and validate it on its held-out cases."""
    import seg_transfer as api

    runs = api.train(
        fold,
        work=work,
        epochs=epochs,
        time_budget=_seconds(time_budget),
        restart=restart,
        control=control,
        device=device,
        workers=workers,
        seed=seed,
    )
    show.show_runs(runs)
    if control:
        show.show_control(runs, work)
    scored = [one.scores for run in runs for one in (run, run.control) if one and one.scores]
    failures = {case: cause for scores in scored for case, cause in scores.failures.items()}
    if failures:
        raise SomeCasesFailed(failures)


@app.command(epilog="Example: [bold]segtl predict -i new_images -o predictions[/]")
def predict(
    images: Annotated[
        Path,
        typer.Option("-i", "--input", metavar="PATH", help="Folder of images, or one file.", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Where label maps go.", show_default=False)
    ],
    model: Annotated[
        Path | None,
        typer.Option("-m", "--model", metavar="FILE", help="Exported model, in place of a work folder."),
    ] = None,
    folds: options.TrainedFolds = None,
    tta: Annotated[bool, typer.Option(help="Average over mirrored copies, along the plan's axes.")] = True,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Write probabilities as well.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Segment again what is in the output folder already.")
    ] = False,
    work: options.Work = DEFAULT,
    device: options.Device = "auto",
    workers: options.ReadAhead = 1,
    offline: options.Offline = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Segment images: with an exported model, the choice of `summary`, or else the plan's trained folds."""
    import seg_transfer as api

    if model is not None:
        console.log_tracebacks(None)  # there is no work folder
    typer.echo(
        api.predict(
            images,
            output,
            model=model,
            work=work,
            folds=options.listed(folds),
            tta=tta,
            probabilities=probabilities,
            overwrite=overwrite,
            device=device,
            workers=workers,
        )
    )


@app.command(
    epilog="Example: [bold]segtl evaluate predictions data/labels --csv scores.csv[/]\n\n"
    "Label maps pair by file name. Undefined figures (–) are left out of means and counted."
)
def evaluate(
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS", help="Folder of label maps, or one file.", show_default=False)
    ],
    reference: Annotated[
        Path, typer.Argument(metavar="REFERENCE", help="Folder of true label maps, or one file.", show_default=False)
    ],
    tolerance: Annotated[
        float, typer.Option(min=0, metavar="MM", help="Surface distance that NSD counts as met (pictures: pixels).")
    ] = 1.0,
    ignore: Annotated[
        int | None,
        typer.Option(
            metavar="VALUE", help="Value of voxels that are not annotated; the plan's with -w.", show_default=False
        ),
    ] = None,
    as_json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures as JSON.")] = None,
    as_csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a row per case and label.")
    ] = None,
    work: options.NamingWork = None,
    workers: options.Workers = None,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Score label maps: Dice, IoU, HD95, NSD and volume, per case and label."""
    import seg_transfer as api

    scores = api.evaluate(
        predictions,
        reference,
        work=work,
        ignore=ignore,
        tolerance=tolerance,
        json=as_json,
        csv=as_csv,
        workers=workers,
    )
    show.show_scores(scores)
    if scores.failures:
        raise SomeCasesFailed(scores.failures)


app.command(epilog=cli_models.SUMMARY)(cli_models.summary)
app.command(epilog=cli_models.EXPORT)(cli_models.export)
app.command(epilog=cli_models.CARD)(cli_models.card)


@app.command(epilog="Example: [bold]segtl status -w segtl-work[/]")
def status(
    work: options.Work = DEFAULT,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what is done in a work folder and what comes next."""
    from seg_transfer.workflow.status import read_status

    found = read_status(work)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        show.show_status(found)


@app.command(epilog="Example: [bold]segtl demo[/]")
def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Where everything goes, data included.")
    ] = Path("segtl-demo"),
    device: options.Device = "auto",
    seed: options.Seed = 0,
    offline: options.Offline = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a small data set and go the whole way on it; about 5 minutes on 2 cores."""
    from seg_transfer.demo import run_demo

    console.log_tracebacks(Work(output / "work").log)
    show.show_demo(run_demo(output, seed=seed, device=device))


app.command(epilog=cli_probe.EPILOG)(cli_probe.probe)
app.add_typer(encoders, name="encoders")


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
            hint="free disk space, or see to the permissions; then run the same command again",
        )
        logger.error(str(cause))
        return USER_ERROR
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            logger.error("interrupted; run the same command again to go on")
        return ended.code if isinstance(ended.code, int) else 0
    raise AssertionError("typer always ends with SystemExit")


def _seconds(text: str | None) -> float | None:
    return None if text is None else seconds_from_text(text, option="--time-budget")


def _channel_and_kind(text: str) -> tuple[str, str]:
    channel, sign, kind = text.rpartition("=")
    if not (channel and sign and kind):
        raise UserError(f"cannot read {text!r}", where="--normalization", hint="write CHANNEL=KIND, such as MRI=zscore")
    return channel, kind
