"""Small data sets in nnU-Net's raw layout, for which nnU-Net 2.8.1 itself wrote the files in ``tests/nnunet``.

``nnUNetv2_plan_and_preprocess -d 901 902 903`` wrote the plans, ``-pl nnUNetPlannerResEncM`` the one of residual
encoders. ``profiles.json`` has the means of nnU-Net's preprocessed array of case 2 along each axis.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

WRITTEN = Path(__file__).parent / "nnunet"
TRANSPOSED, MIDDLE, CELLS = "Dataset901_Transposed", "Dataset902_Middle", "Dataset903_Cells"
CASES = 6


def make_tree(folder: Path, name: str) -> Path:
    """Raw data and nnU-Net's files in the usual trees side by side; returns the folder of the plans."""
    {TRANSPOSED: _transposed, MIDDLE: _middle, CELLS: _cells}[name](folder / "nnUNet_raw" / name)
    planned = folder / "nnUNet_preprocessed" / name
    planned.mkdir(parents=True)
    for file in (WRITTEN / name).glob("*.json"):
        if file.name != "profiles.json":
            shutil.copyfile(file, planned / file.name)
    return planned


def _transposed(folder: Path) -> None:
    """Two channels and regions; the files' axes run to S, P and L, with 4 mm along the first one."""
    directions = np.array([[0, 0, -1], [0, -1, 0], [1, 0, 0]])
    labels = {"background": 0, "outer": [1, 2], "inner": 2}
    spacing = (4.0, 0.9, 0.8)
    _volumes(folder, ["CT", "MRI"], labels, (14, 40, 56), spacing, directions, regions_class_order=[1, 2])


def _middle(folder: Path) -> None:
    """Files in RAS with 3.5 mm along y, and an ignore label."""
    labels = {"background": 0, "outer": 1, "inner": 2, "ignore": 3}
    _volumes(folder, ["MRI"], labels, (48, 12, 60), (0.8, 3.5, 0.9), np.eye(3))


def _volumes(
    folder: Path,
    channels: list[str],
    labels: dict[str, object],
    size: tuple[int, int, int],
    spacing: tuple[float, float, float],
    directions: np.ndarray,
    **more: object,
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = directions @ np.diag(spacing)
    for number in range(CASES):
        generator = np.random.default_rng(number)
        shape = tuple(side + number % 3 for side in size)
        extent = min(np.array(shape) * spacing)
        centre = np.array(shape) / 2 + generator.uniform(-1, 1, 3)
        distance = np.sqrt(
            sum(((axis - c) * s) ** 2 for axis, c, s in zip(np.indices(shape), centre, spacing, strict=True))
        )
        classes = np.where(distance < 0.2 * extent, 2, np.where(distance < 0.4 * extent, 1, 0)).astype(np.uint8)
        for channel in range(len(channels)):
            voxels = 100 * classes.astype(float) + generator.normal(50, 10, shape) + 20 * channel
            _save(folder / "imagesTr" / f"case_{number}_{channel:04d}.nii.gz", voxels.astype(np.float32), affine)
        _save(folder / "labelsTr" / f"case_{number}.nii.gz", classes, affine)
    _describe(folder, channels, labels, ".nii.gz", **more)


def _cells(folder: Path) -> None:
    """2D images in three colours, of various heights."""
    for number in range(CASES):
        generator = np.random.default_rng(number)
        rows, columns = np.indices((90 + number, 130))
        classes = ((rows - 45) ** 2 + (columns - 60) ** 2 < 400).astype(np.uint8)
        colours = [100.0 * classes + generator.normal(60 + 10 * k, 10, classes.shape) for k in range(3)]
        for kind, name, pixels in (
            ("imagesTr", f"cell_{number}_0000.png", np.clip(np.stack(colours, axis=-1), 0, 255).astype(np.uint8)),
            ("labelsTr", f"cell_{number}.png", classes),
        ):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / name)
    _describe(folder, ["R", "G", "B"], {"background": 0, "cell": 1}, ".png")


def _save(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)


def _describe(folder: Path, channels: list[str], labels: dict[str, object], ending: str, **more: object) -> None:
    names = {str(number): name for number, name in enumerate(channels)}
    content = {"channel_names": names, "labels": labels, "numTraining": CASES, "file_ending": ending, **more}
    (folder / "dataset.json").write_text(json.dumps(content))


def make_model(folder: Path, name: str, configuration: str, patch: list[int], folds: Iterable[str] = ("0",)) -> Path:
    """A model folder as nnU-Net writes it, for a data set of ``WRITTEN``: a tiny network with random weights."""
    import torch
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    model = folder / name / f"nnUNetTrainer__nnUNetPlans__{configuration}"
    plans = json.loads((WRITTEN / name / "nnUNetPlans.json").read_text())
    chosen = plans["configurations"][configuration]
    chosen["patch_size"] = patch
    arguments = chosen["architecture"]["arch_kwargs"]
    same, half = [1] * len(patch), [1] * (len(patch) - 2) + [2, 2]
    arguments |= {"n_stages": 2, "features_per_stage": [4, 8], "kernel_sizes": [[3] * len(patch)] * 2}
    arguments |= {"strides": [same, half], "n_conv_per_stage": [1, 1], "n_conv_per_stage_decoder": [1]}
    model.mkdir(parents=True)
    (model / "plans.json").write_text(json.dumps(plans))
    description = json.loads((WRITTEN / name / "dataset.json").read_text())
    (model / "dataset.json").write_text(json.dumps(description))
    labels = (
        set(description["labels"]) - {"ignore"} - ({"background"} if "regions_class_order" in description else set())
    )
    given = {key: value for key, value in arguments.items() if key not in ("conv_op", "norm_op", "nonlin")}
    dimension = f"{len(patch)}d"
    layers = {"conv_op": f"Conv{dimension}", "norm_op": f"InstanceNorm{dimension}", "nonlin": "LeakyReLU"}
    for fold in folds:
        torch.manual_seed(len(fold) + sum(map(ord, fold)))
        network = PlainConvUNet(
            input_channels=len(description["channel_names"]),
            num_classes=len(labels),
            deep_supervision=True,
            **{key: getattr(torch.nn, layer) for key, layer in layers.items()},
            **given,
        )
        (model / f"fold_{fold}").mkdir()
        checkpoint = {
            "network_weights": network.state_dict(),
            "optimizer_state": torch.optim.SGD(network.parameters(), 0.01).state_dict(),
            "grad_scaler_state": None,
            "logging": {"train_losses": [np.float32(0.5), np.float64(0.4)], "curve": np.arange(3.0)},
            "_best_ema": np.float32(0.3),
            "init_args": {"configuration": configuration, "fold": fold, "device": torch.device("cpu")},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": tuple(range(len(patch))),
        }
        torch.save(checkpoint, model / f"fold_{fold}" / "checkpoint_final.pth")
    return model
