"""Options of evaluate, status, inspect, info, demo, and fetching weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from seg_transfer.options.base import Cli, Command
from seg_transfer.options.common import (
    RUNNING,
    ClusterOption,
    DeviceOption,
    JsonOption,
    OfflineOption,
    SeedOption,
    VerbosityOptions,
    WorkersOption,
    WorkOption,
)


class EvaluateOptions(ClusterOption, WorkersOption, VerbosityOptions):
    """Options of :func:`seg_transfer.evaluate`."""

    command = Command(
        "evaluate",
        "Score label maps per case and label.",
        "Example: [bold]segtl evaluate predictions data/labels --csv scores.csv[/]\n\n"
        "{metrics} Label maps pair by file name. Means leave out undefined values (–).",
    )

    predictions: Annotated[Path, Cli(metavar="PREDICTIONS", argument=True, address="read")] = Field(
        description="Folder of label maps, or one file."
    )
    reference: Annotated[Path, Cli(metavar="REFERENCE", argument=True, address="read")] = Field(
        description="Folder of true label maps, or one file."
    )
    tolerance: Annotated[float, Cli(metavar="MM")] = Field(
        1.0, ge=0, description="Surface distance that NSD tolerates (2D images: pixels)."
    )
    ignore: Annotated[int | None, Cli(metavar="VALUE")] = Field(
        None, description="Value of voxels that are not annotated. Default: the plan's, with -w."
    )
    only_predicted: bool = Field(False, description="Leave out references without a prediction.")
    json_file: Annotated[Path | None, Cli("--json", metavar="FILE", address="write")] = Field(
        None, alias="json", description="Write all scores as JSON; - prints them, and nothing else on stdout."
    )
    csv_file: Annotated[Path | None, Cli("--csv", metavar="FILE", address="write")] = Field(
        None, alias="csv", description="Write one row per case and label."
    )
    work: Annotated[Path | None, Cli("-w/--work", metavar="DIR", panel=RUNNING)] = Field(
        None, description="Work folder whose plan names the labels."
    )


class StatusOptions(WorkOption, JsonOption, VerbosityOptions):
    """Options of :func:`seg_transfer.status`."""

    command = Command(
        "status",
        "Show the state of a work folder and the next commands.",
        "Example: [bold]segtl status -w segtl-work[/]",
    )


class InspectOptions(WorkOption, JsonOption, VerbosityOptions):
    """Options of :func:`seg_transfer.inspect`."""

    command = Command(
        "inspect",
        "Show one case beside the others: figures, scores, warnings and an overlay.",
        "Example: [bold]segtl inspect case_07[/]\n\n"
        "Why has a case a low score? Figures at the edge of the data set, a wrong label or a wrong header show here.",
    )

    case: Annotated[str, Cli(metavar="CASE", argument=True)] = Field(description="Name of a case of the data set.")
    output: Annotated[Path | None, Cli("-o/--output", metavar="FILE", address="write")] = Field(
        None, description="The overlay, PNG. Default: inspect/CASE.png in the work folder."
    )


class ConvertOptions(JsonOption, VerbosityOptions):
    """Options of :func:`seg_transfer.convert`."""

    command = Command(
        "convert",
        "List the series of a DICOM folder, and convert those that are volumes to NIfTI.",
        "Examples: [bold]segtl convert STUDY[/] lists, [bold]segtl convert STUDY -o images[/] converts\n\n"
        "Files are named after description and identifier of the series, never after the patient; descriptions can "
        "hold names too. series.json beside them has the identifiers. `dicom-seg` takes label maps back.",
    )

    dicom: Annotated[Path, Cli(metavar="DICOM", argument=True)] = Field(
        description="Folder with DICOM files, or a .zip of one."
    )
    output: Annotated[Path | None, Cli("-o/--output", metavar="DIR", positional=True)] = Field(
        None, description="Folder for images. Default: none, the series are only listed."
    )
    series: Annotated[tuple[str, ...], Cli("--series", metavar="UID", repeated=True)] = Field(
        (), description="Convert this series alone: identifier, number or description; repeatable."
    )


class ViewOptions(VerbosityOptions):
    """Options of `segtl view`."""

    command = Command(
        "view",
        "Show an image and label maps in the browser.",
        "Example: [bold]segtl view ct.nii.gz predictions/ct.nii.gz[/]; Ctrl-C ends it.\n\n"
        "Only programs of this machine can ask for the page, and only with the token in its address. Nothing is "
        "written.",
        function="seg_transfer.workflow.view:view",
    )

    image: Annotated[Path, Cli(metavar="IMAGE", argument=True)] = Field(description="Image to show.")
    labels: Annotated[tuple[Path, ...], Cli(metavar="LABELS", argument=True, repeated=True)] = Field(
        (), description="Label maps on its grid."
    )
    browser: bool = Field(True, description="Open the page in the browser.")


class InfoOptions(JsonOption, VerbosityOptions):
    """Options of ``segtl info``."""

    command = Command(
        "info",
        "Show versions and machine, for a report of a defect.",
        "Example: [bold]segtl info --json > info.json[/]",
        function="seg_transfer.workflow.info:info",
    )


class DemoOptions(DeviceOption, SeedOption, OfflineOption, JsonOption, VerbosityOptions):
    """Options of ``segtl demo``."""

    command = Command(
        "demo",
        "Make a small data set and run the whole pipeline on it; about 5 minutes on 2 cores.",
        "Example: [bold]segtl demo[/]",
        function="seg_transfer.demo:demo",
    )

    output: Annotated[Path, Cli("-o/--output", metavar="DIR")] = Field(
        Path("segtl-demo"), description="Folder for everything, data included."
    )

    @property
    def work(self) -> Path:
        """Work folder of the demo."""
        return self.output / "work"


class FetchOptions(VerbosityOptions):
    """Options of :func:`seg_transfer.fetch_encoders`."""

    command = Command(
        "fetch",
        "Cache ImageNet weights and record their sha256, which is checked whenever they are loaded.",
        "Examples: [bold]segtl encoders fetch resnet34 resnet50[/]\n\n"
        "For a machine without a network: [bold]segtl encoders fetch resnet50 --to stick[/], and there "
        "[bold]segtl plan DATASET --encoder resnet50 --weights stick/resnet50.safetensors[/]",
        function="seg_transfer:fetch_encoders",
        group="encoders",
    )

    names: Annotated[tuple[str, ...], Cli(metavar="NAME", argument=True, repeated=True)] = Field(
        description="Encoders, as `segtl encoders` lists them."
    )
    to: Annotated[Path | None, Cli("--to", metavar="DIR")] = Field(
        None, description="Also copy them to this folder, for another machine."
    )
