"""`segtl probe`: what the frozen encoder knows about a data set."""

from __future__ import annotations

from typing import Annotated

import typer

from seg_transfer.cli import options, show
from seg_transfer.workflow.work_folder import DEFAULT

EPILOG = (
    "Example: [bold]segtl probe --with vgg16_bn[/]\n\n"
    "Figures are of cases that a classifier was not fitted to. What pretraining taught the encoder shows in its gain "
    "over random weights; features worse than intensities or local filters are of no use by themselves."
)


def probe(
    cases: Annotated[int, typer.Option(min=2, metavar="N", help="Look at this many cases at most.")] = 20,
    encoders: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="ENCODER", help="Also this one, alone and with the plan's; repeatable."),
    ] = None,
    context: Annotated[
        bool, typer.Option("--context", help="Append the mean over the slice to each voxel's features.")
    ] = False,
    work: options.Work = DEFAULT,
    device: options.Device = "auto",
    workers: options.Workers = None,
    seed: options.Seed = 0,
    offline: options.Offline = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure how well labels can be read off the plan's frozen encoder, beside controls."""
    import seg_transfer as api

    found = api.probe(
        work=work,
        cases=cases,
        encoders=encoders or (),
        context=context,
        device=device,
        workers=workers,
        seed=seed,
    )
    show.show_probe(found, work)
