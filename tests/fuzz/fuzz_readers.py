"""What reads each kind of a user's file, and valid files to start from. Only the child process imports it."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import tifffile
import torch
from made_scores import scores
from made_segmentations import segment, slicer
from PIL import Image as Pillow
from safetensors.torch import save_file

from seg_transfer.catalogue.encoders import ENCODERS
from seg_transfer.cli.app import commands, main
from seg_transfer.data.dataset import Dataset, find_dataset
from seg_transfer.data.image import read_image, read_label
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.evaluation.scores import Scores
from seg_transfer.exporting.load import load_model_file
from seg_transfer.network.build import blank_network
from seg_transfer.options.base import fields_of, flag_of
from seg_transfer.planning.evidence_record import Evidence
from seg_transfer.planning.examine import examine
from seg_transfer.planning.model_file import read_model_file
from seg_transfer.planning.plan import Plan, Weights
from seg_transfer.planning.rules.earlier_model import choose_member
from seg_transfer.preprocessing.store_record import store_data
from seg_transfer.training.checkpoint import load_header, load_state
from seg_transfer.training.manifest import Manifest
from seg_transfer.transfer import weights
from seg_transfer.transfer.carry import carry_over
from seg_transfer.transfer.encoder import Encoder
from seg_transfer.transfer.fetch import RECORD, check_beside
from seg_transfer.transfer.weights import load_weights
from seg_transfer.util.files import file_digest
from seg_transfer.workflow.choice import Choice
from seg_transfer.workflow.work_folder import WorkFolder

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "work"
NNUNET = Path(__file__).resolve().parents[1] / "nnunet"
RUN = GOLDEN / "trained" / "runs" / "2d-resnet18-scratch-7464bac6"
PLAN = Plan.load(GOLDEN / "trained" / "plan.json")
SEED = 0


class Failed(Exception):
    """The command ended with an exit code that no user's file may cause."""


def command(*arguments: str | Path) -> None:
    """Run a command; a user's error is raised as one, so that its text is checked."""
    code = main([str(argument) for argument in arguments])
    if code == 2:
        raise UserError("the command refused its input")
    if code == 3:
        raise SomeCasesFailed({}, of=1)
    if code:
        raise Failed(f"exit code {code}")


# What takes seconds at first and is the same for every input: a measurement, and building every encoder for a hint.
weights.ENCODERS = {name: ENCODERS[name] for name in ("resnet18", "resnet34")}


def plan(*arguments: str | Path) -> None:
    folder = Path("work")
    shutil.rmtree(folder, ignore_errors=True)
    command("plan", *arguments, "-w", folder, "--no-evidence", "--workers", "0", "--device", "cpu", "--memory", "1GB")


def import_nnunet(file: Path) -> None:
    """Plan with nnU-Net's plans beside a data set that they are for."""
    shutil.rmtree("work", ignore_errors=True)
    arguments = ("--raw", file.parent / "raw", "--workers", "0", "--device", "cpu", "--memory", "2GB")
    command("import-nnunet", file.parent, "-w", "work", *arguments)


def data_set(file: Path) -> None:
    """The data set whose description is ``file``, checked whole."""
    assert file.name == "dataset.json"
    problems = examine(find_dataset(file.parent, workers=0), workers=0).problems
    if problems:
        raise UserError(problems[0].what, where=problems[0].file, hint=problems[0].hint)


def volume(file: Path) -> None:
    """Every way to read an image file."""
    refused = None
    for read in (lambda path: read_image([path]), read_label):
        try:
            read(file)
        except UserError as error:
            refused = error
    if refused is not None:
        raise refused


def labels(file: Path) -> None:
    command("evaluate", file, file, "--workers", "0", "--json", "scores.json", "--csv", "scores.csv")


def shown_scores(file: Path) -> None:
    found = Scores.load(file)
    from seg_transfer.cli.show_scores import show_evaluate
    from seg_transfer.evaluation.report import save_csv
    from seg_transfer.options.other_options import EvaluateOptions

    show_evaluate(found, EvaluateOptions(predictions=file, reference=file))
    save_csv(found, Path("scores.csv"))
    found.save(Path("again.json"))


