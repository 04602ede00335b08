from __future__ import annotations

import gzip
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Pillow

from seg_transfer.data.formats import ENDINGS, ending, read_header, stem, write_volume
from seg_transfer.data.geometry import Grid, grid_difference, to_native
from seg_transfer.data.image import Image, filled, image_from_array, read_image, read_label
from seg_transfer.errors import UserError

SHAPE = (5, 4, 3)
ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))


def oblique(spacing=(1.0, 2.0, 3.5), degrees=(12.0, -8.0, 20.0), origin=(-30.0, 14.5, 7.25)) -> np.ndarray:
    """A rotated affine whose axes stay closest to x, y, z."""
    rotation = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        turn = np.eye(3)
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing
    affine[:3, 3] = origin
    return affine


def stored(array: np.ndarray, affine: np.ndarray, order, signs) -> tuple[np.ndarray, np.ndarray]:
    """The same volume in the world, with its axes permuted and flipped."""
    turned = array.transpose(order)
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for new, old in enumerate(order):
        change[old, new] = signs[new]
        if signs[new] < 0:
            change[old, 3] = array.shape[old] - 1
            turned = np.flip(turned, new)
    return turned, affine @ change


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4000, SHAPE).astype(np.int16)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_every_orientation_reads_the_same_and_writes_back_exactly(tmp_path: Path, volume: np.ndarray, dtype) -> None:
    affine = oblique().astype(np.float32).astype(np.float64)
    volume = volume.astype(dtype) + (0.37 if dtype == np.float32 else 0)
    volume = volume.astype(dtype)
    assert len(ORIENTATIONS) == 48
    for number, (order, signs) in enumerate(ORIENTATIONS):
        array, its_affine = stored(volume, affine, order, signs)
        path = tmp_path / f"{number}.nii"
        nib.save(nib.Nifti1Image(array, its_affine), path)

        image = read_image([path])
        np.testing.assert_array_equal(image.array[0], volume)
        np.testing.assert_allclose(image.affine, affine, atol=1e-4)
        assert image.dtype == dtype
        assert image.native.shape == array.shape

        back = tmp_path / "back.nii.gz"
        write_volume(back, to_native(image.array, image.native)[0].astype(dtype), image.native)
        again = nib.load(back)
        assert again.get_data_dtype() == dtype
        np.testing.assert_array_equal(np.asanyarray(again.dataobj), array)
        np.testing.assert_array_equal(again.affine, image.native.affine)
        np.testing.assert_allclose(again.get_qform(), its_affine, atol=1e-3)
        assert again.header.get_xyzt_units() == nib.load(path).header.get_xyzt_units()


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize("orientation", [0, 9, 22, 47])
def test_itk_formats_agree_with_nifti_in_the_world(tmp_path: Path, volume, suffix: str, orientation: int) -> None:
    array, affine = stored(volume, oblique(), *ORIENTATIONS[orientation])
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "a.nii.gz")
    # SimpleITK's own reader and writer are the reference for what LPS means.
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")), str(tmp_path / f"a{suffix}"))

    one, other = read_image([tmp_path / "a.nii.gz"]), read_image([tmp_path / f"a{suffix}"])
    np.testing.assert_array_equal(one.array, other.array)
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-4)
    assert one.dtype == other.dtype == np.int16
    assert grid_difference(one.native, other.native) is None

    write_volume(tmp_path / f"back{suffix}", to_native(other.array, other.native)[0], other.native)
    back = sitk.ReadImage(str(tmp_path / f"back{suffix}"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back).transpose(2, 1, 0), array)
    for index in [(0, 0, 0), (2, 1, 1)]:
        point = np.array(back.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
        np.testing.assert_allclose(point, (affine @ (*index, 1))[:3], atol=1e-4)


def test_nifti_is_read_as_the_standard_says(tmp_path: Path, volume: np.ndarray) -> None:
    image = read_image([_nifti(tmp_path / "a.nii", volume, np.diag([2.0, 3.0, 4.0, 1.0]))])
    assert image.spacing == (2.0, 3.0, 4.0)
    assert image.unit == "mm"

    only_qform = nib.Nifti1Image(volume, None)
    only_qform.set_qform(oblique(), code=1)
    nib.save(only_qform, tmp_path / "q.nii")
    np.testing.assert_allclose(read_header(tmp_path / "q.nii").affine, oblique(), atol=1e-5)

    neither = nib.Nifti1Image(volume, None)
    neither.header.set_zooms((1.5, 1.5, 5.0))
    neither.header["sform_code"] = neither.header["qform_code"] = 0
    nib.save(neither, tmp_path / "n.nii")
    np.testing.assert_array_equal(read_header(tmp_path / "n.nii").affine, np.diag([1.5, 1.5, 5.0, 1.0]))
    np.testing.assert_array_equal(read_image([tmp_path / "n.nii"]).array[0], volume)


def test_scaled_integers_count_as_float(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.float32).reshape(SHAPE) / 7, np.eye(4))
    image.set_data_dtype(np.uint8)
    nib.save(image, tmp_path / "a.nii")
    read = read_image([tmp_path / "a.nii"])
    assert read.dtype == np.float32
    np.testing.assert_allclose(read.array.max(), 59 / 7, rtol=1e-2)


