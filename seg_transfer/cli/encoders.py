"""`segtl encoders`: which encoders there are, and their weights for a machine without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seg_transfer.cli import options, show

group = typer.Typer(
    invoke_without_command=True,
    help="List the encoders, or fetch their ImageNet weights.",
    epilog="Examples: [bold]segtl encoders[/], [bold]segtl encoders fetch resnet50[/]",
)


@group.callback()
def encoders(context: typer.Context) -> None:
    """List the encoders, or fetch their ImageNet weights."""
    if context.invoked_subcommand is None:
        import seg_transfer as api

        show.show_encoders(api.encoders())


@group.command(
    epilog="Examples: [bold]segtl encoders fetch resnet34 resnet50[/]\n\n"
    "For a machine without a network: [bold]segtl encoders fetch resnet50 --to stick[/], and there "
    "[bold]segtl plan DATASET --encoder resnet50 --weights stick/resnet50.safetensors[/]"
)
def fetch(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME", help="Encoders, as `segtl encoders` lists them.", show_default=False),
    ],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Also copy them here, for another machine.")
    ] = None,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Cache ImageNet weights and record their sha256, which is checked whenever they are loaded."""
    import seg_transfer as api

    show.show_fetched(api.fetch_encoders(names, to=to))