def encoder_weights(file: Path) -> None:
    load_weights(Encoder("resnet18", channels=3, stages=1), Weights(source="file", path=str(file)), "resnet18")


def carried(file: Path) -> None:
    """Start a new network, with two channels, from an exported model."""
    found = read_model_file(file)
    earlier = Weights(source="model", path=str(file), sha256=file_digest(file), carry="all")
    model = PLAN.model.model_copy(update={"weights": earlier})
    choose_member([member.plan.model.configuration for member in found.header.members], model.configuration)
    carry_over(blank_network(model, channels=2, classes=2), model)


def in_work_folder(file: Path) -> None:
    WorkFolder(file.parent).load_plan()


def option(file: Path) -> None:
    """A number that chooses command and option, a line break, and the value. Every input is missing."""
    number, _, value = file.read_bytes().decode("utf-8", "surrogatepass").partition("\n")
    name, flag = OPTIONS[int(number) % len(OPTIONS)]
    command(
        name, *(value if word == flag else word for word in COMMANDS[name]), *((flag, value) if flag[0] == "-" else ())
    )


COMMANDS = {
    "plan": ("DATASET",),
    "import-nnunet": ("FOLDER",),
    "preprocess": (),
    "probe": (),
    "train": ("FOLD",),
    "predict": ("-i", "missing", "-o", "output"),
    "evaluate": ("PREDICTIONS", "REFERENCE"),
    "summary": (),
    "export": ("-o", "output"),
    "card": ("MODEL",),
    "status": (),
}
"""Command -> its required arguments, which name no existing file."""
OPTIONS = [
    (entry.name, flag_of(kind, name))
    for entry, kind in commands()
    if entry.name in COMMANDS
    for name, field in fields_of(kind).items()
    if field.annotation is not bool
]


READERS: dict[str, Callable[[Path], None]] = {
    **dict.fromkeys(("a.nii", "a.nii.gz", "b.nii.gz", "a.mha", "b.mha"), volume),
    **dict.fromkeys(("a.mhd", "b.mhd", "a.nrrd", "b.nrrd"), volume),
    **dict.fromkeys(("a.png", "b.png", "a.jpg", "a.tif", "a.bmp", "a.gif"), volume),
    **dict.fromkeys(("pages.tif", "a.ome.tif", "imagej.tif"), volume),
    **dict.fromkeys(("v2/dataset.json", "msd/dataset.json", "regions/dataset.json", "listed/dataset.json"), data_set),
    "plans/v2/dataset.json": lambda file: plan(file.parent),
    "nnunet/nnUNetPlans.json": import_nnunet,
    "nnunet/splits_final.json": import_nnunet,
    "bids/derivatives/manual/dseg.tsv": lambda file: find_dataset(file.parents[2]),
    "label.nii.gz": labels,
    "label.png": labels,
    "label.seg.nrrd": labels,
    "work/plan.json": in_work_folder,
    "splits.json": lambda file: plan(GOLDEN / "data", "--splits", file),
    "groups.json": lambda file: plan(GOLDEN / "data", "--groups", file),
    "groups.csv": lambda file: plan(GOLDEN / "data", "--groups", file),
    "cases.txt": lambda file: plan(GOLDEN / "data", "--cases", file),
    "scores.json": shown_scores,
    "scores1.json": shown_scores,
    "manifest.json": Manifest.load,
    "choice.json": Choice.load,
    "evidence.json": Evidence.load,
    "record/dataset.json": Dataset.load,
    "plan-data.json": store_data,
    f"fetched/{RECORD}": lambda file: check_beside(file.with_name("resnet18.safetensors")),
    "model.segtl": load_model_file,
    "carried.segtl": carried,
    "model.safetensors": lambda file: load_state(file, "model"),
    "resume.safetensors": lambda file: load_header(file, "resume"),
    "card.segtl": lambda file: command("card", file),
    "a.safetensors": encoder_weights,
    "zip.pt": encoder_weights,
    "legacy.pt": encoder_weights,
    "pickle.pt": encoder_weights,
    "options.txt": option,
}


