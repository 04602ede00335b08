"""Options of the commands for trained models: predict, summary, export, card."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from seg_transfer.errors import UserError
from seg_transfer.options.base import Cli, Command
from seg_transfer.options.choices import LabelFormat
from seg_transfer.options.common import (
    DEFAULT_WORK,
    RUNNING,
    Bytes,
    ClusterOption,
    DeviceOption,
    FoldsOption,
    JsonOption,
    OfflineOption,
    VerbosityOptions,
    WorkersOption,
    WorkOption,
    at_most_one,
    from_text,
)


class SegmenterOptions(FoldsOption, WorkOption, DeviceOption):
    """Options of loading models: :meth:`seg_transfer.Segmenter.load`."""

    model: Annotated[Path | None, Cli("-m/--model", metavar="FILE", address="read")] = Field(
        None, description="Exported model, instead of a work folder."
    )
    memory: Annotated[Bytes | None, Cli(metavar="SIZE", panel=RUNNING)] = Field(
        None, gt=0, description="Most memory for a case, such as 8GB. Default: half of the machine's."
    )

    @model_validator(mode="after")
    def _is_one_source(self) -> SegmenterOptions:
        if self.model is not None and (self.folds is not None or self.work != DEFAULT_WORK):
            what = "an exported model excludes --folds and --work"
            raise UserError(what, where=self.model, hint="omit them")
        return self


class ArrayOptions(SegmenterOptions):
    """Options of predicting an array."""

    tta: bool = Field(True, description="Average over mirrored copies, along the plan's axes.")
    probabilities: bool = Field(False, description="Write probabilities as well; of an array, return them.")
    uncertainty: bool = Field(
        False,
        description="Write how sure each prediction is, as entropy maps and confidence; of an array, return them.",
    )


def _as_several(value: Any) -> Any:
    return (value,) if isinstance(value, str | os.PathLike) else value


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,7})/(\d{1,7})", text)
    part, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= part <= parts:
        raise UserError(f"cannot read {text!r}", hint="write the part and the number of parts, as in 2/10")
    return part, parts


class PredictOptions(ArrayOptions, ClusterOption, OfflineOption, VerbosityOptions):
    """Options of :func:`seg_transfer.predict` for files."""

    command = Command(
        "predict",
        "Segment images: with an exported model, the choice of `summary`, or else the plan's trained folds.",
        "Example: [bold]segtl predict -i new_images -o predictions[/]\n\n"
        "predictions.json beside the label maps records what made them. What this model made of the same images is "
        "skipped. It also has the warnings about images that are unlike those of training, and about labels that are "
        "missing or far smaller or larger than in the training cases.\n\n"
        "--pictures draws OUTPUT/overlays/CASE.png: slices plain and with the labels. --uncertainty writes "
        "OUTPUT/uncertainty/CASE, a map of the entropy in percent (0 sure, 100 all labels equally probable) in the "
        "format of the label map, and each case's confidence into predictions.json and --volumes.",
    )

    images: Annotated[
        tuple[Path, ...],
        BeforeValidator(_as_several),
        Cli("-i/--input", metavar="PATH", positional=True, repeated=True, address="read"),
    ] = Field(min_length=1, description="Folder of images, or one file; repeatable.")
    output: Annotated[Path, Cli("-o/--output", metavar="PATH", positional=True, address="write")] = Field(
        description="Folder for label maps; for one image also a file, such as seg.nii.gz."
    )
    nnunet: Annotated[Path | None, Cli(metavar="FOLDER")] = Field(
        None, description="Trained model of nnU-Net v2, such as nnUNetTrainer__nnUNetPlans__3d_fullres."
    )
    part: Annotated[tuple[int, int] | None, from_text(_part), Cli(metavar="I/N")] = Field(
        None, description="Predict part I of N of the cases, for N jobs with the same images and output."
    )
    format: LabelFormat | None = Field(
        None, description="Format of the label maps in a folder. Default: that of the image."
    )
    volumes: Annotated[Path | None, Cli(metavar="FILE", address="write")] = Field(
        None, description="Write volume and connected components per case and label, as .csv or .json."
    )
    pictures: bool = Field(False, description="Draw an overlay of each case, as PNG.")
    overwrite: bool = Field(False, description="Predict all images again.")
    keep: bool = Field(False, description="Keep every label map that is there, whatever made it.")
    workers: Annotated[int, Cli(metavar="N", panel=RUNNING)] = Field(
        1, ge=0, description="Number of cases to prepare in advance, one thread each; 0: none."
    )

    @model_validator(mode="after")
    def _skips_one_way(self) -> PredictOptions:
        at_most_one(self, "overwrite", "keep")
        return self

    @model_validator(mode="after")
    def _has_what_nnunet_has(self) -> PredictOptions:
        given = {"--model": self.model, "--work": self.work != DEFAULT_WORK, "--uncertainty": self.uncertainty}
        others = [name for name, value in given.items() if value]
        if self.nnunet is not None and others:
            what = f"a model of nnU-Net excludes {' and '.join(others)}"
            raise UserError(what, where=self.nnunet, hint=f"omit {'it' if len(others) == 1 else 'them'}")
        return self


class SummaryOptions(WorkOption, DeviceOption, WorkersOption, JsonOption, VerbosityOptions):
    """Options of :func:`seg_transfer.summary`."""

    command = Command(
        "summary",
        "Compare all validated runs, and choose what `predict` and `export` use.",
        "Example: [bold]segtl summary --ensembles[/]\n\n"
        "Runs are ranked by cross-validated mean Dice, on the same cases. The choice is in choice.json of the work "
        "folder: delete it, and the current plan is used again.",
    )

    ensembles: bool = Field(
        False, description="Also rank pairs of configurations, which predicts their held-out cases again."
    )


class ReportOptions(WorkOption, WorkersOption, VerbosityOptions):
    """Options of :func:`seg_transfer.report`."""

    command = Command(
        "report",
        "Write one HTML page: data set, plan, curves, scores, every held-out case, and a viewer.",
        "Example: [bold]segtl report[/], then open segtl-work/report.html\n\n"
        "The page holds everything that it shows and loads nothing. It can be written at any time: what is not done "
        "yet is left out. It shows images and names of cases: think before you pass it on.",
    )

    output: Annotated[Path | None, Cli("-o/--output", metavar="FILE", positional=True)] = Field(
        None, description="HTML file. Default: report.html in the work folder."
    )
    compare: Annotated[Path | None, Cli(metavar="DIR")] = Field(
        None, description="Another work folder, whose scores are compared case by case."
    )


class LabelNamesOptions(WorkOption):
    """Options of the commands for label maps: who knows the names of their labels."""

    model: Annotated[Path | None, Cli("-m/--model", metavar="FILE")] = Field(
        None, description="Exported model that knows the labels' names. Default: the plan of the work folder."
    )


class DicomSegOptions(LabelNamesOptions, VerbosityOptions):
    """Options of :func:`seg_transfer.dicom_seg`."""

    command = Command(
        "dicom-seg",
        "Write label maps as DICOM segmentations of the series that `convert` made images of.",
        "Example: [bold]segtl dicom-seg predictions STUDY -o segmentations -m model.segtl[/]\n\n"
        "A label map has the name that `convert` gave to the image of its series. It needs the extra "
        "segtl\\[dicom].",
        function="seg_transfer:dicom_seg",
    )

    labels: Annotated[Path, Cli(metavar="LABELS", argument=True)] = Field(
        description="Folder of label maps, or one file."
    )
    dicom: Annotated[Path, Cli(metavar="DICOM", argument=True)] = Field(
        description="Folder with the DICOM files, or a .zip of one."
    )
    output: Annotated[Path, Cli("-o/--output", metavar="DIR", positional=True)] = Field(
        description="Folder for the files, CASE.dcm."
    )


class RtStructOptions(DicomSegOptions):
    """Options of `segtl rtstruct`."""

    command = Command(
        "rtstruct",
        "Write label maps as DICOM RT structure sets: contours in the series that `convert` made images of.",
        "Example: [bold]segtl rtstruct predictions STUDY -o structures -m model.segtl[/]\n\n"
        "A label map has the name that `convert` gave to the image of its series. It needs the extra "
        "segtl\\[dicom].",
        function="seg_transfer.workflow.dicom_seg:rtstruct",
    )


def _licence(identifier: str | None) -> str | None:
    if identifier is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}", identifier):
        hint = "give an SPDX identifier, such as apache-2.0 or cc-by-nc-4.0"
        raise UserError(f"{identifier[:64]!r} is no licence", where="--licence", hint=hint)
    return identifier


class MeshOptions(LabelNamesOptions, VerbosityOptions):
    """Options of `segtl mesh`."""

    command = Command(
        "mesh",
        "Write the surface of each label of label maps as a mesh, in mm (LPS).",
        "Example: [bold]segtl mesh predictions -o meshes -m model.segtl[/]\n\n"
        "Files are OUTPUT/CASE/LABEL.stl. It needs the extra segtl\\[mesh].",
        function="seg_transfer.workflow.mesh:mesh",
    )

    labels: Annotated[Path, Cli(metavar="LABELS", argument=True)] = Field(
        description="Folder of label maps, or one file."
    )
    output: Annotated[Path, Cli("-o/--output", metavar="DIR", positional=True)] = Field(
        description="Folder for meshes."
    )
    format: Literal["stl", "ply"] = Field("stl", description="Format of the meshes.")


class ExportOptions(FoldsOption, WorkOption, VerbosityOptions):
    """Options of :func:`seg_transfer.export`."""

    command = Command(
        "export",
        "Write trained models into one file that needs no work folder.",
        "Example: [bold]segtl export -o model.segtl[/], then anywhere "
        "[bold]segtl predict -m model.segtl -i new_images -o predictions[/]\n\n"
        "No names of cases or of the data set, no paths and no texts of the images' headers go into it; the ranges of "
        "the training images' intensities, spacings and sizes, and of labels' volumes, do.",
    )

    output: Annotated[Path | None, Cli("-o/--output", metavar="FILE", positional=True, address="write")] = Field(
        None, description="Model file, such as model.segtl."
    )
    onnx: Annotated[Path | None, Cli(metavar="FILE", address="write")] = Field(
        None, description="Network as ONNX: from patches to probabilities."
    )
    bundle: Annotated[Path | None, Cli(metavar="DIR")] = Field(
        None, description="New folder for a MONAI bundle, which `python -m monai.bundle run` predicts with."
    )
    name: Annotated[str, Cli(metavar="TEXT")] = Field("unnamed", description="Name of the model in its card.")
    licence: Annotated[str | None, Cli(metavar="SPDX"), AfterValidator(_licence)] = Field(
        None, description="Licence of the model in its card, such as cc-by-4.0. Default: not stated."
    )

    @model_validator(mode="after")
    def _has_a_file(self) -> ExportOptions:
        if self.output is None and self.onnx is None and self.bundle is None:
            hint = "give -o model.segtl, --onnx model.onnx or --bundle DIR"
            raise UserError("no output file is given", hint=hint)
        return self


class CardOptions(VerbosityOptions):
    """Options of :func:`seg_transfer.card`."""

    command = Command(
        "card",
        "Show an exported model's input, output, training data, scores and licence terms.",
        "Example: [bold]segtl card model.segtl[/]",
    )

    model: Annotated[Path, Cli(metavar="MODEL", argument=True, address="read")] = Field(description="Exported model.")
