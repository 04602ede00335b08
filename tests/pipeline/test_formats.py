"""Formats through the commands, with a trained model of the golden work folder."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import zarr

import seg_transfer
from seg_transfer.data.formats import read_array, stored_in, write_volume
from seg_transfer.data.geometry import Grid
from seg_transfer.errors import UserError
from seg_transfer.inference import one_case

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "work"
MODEL = {"model": GOLDEN / "model.segtl", "device": "cpu", "workers": 0}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray]:
    """Image ``(i, j, k)`` of a golden case along x, y and z, and its label map from NIfTI."""
    folder = tmp_path_factory.mktemp("nifti")
    source = nib.load(GOLDEN / "data" / "imagesTr" / "case_0_0000.nii.gz")
    array = np.ascontiguousarray(np.asanyarray(source.dataobj)[::-1])
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), folder / "a.nii.gz")
    made = seg_transfer.predict(folder / "a.nii.gz", folder / "out.nii.gz", **MODEL)
    labels = np.asanyarray(nib.load(made).dataobj)
    assert labels.any()
    return array, labels


def test_ome_tiff_in_and_out(tmp_path: Path, expected: tuple[np.ndarray, np.ndarray]) -> None:
    array, labels = expected
    sizes = {"PhysicalSizeX": 1.0, "PhysicalSizeY": 1.0, "PhysicalSizeZ": 2.0}
    units = {f"PhysicalSize{axis}Unit": "mm" for axis in "XYZ"}
    (tmp_path / "in").mkdir()
    metadata = {"axes": "ZYX", **sizes, **units}
    tifffile.imwrite(tmp_path / "in/a.ome.tif", array.T, photometric="minisblack", metadata=metadata)
    seg_transfer.predict(tmp_path / "in", tmp_path / "out", uncertainty=True, **MODEL)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out/a.ome.tif"), labels.T)
    assert tifffile.imread(tmp_path / "out/uncertainty/a.ome.tif").shape == labels.T.shape
    seg_transfer.predict(tmp_path / "in", tmp_path / "one/seg.nii.gz", **MODEL)
    np.testing.assert_array_equal(nib.load(tmp_path / "one/seg.nii.gz").dataobj, labels)
    assert seg_transfer.evaluate(tmp_path / "one/seg.nii.gz", tmp_path / "out/a.ome.tif", workers=0).mean_dice == 1


def test_ome_zarr_in_and_out(
    tmp_path: Path, expected: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    array, labels = expected
    grid = Grid(labels.shape, np.diag([1.0, 1.0, 2.0, 1.0]))
    write_volume(tmp_path / "in/a.ome.zarr", array, grid)
    monkeypatch.setattr(one_case, "read_image", None)  # it is never read as a whole
    seg_transfer.predict(tmp_path / "in", tmp_path / "out", **MODEL)
    found = tmp_path / "out/a.ome.zarr"
    np.testing.assert_array_equal(zarr.open_group(found)["0"][:].T, labels)
    assert zarr.open_group(found).attrs["ome"]["image-label"]["properties"] == [{"label-value": 1, "name": "ball"}]
    record = (tmp_path / "out/predictions.json").read_bytes()
    made = found.stat().st_ino
    seg_transfer.predict(tmp_path / "in", tmp_path / "out", **MODEL)
    assert (found.stat().st_ino, (tmp_path / "out/predictions.json").read_bytes()) == (made, record), "it is skipped"
    write_volume(tmp_path / "in/a.ome.zarr", array[::-1], grid)
    seg_transfer.predict(tmp_path / "in", tmp_path / "out", volumes=tmp_path / "volumes.csv", **MODEL)
    assert (labels != zarr.open_group(found)["0"][:].T).any()
    monkeypatch.undo()
    seg_transfer.predict(tmp_path / "in/a.ome.zarr", tmp_path / "one/seg.nii.gz", **MODEL)
    np.testing.assert_array_equal(nib.load(tmp_path / "one/seg.nii.gz").dataobj, zarr.open_group(found)["0"][:].T)
    seg_transfer.predict(tmp_path / "in/a.ome.zarr", tmp_path / "one/seg.zarr", probabilities=True, **MODEL)
    assert seg_transfer.evaluate(tmp_path / "one/seg.nii.gz", tmp_path / "one/seg.zarr", workers=0).mean_dice == 1
    assert seg_transfer.evaluate(tmp_path / "out", tmp_path / "out", workers=0).mean_dice == 1
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(UserError, match="not a format for volumes"):
        seg_transfer.predict(tmp_path / "a.nii.gz", tmp_path / "seg.ome.zarr", **MODEL)


def test_a_data_set_of_ome_zarr(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for number in range(3):
        values = np.random.default_rng(number).normal(100, 20, (14, 12, 10)).astype(np.uint16)
        label = np.zeros(values.shape, np.uint8)
        label[4:9, 3:8, 3:7] = 1
        grid = Grid(label.shape, np.diag([0.001, 0.001, 0.002, 1.0]))
        write_volume(data / f"images/case_{number}.ome.zarr", values + 100 * label, grid)
        write_volume(data / f"labels/case_{number}.ome.zarr", label, grid)
    (data / "images/notes").mkdir()
    work = tmp_path / "work"
    planned = seg_transfer.plan(data, work=work, workers=0, device="cpu", encoder="resnet18", evidence=False)
    assert planned.data.cases == ("case_0", "case_1", "case_2")
    assert planned.data.spacing[0] == 0.002 and planned.data.unit == "mm"
    stored = seg_transfer.preprocess(work=work, workers=0)
    times = {case: (stored / case / "case.json").stat().st_mtime_ns for case in planned.data.cases}
    write_volume(data / "images/case_1.ome.zarr", values, grid)
    seg_transfer.preprocess(work=work, workers=0)
    changed = [case for case, time in times.items() if (stored / case / "case.json").stat().st_mtime_ns != time]
    assert changed == ["case_1"]
    seg_transfer.check(data, fix=tmp_path / "fixed", workers=0)
    np.testing.assert_array_equal(read_array(tmp_path / "fixed/images/case_1.ome.zarr", label=False)[0][0], values)


def test_a_volume_is_not_written_without_its_place(tmp_path: Path, expected: tuple[np.ndarray, np.ndarray]) -> None:
    nib.save(nib.Nifti1Image(expected[0], np.eye(4)), tmp_path / "a.nii.gz")
    for name in ("seg.tif", "seg.ome.tif", "seg.png"):
        with pytest.raises(UserError, match="not a format for volumes"):
            seg_transfer.predict(tmp_path / "a.nii.gz", tmp_path / name, **MODEL)


def test_header_and_voxels_in_and_one_file_out(tmp_path: Path, expected: tuple[np.ndarray, np.ndarray]) -> None:
    array, labels = expected
    (tmp_path / "in").mkdir()
    image = sitk.GetImageFromArray(array.T)
    image.SetSpacing((1.0, 1.0, 2.0))
    image.SetDirection((-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
    sitk.WriteImage(image, str(tmp_path / "in/a.mhd"))
    seg_transfer.predict(tmp_path / "in", tmp_path / "out", **MODEL)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out/a.mhd"))).T, labels)
    voxels = stored_in(tmp_path / "in/a.mhd")[1]
    voxels.write_bytes(voxels.read_bytes()[::-1])  # the same header, other voxels
    seg_transfer.predict(tmp_path / "in", tmp_path / "out", **MODEL)
    assert (labels != sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out/a.mhd"))).T).any()


def test_label_maps_for_3d_slicer(tmp_path: Path, expected: tuple[np.ndarray, np.ndarray]) -> None:
    array, labels = expected
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / "in/a.nii.gz")
    options = {**MODEL, "format": "seg.nrrd", "uncertainty": True, "pictures": True}
    seg_transfer.predict(tmp_path / "in", tmp_path / "out", volumes=tmp_path / "volumes.csv", **options)
    assert (tmp_path / "out/uncertainty/a.nrrd").is_file() and (tmp_path / "out/overlays/a.png").is_file()
    image = sitk.ReadImage(str(tmp_path / "out/a.seg.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, labels)
    assert image.GetMetaData("Segment0_Name") == "ball"
    assert f"a,ball,{np.count_nonzero(labels)}," in (tmp_path / "volumes.csv").read_text()
    with pytest.raises(UserError, match="not a format for volumes such as"):
        seg_transfer.predict(tmp_path / "in", tmp_path / "other", **{**options, "format": "png"})
    with pytest.raises(UserError, match="the ending of the output file is its format"):
        seg_transfer.predict(tmp_path / "in", tmp_path / "x.nii.gz", **options)


def test_channels_of_a_4d_nifti_are_those_that_are_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    label = np.zeros((12, 12, 6), np.uint8)
    label[3:8, 3:8, 2:4] = 1
    training = []
    for number in range(2):
        image = np.random.default_rng(number).normal(0, 1, (*label.shape, 2)).astype(np.float32)
        for folder, array in (("imagesTr", image), ("labelsTr", label)):
            (data / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), data / folder / f"case_{number}.nii.gz")
        training.append({"image": f"./imagesTr/case_{number}.nii.gz", "label": f"./labelsTr/case_{number}.nii.gz"})
    description = {"labels": {"0": "background", "1": "ball"}, "training": training}
    for names in ({"0": "T1", "1": "T2"}, {"0": "T1"}):
        (data / "dataset.json").write_text(json.dumps(description | {"modality": names}))
        if len(names) == 2:
            planned = seg_transfer.plan(data, work=tmp_path / "work", workers=0, device="cpu")
            assert [channel.name for channel in planned.data.channels] == ["T1", "T2"]
        else:
            with pytest.raises(UserError, match=r"the case has 2 channel\(s\), but the data set names 1"):
                seg_transfer.plan(data, work=tmp_path / "series", workers=0, device="cpu")