def make_inputs(folder: Path) -> None:
    """Write a valid file for every reader."""
    generator = np.random.default_rng(SEED)
    array = generator.integers(0, 3, (9, 8, 7)).astype(np.int16)
    _make_volumes(folder, array)
    _make_images(folder, array[..., 0].astype(np.uint8))
    _make_data_sets(folder)
    _make_records(folder)
    _make_weights(folder)
    shutil.copy(GOLDEN / "model.segtl", folder / "model.segtl")
    shutil.copy(GOLDEN / "model.segtl", folder / "card.segtl")
    shutil.copy(GOLDEN / "model.segtl", folder / "carried.segtl")
    shutil.copy(RUN / "fold_0" / "model.safetensors", folder)
    shutil.copy(RUN / "fold_0" / "resume.safetensors", folder)
    (folder / "options.txt").write_text("0\nmissing")


def _make_volumes(folder: Path, array: np.ndarray) -> None:
    affine = np.diag([-1.0, 2.0, 3.0, 1.0])
    scaled = nib.Nifti1Image(np.stack([array, array], -1), affine)
    scaled.header.set_slope_inter(0.5, -1)
    nib.save(nib.Nifti1Image(array, affine), folder / "a.nii")
    nib.save(nib.Nifti1Image(array, affine), folder / "a.nii.gz")
    nib.save(scaled, folder / "b.nii.gz")
    nib.save(nib.Nifti1Image(array.astype(np.uint8), affine), folder / "label.nii.gz")
    image = sitk.GetImageFromArray(array)
    packings = (
        ("a.mha", True),
        ("b.mha", False),
        ("a.mhd", True),
        ("b.mhd", False),
        ("a.nrrd", True),
        ("b.nrrd", False),
    )
    for name, packed in packings:
        sitk.WriteImage(image, str(folder / name), useCompression=packed)
    layers = np.stack([array == 1, array == 2]).astype(np.uint8)
    slicer(folder / "label.seg.nrrd", layers, [segment("liver", 1, 0), segment("tumour", 1, 1)])


def _make_images(folder: Path, array: np.ndarray) -> None:
    colour = Pillow.fromarray(np.dstack([array * 90] * 3))
    palette = Pillow.fromarray(array).convert("P")
    turned = colour.getexif()
    turned[0x0112] = 6
    palette.save(folder / "a.png")
    palette.save(folder / "a.gif")
    Pillow.fromarray(array.astype(np.uint16) * 300).save(folder / "b.png")
    Pillow.fromarray(array).save(folder / "label.png")
    colour.save(folder / "a.jpg", exif=turned)
    stack = np.stack([array, array + 1, array])
    sizes = {f"PhysicalSize{axis}": 0.5 for axis in "XYZ"}
    tifffile.imwrite(folder / "pages.tif", stack, photometric="minisblack", compression="zlib", metadata=None)
    tifffile.imwrite(folder / "a.ome.tif", stack, photometric="minisblack", metadata={"axes": "ZYX", **sizes})
    tifffile.imwrite(folder / "imagej.tif", stack, imagej=True, metadata={"axes": "ZYX", "unit": "um", "spacing": 2.0})
    colour.save(folder / "a.tif", compression="tiff_lzw", exif=turned)
    colour.save(folder / "a.bmp")


def _make_data_sets(folder: Path) -> None:
    labels = {"background": 0, "ball": 1}
    files = {"image": "./imagesTr/case_0_0000.nii.gz", "label": "./labelsTr/case_0.nii.gz"}
    described: dict[str, dict[str, Any]] = {
        "v2": {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz", "name": "made"},
        "plans/v2": {"channel_names": {"0": "MRI"}, "labels": labels | {"ignore": 2}, "file_ending": ".nii.gz"},
        "msd": {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "ball"}, "training": [files]},
        "regions": {
            "channel_names": {"0": "MRI"},
            "labels": {"background": 0, "whole": [1, 2], "core": 2},
            "regions_class_order": [1, 2],
        },
        "listed": {
            "channel_names": {"0": "MRI"},
            "labels": labels,
            "dataset": {"case": {"images": [files["image"]], "label": files["label"]}},
        },
    }
    for name, content in described.items():
        root = folder / name
        for part in ("imagesTr", "labelsTr"):
            shutil.copytree(GOLDEN / "data" / part, root / part)
        (root / "dataset.json").write_text(json.dumps(content))

    raw = folder / "nnunet" / "raw"
    shutil.copytree(folder / "v2", raw)
    shutil.copy(NNUNET / "Dataset902_Middle" / "nnUNetPlans.json", raw.parent)
    cases = [f"case_{number}" for number in range(4)]
    folds = [{"train": cases[1:], "val": cases[:1]}, {"train": cases[:3], "val": cases[3:]}]
    (raw.parent / "splits_final.json").write_text(json.dumps(folds))
    _make_bids(folder / "bids")


