"""`segtl summary`, `export` and `card`: trained models compared, chosen, written into one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seg_transfer.cli import options, show
from seg_transfer.workflow.work_folder import DEFAULT

SUMMARY = (
    "Example: [bold]segtl summary --ensembles[/]\n\n"
    "Runs are ranked by cross-validated mean Dice, on the same cases. The choice is in choice.json of the work folder: "
    "delete it, and the plan in force is used again."
)
EXPORT = (
    "Example: [bold]segtl export -o model.segtl[/], then anywhere "
    "[bold]segtl predict -m model.segtl -i new_images -o predictions[/]\n\n"
    "No names of cases or of the data set, no paths and nothing of the images' headers goes into it."
)
CARD = "Example: [bold]segtl card model.segtl[/]"


def summary(
    ensembles: Annotated[
        bool, typer.Option("--ensembles", help="Try pairs of configurations: predicts their held-out cases again.")
    ] = False,
    work: options.Work = DEFAULT,
    device: options.Device = "auto",
    workers: options.Workers = None,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare all validated runs, and choose what `predict` and `export` use."""
    import seg_transfer as api

    show.show_summary(api.summary(work=work, ensembles=ensembles, device=device, workers=workers), work)


def export(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Model file, such as model.segtl.")
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Network as ONNX: patches in, probabilities out.")
    ] = None,
    folds: options.TrainedFolds = None,
    name: Annotated[str, typer.Option(metavar="TEXT", help="What the model's card calls it.")] = "unnamed",
    work: options.Work = DEFAULT,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Write trained models into one file that needs no work folder."""
    import seg_transfer as api

    for file in api.export(output, onnx=onnx, work=work, folds=options.listed(folds), name=name):
        typer.echo(file)


def card(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Exported model.", show_default=False)],
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what an exported model reads, predicts and was trained on, its scores and terms."""
    import seg_transfer as api

    typer.echo(api.card(model))
