"""The command line: each command parses, calls one function of :mod:`seg_transfer.api`, and shows the result.

Exit codes: 0 done; 2 the user's error; 3 finished, but some cases failed; 130 interrupted. Any other exception is a
defect of segtl and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import typer

from seg_transfer import progress, show
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.units import bytes_from_text, seconds_from_text
from seg_transfer.workdir import DEFAULT

USER_ERROR, SOME_FAILED, INTERRUPTED = 2, 3, 130

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


def _be_verbose(wanted: bool) -> None:
    if wanted:
        progress.set_verbosity(1)


def _be_quiet(wanted: bool) -> None:
    if wanted:
        progress.set_verbosity(-1)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"segtl {metadata.version('seg-transfer')}")
        raise typer.Exit


RUNNING = "Running"
Work = Annotated[Path, typer.Option("-w", "--work", metavar="DIR", help="Work folder.", rich_help_panel=RUNNING)]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps.", rich_help_panel=RUNNING)]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Worker processes; 0: all in this process. By default as many as the machine bears.",
        rich_help_panel=RUNNING,
    ),
]
Seed = Annotated[int, typer.Option(min=0, metavar="N", help="Seed of all chance.", rich_help_panel=RUNNING)]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", callback=_be_verbose, help="Say more.", rich_help_panel=RUNNING)
]
Quiet = Annotated[
    bool,
    typer.Option("-q", "--quiet", callback=_be_quiet, help="Say only results and warnings.", rich_help_panel=RUNNING),
]
Epochs = Annotated[int | None, typer.Option(min=1, metavar="N", help="Train this many epochs.")]
TimeBudget = Annotated[str | None, typer.Option(metavar="TIME", help="Train this long per fold, such as 30m.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def _segtl(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


CHOICES = "Decisions (auto: from the data)"
CASES = "Cases and folds"


@app.command(
    epilog="Example: [bold]segtl plan data/hippocampus --config 2.5d --time-budget 20m --memory 8GB[/]\n\n"
    "Plan again as often as you like: what is measured and preprocessed is used again, earlier runs stay."
)
def plan(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="Folder in nnU-Net or MSD layout, or one with a folder of images and one of labels.",
            show_default=False,
        ),
    ],
    config: Annotated[
        Literal["auto", "2d", "2.5d", "3d"], typer.Option(help="What the network reads.", rich_help_panel=CHOICES)
    ] = "auto",
    encoder: Annotated[
        str, typer.Option(metavar="NAME", help="Encoder, such as resnet34.", rich_help_panel=CHOICES)
    ] = "auto",
    weights: Annotated[
        str,
        typer.Option(
            metavar="WHICH", help="Encoder's weights: auto, bundled, imagenet, none or a file.", rich_help_panel=CHOICES
        ),
    ] = "auto",
    strategy: Annotated[
        Literal["auto", "frozen", "partial", "gradual", "finetune", "scratch"],
        typer.Option(help="What of the encoder learns, and when.", rich_help_panel=CHOICES),
    ] = "auto",
    normalization: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHANNEL=KIND",
            help="Scale a channel by zscore, clip_zscore, minmax or none; repeatable.",
            rich_help_panel=CHOICES,
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory for training, such as 8GB; by default 0.9 of the GPU's or half of the machine's.",
            rich_help_panel=CHOICES,
        ),
    ] = None,
    epochs: Epochs = None,
    time_budget: TimeBudget = None,
    cases: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Only these cases: one per line.", rich_help_panel=CASES)
    ] = None,
    folds: Annotated[
        int, typer.Option(min=2, metavar="K", help="Folds of the cross-validation.", rich_help_panel=CASES)
    ] = 5,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Cases with the same match (its first group, if it has one) share a fold.",
            rich_help_panel=CASES,
        ),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Group of each case, such as its patient.", rich_help_panel=CASES),
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Folds as JSON: a list of train and validation.", rich_help_panel=CASES),
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Go on without cases that have problems.", rich_help_panel=CASES)
    ] = False,
    work: Work = DEFAULT,
    device: Device = "auto",
    workers: Workers = None,
    seed: Seed = 0,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Check and measure a data set, and decide how to train on it."""
    from seg_transfer import api

    made = api.plan(
        dataset,
        work=work,
        config=config,
        encoder=encoder,
        weights=weights,
        strategy=strategy,
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
def preprocess(work: Work = DEFAULT, workers: Workers = None, verbose: Verbose = False, quiet: Quiet = False) -> None:
    """Prepare every case for training; `train` does it by itself where it is missing."""
    from seg_transfer import api

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
    epochs: Epochs = None,
    time_budget: TimeBudget = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start over instead of going on.")] = False,
    work: Work = DEFAULT,
    device: Device = "auto",
    workers: Workers = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Seed of all chance; by default the plan's.", rich_help_panel=RUNNING),
    ] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Train a fold of the plan and validate it on its held-out cases."""
    from seg_transfer import api

    runs = api.train(
        fold,
        work=work,
        epochs=epochs,
        time_budget=_seconds(time_budget),
        restart=restart,
        device=device,
        workers=workers,
        seed=seed,
    )
    show.show_runs(runs)
    failures = {case: cause for run in runs if run.scores for case, cause in run.scores.failures.items()}
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
    folds: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Such as 0,2 or full; by default every trained fold, averaged."),
    ] = None,
    tta: Annotated[bool, typer.Option(help="Average over mirrored copies, along the plan's axes.")] = True,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Write probabilities as well.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Segment again what is in the output folder already.")
    ] = False,
    work: Work = DEFAULT,
    device: Device = "auto",
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Segment images with the trained folds of the plan."""
    from seg_transfer import api

    chosen = None if folds is None else folds.split(",")
    typer.echo(
        api.predict(
            images,
            output,
            work=work,
            folds=chosen,
            tta=tta,
            probabilities=probabilities,
            overwrite=overwrite,
            device=device,
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
    as_json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures as JSON.")] = None,
    as_csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a row per case and label.")
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            "-w", "--work", metavar="DIR", help="Work folder whose plan names the labels.", rich_help_panel=RUNNING
        ),
    ] = None,
    workers: Workers = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Score label maps: Dice, IoU, HD95, NSD and volume, per case and label."""
    from seg_transfer import api

    scores = api.evaluate(
        predictions, reference, work=work, tolerance=tolerance, json=as_json, csv=as_csv, workers=workers
    )
    show.show_scores(scores)
    if scores.failures:
        raise SomeCasesFailed(scores.failures)


@app.command(epilog="Example: [bold]segtl status -w segtl-work[/]")
def status(work: Work = DEFAULT, as_json: AsJson = False) -> None:
    """Show what is done in a work folder and what comes next."""
    from seg_transfer.status import read_status

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
    device: Device = "auto",
    seed: Seed = 0,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Make a small data set and go the whole way on it; about 5 minutes on 2 cores."""
    from seg_transfer.demo import run_demo

    show.show_demo(run_demo(output, seed=seed, device=device))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: Without the program's name; None for those of this process.
    """
    progress.set_verbosity(0)
    try:
        app(args=arguments, prog_name="segtl")
    except UserError as error:
        progress.fail(str(error))
        return USER_ERROR
    except SomeCasesFailed as error:
        progress.fail(str(error))
        return SOME_FAILED
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            progress.fail("interrupted; run the same command again to go on")
        return ended.code if isinstance(ended.code, int) else 0
    raise AssertionError("typer always ends with SystemExit")


def _seconds(text: str | None) -> float | None:
    return None if text is None else seconds_from_text(text, option="--time-budget")


def _channel_and_kind(text: str) -> tuple[str, str]:
    channel, sign, kind = text.rpartition("=")
    if not (channel and sign and kind):
        raise UserError(f"cannot read {text!r}", where="--normalization", mend="write CHANNEL=KIND, such as MRI=zscore")
    return channel, kind