def test_four_dimensions_and_several_files_are_channels(tmp_path: Path, volume: np.ndarray) -> None:
    both = np.stack([volume, volume[::-1]], axis=-1)
    path = _nifti(tmp_path / "four.nii.gz", both, oblique())
    header = read_header(path)
    assert (header.shape, header.channels, header.dtype) == (SHAPE, 2, np.int16)
    four = read_image([path])
    assert four.array.shape == (2, *SHAPE)
    np.testing.assert_array_equal(four.array[1], volume[::-1])

    turned, affine = stored(volume[::-1], oblique(), (2, 0, 1), (-1, 1, -1))
    files = [_nifti(tmp_path / "0.nii", volume, oblique()), _nifti(tmp_path / "1.nii", turned, affine)]
    np.testing.assert_array_equal(read_image(files).array, four.array)

    write_volume(tmp_path / "w.nii.gz", four.array, four.native)
    np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / "w.nii.gz").dataobj), both)
    write_volume(tmp_path / "w.nrrd", four.array, four.native)
    np.testing.assert_array_equal(read_image([tmp_path / "w.nrrd"]).array, four.array)
    assert read_header(tmp_path / "w.nrrd").channels == 2


def test_channels_on_different_grids_are_refused(tmp_path: Path, volume: np.ndarray) -> None:
    moved = oblique(origin=(-30.0, 14.5, 8.0))
    files = [_nifti(tmp_path / "0.nii", volume, oblique()), _nifti(tmp_path / "1.nii", volume, moved)]
    with pytest.raises(
        UserError, match=r"1\.nii: does not lie on the grid of 0\.nii: its corners lie up to 0\.\d+ vox"
    ):
        read_image(files)


def test_grid_tolerance_is_a_hundredth_of_a_voxel() -> None:
    grid = Grid((100, 100, 20), np.diag([0.5, 0.5, 4.0, 1.0]))
    for offset, same in [(0.0049, True), (0.0051, False)]:
        affine = grid.affine.copy()
        affine[0, 3] = offset
        assert (grid_difference(grid, Grid(grid.shape, affine)) is None) == same
    assert "spacing" in (grid_difference(grid, Grid(grid.shape, np.diag([0.5, 0.6, 4.0, 1.0]))) or "")
    assert grid_difference(grid, Grid((100, 99, 20), grid.affine)) == (
        "its shape is 100 x 99 x 20 (x, y, z), not 100 x 100 x 20"
    )


