"""Options of plan, check, preprocess and probe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from seg_transfer.errors import UserError
from seg_transfer.options.base import Cli, Command, Options
from seg_transfer.options.choices import Carry, Configuration, Head, NormalizationKind, StrategyName
from seg_transfer.options.common import (
    BudgetOptions,
    Bytes,
    ClusterOption,
    DeviceOption,
    JsonOption,
    Names,
    OfflineOption,
    SeedOption,
    VerbosityOptions,
    WorkersOption,
    WorkOption,
    at_most_one,
    from_text,
)

DECISIONS = "Decisions (auto: from the data)"
CASES = "Cases and folds"
NAMED_WEIGHTS = ("auto", "bundled", "imagenet", "none")


def _kinds_by_channel(value: Any) -> Any:
    """Read ``["MRI=zscore", ...]``; a mapping stays as it is."""
    if not isinstance(value, list | tuple):
        return {} if value is None else value
    kinds: dict[str, str] = {}
    for text in value:
        channel, sign, kind = text.rpartition("=")
        if not (channel and sign and kind):
            raise UserError(f"cannot read {text!r}", hint="write CHANNEL=KIND, such as MRI=zscore")
        if kinds.setdefault(channel, kind) != kind:
            what = f"two kinds for channel {channel!r}: {kinds[channel]} and {kind}"
            raise UserError(what, hint="give one of them")
    return kinds


class DatasetOptions(Options):
    """A data set, how its values are read, and the folds and groups of its cases."""

    dataset: Annotated[Path, Cli(metavar="DATASET", argument=True, address="read")] = Field(
        description="Folder in nnU-Net or MSD layout, of images and labels, of patients, or in BIDS; or a .csv or "
        ".json file that lists cases."
    )
    image_names: Annotated[tuple[str, ...], Cli("--image-name", metavar="NAME", panel=CASES, repeated=True)] = Field(
        (),
        description="Name of the images in patient folders or BIDS, such as ct; repeatable, in the order of the "
        "channels. Of images beside labels: name of their folder.",
    )
    label_name: Annotated[str | None, Cli(metavar="NAME", panel=CASES)] = Field(
        None,
        description="Name of the label maps in patient folders or BIDS, such as seg. Of labels beside images: name of "
        "their folder.",
    )
    nan: Annotated[Literal["refuse", "fill"], Cli(panel=DECISIONS)] = Field(
        "refuse",
        description="Values of images that are not finite (nan, infinite): refuse the image, or replace them by the "
        "least finite value of image and channel.",
    )
    group_by: Annotated[str | None, Cli(metavar="REGEX", panel=CASES)] = Field(
        None, description="Cases with the same match (its first group, if it has one) share a fold."
    )
    groups: Annotated[Path | None, Cli(metavar="FILE", panel=CASES, address="read")] = Field(
        None, description="Group of each case, such as its patient."
    )
    splits: Annotated[Path | None, Cli(metavar="FILE", panel=CASES, address="read")] = Field(
        None,
        description="Folds as JSON: a list of train and validation. Groups on both sides of a fold are reported.",
    )

    @model_validator(mode="after")
    def _is_one_grouping(self) -> DatasetOptions:
        at_most_one(self, "group_by", "groups")
        return self


class PlanOptions(
    DatasetOptions,
    BudgetOptions,
    WorkOption,
    DeviceOption,
    ClusterOption,
    WorkersOption,
    SeedOption,
    OfflineOption,
    JsonOption,
    VerbosityOptions,
):
    """Options of :func:`seg_transfer.plan`; ``auto`` and None are decided from the data."""

    command = Command(
        "plan",
        "Check and measure a data set, and decide how to train on it.",
        "Example: [bold]segtl plan data/hippocampus --config 2.5d --time-budget 20m --memory 8GB[/]\n\n"
        "Planning again reuses measurements and preprocessed cases; earlier runs stay.",
    )

    config: Annotated[Literal["auto", Configuration], Cli(panel=DECISIONS)] = Field(
        "auto", description="Input of the network."
    )
    encoder: Annotated[str, Cli(metavar="NAME", panel=DECISIONS)] = Field(
        "auto", description="Encoder: a name of `segtl encoders`, or timm/NAME for any CNN of timm."
    )
    weights: Annotated[str, BeforeValidator(str), Cli(metavar="WHICH", panel=DECISIONS)] = Field(
        "auto", description="Weights of the encoder: auto, bundled, imagenet, none or a file."
    )
    from_model: Annotated[Path | None, Cli("--from", metavar="FILE", panel=DECISIONS, address="read")] = Field(
        None,
        description="Start from an exported model, instead of --weights; labels, channels and spacing may differ. "
        "Scores are only valid if it was not trained on the held-out cases.",
    )
    carry: Annotated[Literal["auto", Carry], Cli(panel=DECISIONS)] = Field(
        "auto",
        description="Part of --from to carry over; all: encoder and decoder, and heads where labels are the same.",
    )
    strategy: Annotated[Literal["auto", StrategyName, "classic", "race"], Cli(panel=DECISIONS)] = Field(
        "auto",
        description="Transfer strategy; classic: the textbook's choice by size and similarity; race: each fold trains "
        "several for a short time and continues with the best.",
    )
    evidence: Annotated[bool | None, Cli(panel=DECISIONS)] = Field(
        None,
        description="Measure the pretrained encoder on some cases before deciding the strategy. Default: where its "
        "weights do not come with segtl.",
    )
    race_share: Annotated[float | None, Cli(metavar="SHARE", panel=DECISIONS)] = Field(
        None, gt=0, lt=1, description="Share of a fold's budget for its race. Default: 0.1."
    )
    head: Annotated[Head, Cli(panel=DECISIONS)] = Field(
        "unet",
        description="unet is trained; the others classify voxels by the frozen encoder's features, fitted in seconds.",
    )
    normalization: Annotated[
        dict[str, Literal["auto", NormalizationKind]],
        BeforeValidator(_kinds_by_channel),
        Cli(metavar="CHANNEL=KIND", panel=DECISIONS, repeated=True),
    ] = Field({}, description="Normalization of a channel: zscore, clip_zscore, minmax or none; repeatable.")
    mirror: Annotated[str, Cli(metavar="AXES", panel=DECISIONS)] = Field(
        "auto",
        description="Axes along which images are mirrored in training and prediction: none, or letters such as xy. x "
        "is left-right, y back-front, z feet-head; of a 2D image, x and y.",
    )
    explain: Annotated[bool, Cli(only=True)] = Field(False, description="Show every decision with its whole reason.")
    memory: Annotated[Bytes | None, Cli(metavar="SIZE", panel=DECISIONS)] = Field(
        None,
        gt=0,
        description="Memory for training: bytes, or a text such as 8GB. Default: 0.9 of the GPU's or half of the "
        "machine's.",
    )
    cases: Annotated[Path | Names | None, from_text(Path), Cli(metavar="FILE", panel=CASES, address="read")] = Field(
        None, description="Only these cases: a file with one per line."
    )
    with_sites: Annotated[tuple[Path, ...], Cli("--with-site", metavar="FILE", panel=CASES, repeated=True)] = Field(
        (),
        description="site.json of another site's work folder: plan for the cases of both, without having them; "
        "repeatable.",
    )
    folds: Annotated[int, Cli(metavar="K", panel=CASES)] = Field(
        5, ge=2, description="Number of folds; fewer if there are fewer cases."
    )
    skip_broken: Annotated[bool, Cli(panel=CASES)] = Field(False, description="Ignore cases that have problems.")

    @field_validator("weights")
    @classmethod
    def _weights_exist(cls, weights: str) -> str:
        if weights in NAMED_WEIGHTS:
            return weights
        if not Path(weights).is_file():
            hint = f"give a file, or one of: {', '.join(NAMED_WEIGHTS)}"
            raise UserError("there is no such weights file", where=weights, hint=hint)
        return str(Path(weights).absolute())

    @field_validator("mirror")
    @classmethod
    def _are_axes(cls, mirror: str) -> str:
        letters = mirror.lower().replace(",", "")
        if letters in ("auto", "none"):
            return letters
        if not letters or set(letters) - set("xyz") or len(set(letters)) < len(letters):
            raise UserError(
                f"cannot read {mirror!r}", where="--mirror", hint="write auto, none, or axes such as x or xy"
            )
        return letters

    @model_validator(mode="after")
    def _are_compatible(self) -> PlanOptions:
        self._check_race()
        self._check_head()
        self._check_start()
        return self

    def _check_race(self) -> None:
        if self.strategy != "race" and self.race_share is not None:
            raise UserError("needs --strategy race", where="--race-share", hint="add --strategy race")
        if self.strategy == "race" and self.weights == "none":
            what = "a race compares pretrained strategies with scratch"
            raise UserError(what, where="--weights none", hint="use --strategy scratch, or pretrained --weights")

    def _check_start(self) -> None:
        if self.from_model is None and self.carry != "auto":
            raise UserError("needs a model to carry over from", where="--carry", hint="add --from")
        if self.strategy == "scratch" and self.weights not in ("auto", "none"):
            what = f"--strategy scratch starts from random weights, which excludes --weights {self.weights}"
            raise UserError(what, where="--weights", hint="omit one of the two")
        if self.from_model is not None:
            for option, value, excluded in (
                ("--weights", self.weights, self.weights != "auto"),
                ("--strategy", self.strategy, self.strategy == "scratch"),
            ):
                if excluded:
                    what = f"--from starts from an earlier model's weights, which excludes {option} {value}"
                    raise UserError(what, where=option, hint="omit one of the two")

    def _check_head(self) -> None:
        if self.head == "unet":
            return
        where = f"--head {self.head}"
        if self.strategy not in ("auto", "frozen"):
            what = f"a classifier needs a frozen encoder, which excludes --strategy {self.strategy}"
            raise UserError(what, where=where, hint="omit one of the two")
        if self.epochs is not None or self.time_budget is not None:
            budget = "--epochs" if self.epochs is not None else "--time-budget"
            raise UserError(f"a classifier is fitted, which excludes {budget}", where=where, hint="omit one of the two")
        if self.carry == "all":
            what = "a classifier has no decoder, which excludes --carry all"
            raise UserError(what, where=where, hint="use --carry encoder, or omit --head")


class CheckOptions(DatasetOptions, ClusterOption, WorkersOption, JsonOption, VerbosityOptions):
    """Options of :func:`seg_transfer.check`."""

    command = Command(
        "check",
        "Check a data set without planning: problems, and cases that are unlike the others.",
        "Examples: [bold]segtl check data[/], [bold]segtl check data --fix fixed[/]\n\n"
        "`plan` refuses cases with a problem. A warning may be an error or a rare case: look at it. "
        "Exit code 0: no problem, 3: problems in some cases, 2: the data set cannot be read at all.",
    )

    fix: Annotated[Path | None, Cli(metavar="FOLDER")] = Field(
        None,
        description="Write a copy of the data set here, in which what can be fixed without doubt is: units, endings, "
        "compression, axes, affines and types of labels, byte order marks.",
    )
    strict: Annotated[bool, Cli(only=True)] = Field(False, description="Exit code 3 for warnings too.")


class PreprocessOptions(WorkOption, ClusterOption, WorkersOption, OfflineOption, VerbosityOptions):
    """Options of :func:`seg_transfer.preprocess`."""

    command = Command(
        "preprocess",
        "Preprocess every case; `train` does this itself for missing cases.",
        "Example: [bold]segtl preprocess --workers 4[/]",
    )


class ProbeOptions(WorkOption, DeviceOption, WorkersOption, SeedOption, OfflineOption, JsonOption, VerbosityOptions):
    """Options of :func:`seg_transfer.probe`."""

    command = Command(
        "probe",
        "Measure how well the plan's frozen encoder predicts the labels, compared with controls.",
        "Example: [bold]segtl probe --with vgg16_bn[/]\n\n"
        "All figures are of held-out cases. The gain over random weights shows what pretraining taught the encoder. "
        "Features that score below intensities or local filters are of no use by themselves.",
    )

    cases: Annotated[int, Cli(metavar="N")] = Field(20, ge=2, description="Largest number of cases.")
    encoders: Annotated[tuple[str, ...], Cli("--with", metavar="ENCODER", repeated=True)] = Field(
        (),
        description="Another encoder, alone and with the plan's; repeatable. Its weights have to be on this machine.",
    )
    context: bool = Field(
        False, description="Append the mean over the slice (in 3D: the patch) to each voxel's features."
    )
