"""Models of nnU-Net predict as a plain computation of nnU-Net's steps does; what is not known is refused."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from made_nnunet import MIDDLE, TRANSPOSED, make_model, make_tree
from scipy import ndimage
from skimage.transform import resize

from seg_transfer.cli.app import main
from seg_transfer.data.nnunet import Intensities
from seg_transfer.nnunet.checkpoint import read_checkpoint
from seg_transfer.nnunet.model_folder import find_model
from seg_transfer.nnunet.normalize import SCHEMES
from seg_transfer.nnunet.predictor import NnunetPredictor
from seg_transfer.nnunet.resample import Resampling
from seg_transfer.nnunet.sliding_window import gaussian, tile_starts

PATCHES = {(TRANSPOSED, "3d_fullres"): [6, 16, 20], (MIDDLE, "3d_fullres"): [8, 20, 24], (MIDDLE, "2d"): [24, 16]}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One case of each data set, with a border of zeros and another spacing than the plans'."""
    folder = tmp_path_factory.mktemp("raw")
    for name in (TRANSPOSED, MIDDLE):
        make_tree(folder, name)
        images = folder / "nnUNet_raw" / name / "imagesTr"
        for path in sorted(images.iterdir()):
            if "case_0" not in path.name:
                path.unlink()
                continue
            image = nibabel.load(path)
            voxels = image.get_fdata(dtype=np.float32)
            voxels[:, :5] = voxels[:, :, -4:] = 0
            affine = image.affine @ np.diag([1.15, 1.25, 0.9, 1])
            nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return folder / "nnUNet_raw"


def plain_labels(model: Path, images: list[Path]) -> np.ndarray:
    """nnU-Net's steps one after the other, in float64 and with skimage; ``(k, j, i)`` as transposed back."""
    plans = json.loads((model / "plans.json").read_text())
    description = json.loads((model / "dataset.json").read_text())
    chosen = plans["configurations"][model.name.split("__")[2]]
    order = plans["transpose_forward"]
    files = [nibabel.load(path) for path in images]
    data = np.stack([np.asarray(file.dataobj, np.float64).transpose(2, 1, 0).transpose(order) for file in files])
    spacing = np.array(files[0].header.get_zooms(), float)[::-1][order]
    whole = data.shape[1:]
    inside = ndimage.binary_fill_holes((data != 0).any(axis=0))
    box = tuple(slice(axis.min(), axis.max() + 1) for axis in np.nonzero(inside))
    data = data[:, *box]
    for number, channel in enumerate(data):
        if chosen["normalization_schemes"][number] == "CTNormalization":
            figures = plans["foreground_intensity_properties_per_channel"][str(number)]
            clipped = channel.clip(figures["percentile_00_5"], figures["percentile_99_5"])
            data[number] = (clipped - figures["mean"]) / figures["std"]
        else:
            data[number] = (channel - channel.mean()) / channel.std()
    target = np.array([*spacing[: 3 - len(chosen["spacing"])], *chosen["spacing"]])
    cropped = data.shape[1:]
    shape = [round(was / wanted * size) for was, wanted, size in zip(spacing, target, cropped, strict=True)]
    assert tuple(shape) != cropped
    data = plain_resampled(data, shape, spacing, target, 3)
    total = np.mean([plain_logits(model, path, data) for path in sorted(model.glob("fold_*/*.pth"))], axis=0)
    total = plain_resampled(total, cropped, target, spacing, 1)
    labels = np.zeros(whole, int)
    if "regions_class_order" in description:
        for logits, value in zip(total, description["regions_class_order"], strict=True):
            labels[box][logits > 0] = value
    else:
        labels[box] = total.argmax(axis=0)
    return labels.transpose(np.argsort(order)).transpose(2, 1, 0)