def test_orientation_names() -> None:
    assert Grid(SHAPE, np.diag([-1.0, -1.0, 1.0, 1.0])).orientation == "LPS"
    assert Grid(SHAPE, oblique()).orientation == "RAS"


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_rgb_2d_images(tmp_path: Path, suffix: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    path = tmp_path / f"a{suffix}"
    Pillow.fromarray(pixels).save(path)
    image = read_image([path])
    assert image.array.shape == (3, 9, 6, 1)
    assert image.array.dtype == np.uint8
    assert (image.dtype, image.unit, image.spacing) == (np.uint8, "pixel", (1.0, 1.0, 1.0))
    assert image.array[2, 7, 4, 0] == pixels[4, 7, 2]
    header = read_header(path)
    assert (header.shape, header.channels, header.dtype) == ((9, 6, 1), 3, np.uint8)

    label = np.random.default_rng(2).integers(0, 3, (6, 9), dtype=np.uint8)
    write_volume(path, to_native(label.T[..., np.newaxis], image.native), image.native)
    np.testing.assert_array_equal(np.asarray(Pillow.open(path)), label)


def test_2d_image_modes(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    wide = grey.astype(np.uint16) * 5000
    Pillow.fromarray(grey).save(tmp_path / "grey.png")
    Pillow.fromarray(wide).save(tmp_path / "wide.png")
    Pillow.fromarray(np.dstack([grey, grey, grey, grey * 0 + 255])).save(tmp_path / "rgba.png")
    palette = Pillow.fromarray(grey % 3).convert("P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0] + [0] * 759)
    palette.save(tmp_path / "palette.png")
    Pillow.fromarray(grey > 5).save(tmp_path / "binary.png")

    assert read_image([tmp_path / "grey.png"]).array[0, 3, 2, 0] == 11
    assert read_image([tmp_path / "wide.png"]).array.max() == 55000
    assert read_header(tmp_path / "wide.png").dtype == read_image([tmp_path / "wide.png"]).dtype == np.uint16
    assert read_image([tmp_path / "rgba.png"]).array.shape == (3, 4, 3, 1)
    assert read_image([tmp_path / "palette.png"]).array[:, 1, 0, 0].tolist() == [255, 0, 0]
    np.testing.assert_array_equal(read_label(tmp_path / "palette.png").array[0, ..., 0].T, grey % 3)
    np.testing.assert_array_equal(read_label(tmp_path / "binary.png").array[0, ..., 0].T, grey > 5)
    np.testing.assert_array_equal(read_label(tmp_path / "rgba.png").array[0, ..., 0].T, grey)


def test_labels_that_are_no_labels(tmp_path: Path, volume: np.ndarray) -> None:
    half = (volume % 3).astype(np.float32)
    assert read_label(_nifti(tmp_path / "whole.nii", half, np.eye(4))).array.dtype == np.int32
    half[1, 1, 1] = 1.5
    with pytest.raises(UserError, match=r"whole numbers, but 1\.5 occurs \(1 such"):
        read_label(_nifti(tmp_path / "half.nii", half, np.eye(4)))
    half[1, 1, 1] = np.nan
    with pytest.raises(UserError, match="whole numbers, but nan occurs"):
        read_label(_nifti(tmp_path / "nan.nii", half, np.eye(4)))
    with pytest.raises(UserError, match="1 channel, not 2"):
        read_label(_nifti(tmp_path / "two.nii", np.stack([volume, volume], -1), np.eye(4)))
    colour = np.zeros((4, 4, 3), np.uint8)
    colour[1, 2] = (1, 2, 3)
    Pillow.fromarray(colour).save(tmp_path / "colour.png")
    with pytest.raises(UserError, match="colour image"):
        read_label(tmp_path / "colour.png")
    Pillow.fromarray(colour).save(tmp_path / "label.jpg")
    with pytest.raises(UserError, match="JPEG"):
        read_label(tmp_path / "label.jpg")


def test_label_keeps_its_integer_type(tmp_path: Path, volume: np.ndarray) -> None:
    label = read_label(_nifti(tmp_path / "a.nii.gz", (volume % 4).astype(np.uint16), oblique()))
    assert label.array.dtype == label.dtype == np.uint16
    np.testing.assert_array_equal(label.array[0], volume % 4)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd", ".png"])
def test_broken_files_are_named(tmp_path: Path, volume: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"whole{suffix}"
    if suffix == ".png":
        Pillow.fromarray(volume[:, :, 0].astype(np.uint8)).save(path)
    else:
        write_volume(path, volume, Grid(SHAPE, oblique()))
    content = path.read_bytes()
    broken = tmp_path / f"broken{suffix}"
    broken.write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(UserError, match=rf"broken{suffix}: cannot be read"):
        read_image([broken])
    broken.write_bytes(b"this is no image")
    with pytest.raises(UserError, match="cannot be read"):
        read_header(broken)
    with pytest.raises(UserError, match="there is no such file"):
        read_image([tmp_path / f"absent{suffix}"])


def test_singular_affine_is_refused(tmp_path: Path, volume: np.ndarray) -> None:
    image = nib.Nifti1Image(volume, np.eye(4))
    image.header["srow_z"] = 0
    image.header["sform_code"] = 1
    nib.save(image, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[312:328] = bytes(16)  # srow_z, which nibabel itself will not write as zeros
    (tmp_path / "a.nii").write_bytes(raw)
    with pytest.raises(UserError, match="singular"):
        read_image([tmp_path / "a.nii"])


def test_flat_volumes_stay_flat(tmp_path: Path, volume: np.ndarray) -> None:
    affine = np.diag([0.5, 0.7, 1.0, 1.0])
    _nifti(tmp_path / "a.nii.gz", volume[:, :, 0], affine)
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")), str(tmp_path / "a.mha"))
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")), str(tmp_path / "b.nii.gz"))
    for name in ("a.nii.gz", "b.nii.gz", "a.mha"):
        image = read_image([tmp_path / name])
        assert image.array.shape == (1, 5, 4, 1)
        np.testing.assert_allclose(image.spacing[:2], (0.5, 0.7), rtol=1e-6)
        assert image.unit == "mm"
        write_volume(tmp_path / f"back-{name}", to_native(image.array, image.native)[0], image.native)
        back = sitk.ReadImage(str(tmp_path / f"back-{name}"))
        assert back.GetSize() == (5, 4)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(back).T, volume[:, :, 0])


def test_writing_is_whole_or_not_at_all(tmp_path: Path, volume: np.ndarray) -> None:
    target = tmp_path / "a.png"
    with pytest.raises(TypeError):
        write_volume(target, np.zeros((4, 4, 1), np.complex64), Grid((4, 4, 1), np.eye(4), "pixel"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="JPEG"):
        write_volume(tmp_path / "a.jpg", volume[..., :1], Grid((5, 4, 1), np.eye(4), "pixel"))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
@pytest.mark.parametrize(
    ("stored", "image", "label"),
    [
        (np.uint8, np.uint8, np.uint8),
        (np.int16, np.int16, np.int16),
        (np.int32, np.float32, np.int32),
        (np.int64, np.float32, np.int32),
        (np.float64, np.float32, np.int32),
    ],
)
def test_types_in_memory(tmp_path: Path, suffix: str, stored: type, image: type, label: type) -> None:
    """Small integers stay as they are, nothing takes more than four bytes."""
    values = np.random.default_rng(0).integers(0, 100, SHAPE).astype(stored)
    native = Grid(SHAPE, oblique())
    write_volume(tmp_path / f"a{suffix}", values, native)
    read, as_label = read_image([tmp_path / f"a{suffix}"]), read_label(tmp_path / f"a{suffix}")
    assert (read.array.dtype, read.dtype, as_label.array.dtype) == (image, stored, label)
    np.testing.assert_array_equal(to_native(read.array[0], read.native), values)
    np.testing.assert_array_equal(to_native(as_label.array[0], as_label.native), values)


def test_channels_of_different_types_share_one_that_holds_both(tmp_path: Path, volume: np.ndarray) -> None:
    files = [
        _nifti(tmp_path / "a.nii", volume.astype(np.int16), np.eye(4)),
        _nifti(tmp_path / "b.nii", volume / 8, np.eye(4)),
    ]
    image = read_image(files)
    assert image.array.dtype == np.float32
    np.testing.assert_array_equal(image.array, np.stack([volume, (volume / 8).astype(np.float32)]))
    assert read_image(files[:1] * 2).array.dtype == np.int16


def test_label_values_beyond_32_bits_are_refused(tmp_path: Path) -> None:
    values = np.zeros(SHAPE, np.int64)
    values[1, 1, 1] = 2**40
    for suffix in (".nii.gz", ".nrrd"):
        write_volume(tmp_path / f"a{suffix}", values, Grid(SHAPE, np.eye(4)))
        with pytest.raises(UserError, match="more than 32 bits"):
            read_label(tmp_path / f"a{suffix}")


def test_image_from_array() -> None:
    image = image_from_array(np.ones((2, *SHAPE), np.uint8), (1, 2, 3))
    assert (image.array.dtype, image.dtype, image.spacing) == (np.uint8, np.uint8, (1.0, 2.0, 3.0))
    assert image_from_array(np.ones(SHAPE), (1, 2, 3)).array.dtype == np.float32
    assert image_from_array(np.ones(SHAPE, bool), (1, 2, 3)).array.dtype == np.float32
    assert image_from_array(np.ones(SHAPE), (1, 1, 1), unit="pixel").array.shape == (1, *SHAPE)
    with pytest.raises(UserError, match="3 positive numbers"):
        image_from_array(np.ones(SHAPE), (1, 0, 3))
    with pytest.raises(UserError, match=r"\(5, 4\)"):
        image_from_array(np.ones((5, 4)), (1, 1, 1))


def test_endings() -> None:
    assert {".nii", ".nii.gz", ".mha", ".nrrd", ".png", ".jpg", ".tif", ".bmp"} <= set(ENDINGS)
    assert (ending(Path("a.b.NII.GZ")), stem(Path("a.b.NII.GZ"))) == (".nii.gz", "a.b")
    with pytest.raises(UserError, match="not a supported file format"):
        ending(Path("a.dcm"))


def test_real_files_round_trip(shared: Path, tmp_path: Path) -> None:
    for path in (
        shared / "data/abdomen_mr/labelsTr/abdomen_03.nii.gz",  # LAS
        shared / "data/sarcoma/labelsTr/sts_003.nii.gz",  # LPS
    ):
        label = read_label(path)
        write_volume(tmp_path / "a.nii.gz", to_native(label.array, label.native)[0], label.native)
        before, after = nib.load(path), nib.load(tmp_path / "a.nii.gz")
        np.testing.assert_array_equal(after.affine, before.affine)
        np.testing.assert_array_equal(np.asanyarray(after.dataobj), np.asanyarray(before.dataobj))
        assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes())[:4] == (348).to_bytes(4, "little")


def _nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def test_values_that_are_not_finite_take_the_least_of_their_channel() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 2, 3, 2) + 5
    array[0, 0, 0], array[1, 1, 2, 1] = np.nan, np.inf
    grid = Grid((2, 3, 2), np.eye(4))
    image = Image(array.copy(), np.eye(4), grid)
    found = filled(image)
    assert (found.array[0, 0, 0] == 7).all() and found.array[1, 1, 2, 1] == 17
    np.testing.assert_array_equal(found.array[np.isfinite(array)], array[np.isfinite(array)])
    assert np.isnan(image.array[0, 0, 0]).all()
    empty = Image(np.full((1, 2, 3, 2), np.nan, np.float32), np.eye(4), grid)
    assert (filled(empty).array == 0).all()
    assert filled(found) is found
