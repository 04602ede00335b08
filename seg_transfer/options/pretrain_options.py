"""Options of pretraining an encoder on images in class folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from seg_transfer.errors import UserError
from seg_transfer.options.base import Cli, Command
from seg_transfer.options.common import DeviceOption, Seconds, SeedOption, VerbosityOptions

Purpose = Literal["scans", "photos"]
"""Kind of images that the encoder is trained for."""


class PretrainOptions(DeviceOption, SeedOption, VerbosityOptions):
    """Options of :func:`seg_transfer.pretrain`."""

    command = Command(
        "pretrain",
        "Pretrain an encoder on images in class folders.",
        "Example: [bold]segtl pretrain IMAGES --encoder resnet18 --time-budget 100m -o my_encoder[/], then "
        "[bold]segtl plan DATASET --encoder resnet18 --weights my_encoder.safetensors[/]\n\n"
        "The same command resumes an interrupted pretraining.",
    )

    images: Annotated[Path, Cli(metavar="IMAGES", argument=True)] = Field(
        description="Folder with one sub-folder of images per class."
    )
    output: Annotated[Path, Cli("-o/--output", metavar="NAME")] = Field(
        description="Output without ending: NAME.safetensors and its card NAME.md."
    )
    encoder: Annotated[str, Cli(metavar="NAME")] = Field(
        "resnet18", description="Encoder of `segtl encoders` that timm has."
    )
    time_budget: Annotated[Seconds, Cli(metavar="TIME")] = Field(
        6000.0, gt=0, description="Training time: seconds, or a text such as 100m."
    )
    val: Annotated[Path | None, Cli(metavar="DIR")] = Field(
        None, description="Folder like IMAGES to measure accuracy on, instead of held-out images."
    )
    held_out: Annotated[float, Cli(metavar="SHARE")] = Field(
        0.1, gt=0, lt=1, description="Share of each class held out to measure accuracy on."
    )
    purpose: Annotated[Purpose, Cli("--for")] = Field(
        "scans", description="Kind of images that the encoder is trained for; decides the augmentation."
    )
    side: Annotated[int, Cli(metavar="N")] = Field(64, ge=32, description="Side of the square images at the end.")
    batch_size: Annotated[int, Cli(metavar="N")] = Field(256, ge=2, description="Images in a batch.")
    rate: Annotated[float | None, Cli(metavar="RATE")] = Field(
        None, gt=0, description="Peak learning rate. Default: 0.4 at a batch of 256, in proportion to it."
    )
    restart: Annotated[bool, Cli("--restart")] = Field(False, description="Start over instead of resuming.")

    @model_validator(mode="after")
    def _has_one_validation(self) -> PretrainOptions:
        if self.val is not None and "held_out" in self.model_fields_set:
            raise UserError("--val and --held-out exclude each other", hint="give one of them")
        return self