def _make_bids(root: Path) -> None:
    """Two subjects of one image and one label map, with a table of labels."""
    for case, subject in (("case_0", "sub-1"), ("case_1", "sub-2")):
        for source, target in (
            (f"imagesTr/{case}_0000.nii.gz", root / subject / "anat" / f"{subject}_T1w.nii.gz"),
            (f"labelsTr/{case}.nii.gz", root / "derivatives/manual" / subject / "anat" / f"{subject}_dseg.nii.gz"),
        ):
            target.parent.mkdir(parents=True)
            shutil.copy(GOLDEN / "data" / source, target)
    (root / "derivatives/manual/dseg.tsv").write_text("index\tname\n0\tBackground\n1\tball\n2\tcore\n")


def _make_records(folder: Path) -> None:
    for name in ("record", "work", "fetched"):
        (folder / name).mkdir()
    trained = GOLDEN / "trained"
    shutil.copy(trained / "plan.json", folder / "work" / "plan.json")
    shutil.copy(trained / "dataset.json", folder / "record" / "dataset.json")
    shutil.copy(trained / "choice.json", folder)
    shutil.copy(RUN / "fold_0" / "manifest.json", folder)
    shutil.copy(next(trained.glob("preprocessed/*/plan-data.json")), folder)
    cases = [f"case_{number}" for number in range(4)]
    (folder / "cases.txt").write_text("\n".join(cases))
    (folder / "groups.csv").write_text("".join(f"{case},p{number // 2}\n" for number, case in enumerate(cases)))
    (folder / "groups.json").write_text(json.dumps({case: f"p{number // 2}" for number, case in enumerate(cases)}))
    (folder / "splits.json").write_text(
        json.dumps([{"train": cases[:2], "val": cases[2:]}, {"train": cases[2:], "val": cases[:2]}])
    )
    found = scores({"one": 0.9, "two": float("nan")})
    found.save(folder / "scores.json")
    old = json.loads((folder / "scores.json").read_text())
    del old["digest"]  # else every change would be found by it alone
    (folder / "scores.json").write_text(json.dumps(old))
    for case in old["cases"].values():
        case["liver"] |= case["liver"].pop("metrics")
    (folder / "scores1.json").write_text(json.dumps(old | {"version": 1}))
    evidence = {"measured_on": "0", "cases": 2, "voxels": 9, "seconds": 1.0, "random": [], "gain": []}
    evidence["pretrained"] = [{"mean": 0.7, "error": None}]
    (folder / "evidence.json").write_text(json.dumps({"version": 1, "transfer": evidence}))
    (folder / "fetched" / "resnet18.safetensors").write_bytes(b"weights")
    (folder / "fetched" / RECORD).write_text(
        json.dumps({"resnet18.safetensors": {"sha256": hashlib.sha256(b"weights").hexdigest()}})
    )


def _make_weights(folder: Path) -> None:
    state = {
        name.split(".", 2)[2]: tensor.half()
        for name, tensor in Encoder("resnet18", channels=3, stages=1).state_dict().items()
    }
    wrapped = {"model": {"state_dict": state, "epoch": 3}, "args": Namespace(lr=0.1), "names": ["x", 1, None]}
    save_file(state, folder / "a.safetensors")
    torch.save(wrapped, folder / "zip.pt")
    torch.save(wrapped, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    (folder / "pickle.pt").write_bytes(pickle.dumps({"state_dict": {"conv1.weight": [1.0]}}, protocol=2))
