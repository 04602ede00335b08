"""Options of import-nnunet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from seg_transfer.options.base import Cli, Command
from seg_transfer.options.common import (
    BudgetOptions,
    Bytes,
    DeviceOption,
    JsonOption,
    OfflineOption,
    SeedOption,
    VerbosityOptions,
    WorkersOption,
    WorkOption,
)
from seg_transfer.options.plan_options import PlanOptions


class ImportNnunetOptions(
    BudgetOptions,
    WorkOption,
    DeviceOption,
    WorkersOption,
    SeedOption,
    OfflineOption,
    JsonOption,
    VerbosityOptions,
):
    """Options of :func:`seg_transfer.import_nnunet`."""

    command = Command(
        "import-nnunet",
        "Plan with spacing, patch, normalization and folds of nnU-Net v2, so that both can be compared.",
        "Example: [bold]segtl import-nnunet nnUNet_preprocessed/Dataset004_Hippocampus --config 3d_fullres[/]\n\n"
        "Encoder, strategy, batch and budget are segtl's own. Then [bold]segtl train 0[/], as after `segtl plan`.",
        function="seg_transfer:import_nnunet",
    )

    folder: Annotated[Path, Cli(metavar="FOLDER", argument=True)] = Field(
        description="The data set's folder in nnUNet_preprocessed or nnUNet_raw; the other one is found where both "
        "trees lie side by side."
    )
    raw: Annotated[Path | None, Cli(metavar="FOLDER")] = Field(
        None, description="The data set's folder in nnUNet_raw, if it lies elsewhere."
    )
    config: Annotated[str | None, Cli(metavar="NAME")] = Field(
        None, description="nnU-Net's configuration: 2d, 3d_fullres or 3d_lowres. Default: 3d_fullres, else 2d."
    )
    plans: Annotated[str, Cli(metavar="NAME")] = Field(
        "nnUNetPlans", description="Name of nnU-Net's plans, such as nnUNetResEncUNetMPlans."
    )
    encoder: Annotated[str, Cli(metavar="NAME")] = Field(
        "auto", description="Encoder: a name of `segtl encoders`, or timm/NAME for any CNN of timm."
    )
    memory: Annotated[Bytes | None, Cli(metavar="SIZE")] = Field(
        None, gt=0, description="Memory for training. Default: 0.9 of the GPU's or half of the machine's."
    )
    explain: Annotated[bool, Cli(only=True)] = Field(False, description="Show every decision with its whole reason.")

    def plan_options(self, images: Path) -> PlanOptions:
        """The options with which the data set is planned."""
        names = ("encoder", "memory", "epochs", "time_budget", "work", "device", "workers", "seed", "offline")
        return PlanOptions(dataset=images, **{name: getattr(self, name) for name in names})
