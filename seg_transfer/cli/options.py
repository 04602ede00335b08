"""The options of the command line that are shared, or too long to stand in a command's signature."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from seg_transfer.cli import console
from seg_transfer.planning.plan import LARGEST_SEED
from seg_transfer.transfer.fetch import OFFLINE
from seg_transfer.workflow import work_folder


def _be_verbose(wanted: bool) -> None:
    if wanted:
        console.set_level(logging.DEBUG)


def _be_quiet(wanted: bool) -> None:
    if wanted:
        console.set_level(logging.WARNING)


def _go_offline(wanted: bool) -> None:
    if wanted:
        os.environ[OFFLINE] = "1"


def _log_tracebacks(work: Path | None) -> Path | None:
    console.log_tracebacks(None if work is None else work_folder.Work(work).log)
    return work


RUNNING = "Running"
Work = Annotated[
    Path,
    typer.Option("-w", "--work", metavar="DIR", callback=_log_tracebacks, help="Work folder.", rich_help_panel=RUNNING),
]
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
ReadAhead = Annotated[
    int,
    typer.Option(
        "--workers",
        min=0,
        metavar="N",
        help="Cases prepared ahead, a thread each; 0: one case after the other.",
        rich_help_panel=RUNNING,
    ),
]
Seed = Annotated[
    int,
    typer.Option(min=0, max=LARGEST_SEED, metavar="N", help="Seed of all chance.", rich_help_panel=RUNNING),
]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", callback=_be_verbose, help="Say more.", rich_help_panel=RUNNING)
]
Quiet = Annotated[
    bool,
    typer.Option("-q", "--quiet", callback=_be_quiet, help="Say only results and warnings.", rich_help_panel=RUNNING),
]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline",
        callback=_go_offline,
        help="Make no connection: what is needed has to be on this machine.",
        rich_help_panel=RUNNING,
    ),
]
OtherSeed = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=LARGEST_SEED,
        metavar="N",
        help="Seed of all chance; by default the plan's.",
        rich_help_panel=RUNNING,
    ),
]
NamingWork = Annotated[
    Path | None,
    typer.Option(
        "-w",
        "--work",
        metavar="DIR",
        callback=_log_tracebacks,
        help="Work folder whose plan names the labels.",
        rich_help_panel=RUNNING,
    ),
]
Epochs = Annotated[int | None, typer.Option(min=1, metavar="N", help="Train this many epochs.")]
TimeBudget = Annotated[str | None, typer.Option(metavar="TIME", help="Train this long per fold, such as 30m.")]
TrainedFolds = Annotated[
    str | None,
    typer.Option(
        "--folds", metavar="LIST", help="Folds of the plan in force, such as 0,2 or full; by default all trained ones."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

CHOICES = "Decisions (auto: from the data)"
CASES = "Cases and folds"
DatasetFolder = Annotated[
    Path,
    typer.Argument(
        metavar="DATASET",
        help="Folder in nnU-Net or MSD layout, or one with a folder of images and one of labels.",
        show_default=False,
    ),
]
Config = Annotated[
    Literal["auto", "2d", "2.5d", "3d"], typer.Option(help="What the network reads.", rich_help_panel=CHOICES)
]
Encoder = Annotated[str, typer.Option(metavar="NAME", help="Encoder, such as resnet34.", rich_help_panel=CHOICES)]
Weights = Annotated[
    str,
    typer.Option(
        metavar="WHICH", help="Encoder's weights: auto, bundled, imagenet, none or a file.", rich_help_panel=CHOICES
    ),
]
FromModel = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="Start from an exported model, in place of --weights; labels, channels and spacing may differ.",
        rich_help_panel=CHOICES,
    ),
]
Carry = Annotated[
    Literal["auto", "encoder", "all"],
    typer.Option(help="What of --from to take: the encoder; all: the decoder too.", rich_help_panel=CHOICES),
]
Strategy = Annotated[
    Literal["auto", "frozen", "partial", "gradual", "finetune", "scratch", "classic", "race"],
    typer.Option(
        help="What of the encoder learns, and when; classic: the textbook's choice by size and similarity; race: each "
        "fold tries several for a short time.",
        rich_help_panel=CHOICES,
    ),
]
Evidence = Annotated[
    bool,
    typer.Option(
        "--evidence/--no-evidence",
        help="Try the pretrained encoder on some cases before the strategy is decided.",
        rich_help_panel=CHOICES,
    ),
]
RaceShare = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Share of a fold's budget for its race; by default 0.1.",
        rich_help_panel=CHOICES,
    ),
]
Head = Annotated[
    Literal["unet", "softmax", "svm", "bayes"],
    typer.Option(
        help="unet is trained; the others classify voxels by the frozen encoder's features, fitted in seconds.",
        rich_help_panel=CHOICES,
    ),
]
Normalization = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CHANNEL=KIND",
        help="Scale a channel by zscore, clip_zscore, minmax or none; repeatable.",
        rich_help_panel=CHOICES,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory for training, such as 8GB; by default 0.9 of the GPU's or half of the machine's.",
        rich_help_panel=CHOICES,
    ),
]
Cases = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Only these cases: one per line.", rich_help_panel=CASES)
]
Folds = Annotated[int, typer.Option(min=2, metavar="K", help="Folds of the cross-validation.", rich_help_panel=CASES)]
GroupBy = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="Cases with the same match (its first group, if it has one) share a fold.",
        rich_help_panel=CASES,
    ),
]
Groups = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Group of each case, such as its patient.", rich_help_panel=CASES),
]
Splits = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Folds as JSON: a list of train and validation; with groups, those that straddle folds are named.",
        rich_help_panel=CASES,
    ),
]
SkipBroken = Annotated[
    bool, typer.Option("--skip-broken", help="Go on without cases that have problems.", rich_help_panel=CASES)
]


def listed(folds: str | None) -> list[str] | None:
    """The folds of ``--folds 0,1``."""
    return None if folds is None else folds.split(",")