def plain_resampled(data: np.ndarray, shape: list[int] | tuple[int, ...], before, after, order: int) -> np.ndarray:
    first = before if max(before) / min(before) > 3 else after
    if max(first) / min(first) <= 3:
        return np.stack([resize(each, shape, order, mode="edge", anti_aliasing=False) for each in data])
    assert np.argmax(first) == 0
    planes = np.stack(
        [[resize(plane, shape[1:], order, mode="edge", anti_aliasing=False) for plane in each] for each in data]
    )
    nearest = np.floor((np.arange(shape[0]) + 0.5) * data.shape[1] / shape[0]).astype(int)
    return planes[:, nearest]


def plain_logits(model: Path, checkpoint: Path, data: np.ndarray) -> np.ndarray:
    found = find_model(model, [checkpoint.parent.name.removeprefix("fold_")])
    (network,) = NnunetPredictor(found, "cpu", 10**9).networks
    patch = found.plans.configuration.patch_size
    window = (1,) * (3 - len(patch)) + tuple(patch)
    missing = [max(0, length - size) for length, size in zip(window, data.shape[1:], strict=True)]
    pads = [(gap // 2, gap - gap // 2) for gap in missing]
    padded = np.pad(data, [(0, 0), *pads])
    peak = np.zeros(patch)
    peak[tuple(length // 2 for length in patch)] = 1
    weight = ndimage.gaussian_filter(peak, np.array(patch) / 8, mode="constant").reshape(window)
    weight = np.maximum(weight / weight.max(), 1e-6)
    starts = []
    for size, length in zip(padded.shape[1:], window, strict=True):
        count = int(np.ceil((size - length) / (length / 2))) + 1
        starts.append([int(np.round(step)) for step in np.linspace(0, size - length, count)])
    sums, weights = 0, np.zeros(padded.shape[1:])
    flips = [
        flip for count in range(len(patch) + 1) for flip in itertools.combinations(range(2, 2 + len(patch)), count)
    ]
    for corner in itertools.product(*starts):
        part = tuple(slice(start, start + length) for start, length in zip(corner, window, strict=True))
        tile = torch.from_numpy(padded[:, *part].reshape(1, -1, *patch)).float()
        with torch.no_grad():
            mirrored = network(torch.cat([tile.flip(flip) for flip in flips])).split(1)
        mean = torch.stack([one.flip(flip) for one, flip in zip(mirrored, flips, strict=True)]).mean(dim=0)[0].numpy()
        if isinstance(sums, int):
            sums = np.zeros((len(mean), *padded.shape[1:]))
        sums[:, *part] += mean.reshape(-1, *window) * weight
        weights[part] += weight
    inside = tuple(slice(low, low + size) for (low, _), size in zip(pads, data.shape[1:], strict=True))
    return (sums / weights)[:, *inside]


@pytest.mark.parametrize(("name", "configuration"), PATCHES)
def test_label_maps_are_those_of_a_plain_computation(name: str, configuration: str, raw: Path, tmp_path: Path) -> None:
    """Both average two folds and mirrored windows, crop, transpose and resample; sums in float16 flip few voxels."""
    model = make_model(tmp_path, name, configuration, PATCHES[name, configuration], ["0", "2"])
    images = sorted((raw / name / "imagesTr").iterdir())
    out = tmp_path / "out"
    assert main(["predict", "--nnunet", str(model), "-i", str(images[0].parent), "-o", str(out)]) == 0
    (file,) = out.glob("*.nii.gz")
    predicted, expected = nibabel.load(file), plain_labels(model, images)
    np.testing.assert_allclose(predicted.affine, nibabel.load(images[0]).affine)
    labels = np.asarray(predicted.dataobj)
    assert len(np.unique(expected)) > 1
    assert np.count_nonzero(labels != expected) <= 0.002 * labels.size


def test_probabilities_belong_to_the_label_map(raw: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path, MIDDLE, "2d", PATCHES[MIDDLE, "2d"], ["all"])
    options = ["--nnunet", str(model), "-o", str(tmp_path / "out"), "--folds", "full", "--no-tta", "--probabilities"]
    assert main(["predict", "-i", str(raw / MIDDLE / "imagesTr"), *options]) == 0
    labels = np.asarray(nibabel.load(tmp_path / "out" / "case_0.nii.gz").dataobj)
    maps = nibabel.load(tmp_path / "out" / "probabilities" / "case_0.nii.gz").get_fdata()
    np.testing.assert_allclose(maps.sum(axis=-1), 1, atol=1e-3)
    chosen = np.take_along_axis(maps, labels[..., np.newaxis].astype(int), axis=-1)[..., 0]
    np.testing.assert_allclose(chosen, maps.max(axis=-1), atol=1e-3)
    recorded = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert recorded["label_maps"]["case_0.nii.gz"]["tta"] is False


def test_normalization_schemes() -> None:
    values = np.random.default_rng(0).uniform(0, 200, (4, 5, 6)).astype(np.float32)
    mask = values > 50
    figures = Intensities(mean=80, std=20, percentile_00_5=30, percentile_99_5=150)
    expected = {
        "ZScoreNormalization": np.where(mask, (values - values[mask].mean()) / values[mask].std(), values),
        "CTNormalization": (values.clip(30, 150) - 80) / 20,
        "NoNormalization": values,
        "RescaleTo01Normalization": (values - values.min()) / (values.max() - values.min()),
        "RGBTo01Normalization": values / 255,
    }
    assert expected.keys() == SCHEMES.keys()
    for name, wanted in expected.items():
        found = values.copy()
        SCHEMES[name](found, mask, figures)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5, err_msg=name)


def test_slices_far_apart_are_resampled_one_by_one() -> None:
    settings = Resampling(force_separate_z=None)
    assert settings.slice_axis((1, 1, 3.1), (1, 1, 1)) == 2
    assert settings.slice_axis((1, 1, 3), (1, 1, 1)) is None
    assert settings.slice_axis((1, 1, 1), (1, 4, 1)) == 1
    assert settings.slice_axis((0.3, 1, 1), (1, 1, 1)) is None, "two axes are equally coarse"
    assert Resampling(force_separate_z=False).slice_axis((1, 1, 9), (1, 1, 9)) is None


def test_windows_are_nnunets() -> None:
    assert tile_starts(110, 64) == [0, 23, 46]
    assert tile_starts(64, 64) == [0]
    assert tile_starts(21, 64) == [-21]
    weight = gaussian([40, 56])
    assert weight.dtype == torch.half
    assert (weight[20, 28], weight.min() > 0) == (10, True)


def of_plans(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(model: Path) -> None:
        plans = json.loads((model / "plans.json").read_text())
        change(plans["configurations"]["2d"])
        (model / "plans.json").write_text(json.dumps(plans))

    return damage


def of_checkpoint(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(model: Path) -> None:
        path = model / "fold_0" / "checkpoint_final.pth"
        content = torch.load(path, weights_only=False)
        change(content)
        torch.save(content, path)

    return damage


class Hostile:
    """Makes a folder when it is read as a pickle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def cut(model: Path) -> None:
    path = model / "fold_0" / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes()[:3000])


WRONG = {
    "foreign network": (
        of_plans(lambda c: c["architecture"].update(network_class_name="antigravity.Network")),
        "the network is 'antigravity.Network'; these are known: PlainConvUNet, ResidualEncoderUNet",
    ),
    "foreign layer": (
        of_plans(lambda c: c["architecture"]["arch_kwargs"].update(nonlin="os.system")),
        "layers 'os.system'; these are known",
    ),
    "unknown argument": (
        of_plans(lambda c: c["architecture"]["arch_kwargs"].update(block="os.system")),
        "arch_kwargs.block: unknown field",
    ),
    "absurd size": (
        of_plans(lambda c: c["architecture"]["arch_kwargs"].update(features_per_stage=[4, 10**9])),
        "features_per_stage.1",
    ),
    "contradicting sizes": (
        of_plans(lambda c: c["architecture"]["arch_kwargs"].update(n_conv_per_stage=[1])),
        "the network cannot be built",
    ),
    "old plans": (of_plans(lambda c: c.pop("architecture")), "the plans have no architecture"),
    "other preprocessor": (of_plans(lambda c: c.update(preprocessor_name="Mine")), "the preprocessor is 'Mine'"),
    "other resampling": (of_plans(lambda c: c.update(resampling_fn_data="mine")), "the images are resampled by 'mine'"),
    "other normalization": (
        of_plans(lambda c: c.update(normalization_schemes=["Mine"])),
        "channel 0 is normalized by 'Mine'",
    ),
    "cascade": (of_plans(lambda c: c.update(previous_stage="3d_lowres")), "second stage of a cascade"),
    "no fold": (lambda model: shutil.rmtree(model / "fold_0"), "there is no fold_X/checkpoint_final.pth"),
    "cut file": (cut, "not readable as weights"),
    "no checkpoint": (of_checkpoint(lambda c: c.pop("network_weights")), "no checkpoint of nnU-Net v2"),
    "other configuration": (
        of_checkpoint(lambda c: c["init_args"].update(configuration="3d_lowres")),
        "trained as 3d_lowres, and its folder is named after 2d",
    ),
    "other weights": (
        of_checkpoint(lambda c: c["network_weights"].popitem()),
        "its weights do not fit the network of the plans",
    ),
    "mirrored axis": (
        of_checkpoint(lambda c: c.update(inference_allowed_mirroring_axes=(0, 2))),
        "it mirrors axis 2 of 2",
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one fold."""
    return make_model(tmp_path_factory.mktemp("model"), MIDDLE, "2d", PATCHES[MIDDLE, "2d"])


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(whole, tmp_path / "Dataset" / whole.name)


def refused(model: Path, raw: Path, out: Path, *options: str, images: str = MIDDLE) -> int:
    """The exit code; nothing is written."""
    code = main(["predict", "--nnunet", str(model), "-i", str(raw / images / "imagesTr"), "-o", str(out), *options])
    assert not list(out.glob("**/*.nii.gz"))
    return code


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_not_known_is_refused(
    kind: str, model: Path, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = WRONG[kind]
    damage(model)
    assert refused(model, raw, tmp_path / "out") == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_no_code_of_a_checkpoint_is_run(
    model: Path, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = tmp_path / "ran"
    of_checkpoint(lambda content: content.update(logging=Hostile(ran)))(model)
    assert refused(model, raw, tmp_path / "out") == 2
    assert "without running code that the file names: it holds posix.mkdir" in " ".join(capsys.readouterr().err.split())
    assert not ran.exists()


def test_numbers_of_numpy_are_read_without_numpy(whole: Path) -> None:
    checkpoint = read_checkpoint(whole / "fold_0" / "checkpoint_final.pth")
    assert (checkpoint.configuration, checkpoint.mirror_axes) == ("2d", (0, 1))
    assert all(isinstance(tensor, torch.Tensor) for tensor in checkpoint.weights.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds", "0,3"], "there is no fold_3/checkpoint_final.pth"),
        (["--uncertainty"], "a model of nnU-Net excludes --uncertainty"),
        (["-m", "m.segtl", "-w", "work"], "exclude"),
        (["--memory", "1KB"], "1.0 KB are allowed"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: list[str], message: str, whole: Path, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(whole, raw, tmp_path / "out", *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_images_with_other_channels_are_refused(
    whole: Path, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(whole, raw, tmp_path / "out", images=TRANSPOSED) == 2
    assert "channel" in capsys.readouterr().err


def test_neighbours_of_a_model_folder_are_told(
    whole: Path, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(whole.parent, raw, tmp_path / "out") == 2
    assert "this is the folder of 1 model(s)" in " ".join(capsys.readouterr().err.split())
    assert refused(whole / "fold_0", raw, tmp_path / "out") == 2
    assert "this is a single fold" in " ".join(capsys.readouterr().err.split())
    assert refused(shutil.copytree(whole, tmp_path / "renamed"), raw, tmp_path / "out") == 2
    assert "its name is not TRAINER__PLANS__CONFIGURATION" in " ".join(capsys.readouterr().err.split())
