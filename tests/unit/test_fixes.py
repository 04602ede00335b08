"""Fixed copies of data sets: the same cases, with what surrounds the voxels put right."""

from __future__ import annotations

import codecs
import gzip
import json
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from made_balls import make_dataset

from seg_transfer.data import fixes as fixes_module
from seg_transfer.data.dataset import Dataset, find_dataset
from seg_transfer.data.fixes import description_fixes, fixes, write_fixed
from seg_transfer.data.formats import read_header
from seg_transfer.data.image import read_image, read_label
from seg_transfer.errors import UserError
from seg_transfer.util.processes import short_namespace


def said(dataset: Dataset) -> list[tuple[str, str]]:
    found = [*description_fixes(dataset), *(fix for case in dataset.cases for fix in fixes(case))]
    return [(fix.file.name, fix.what) for fix in found]


def fixed(data: Path) -> Dataset:
    """The copy, in which there is nothing left to fix."""
    copy = data.with_name("copy")
    write_fixed(find_dataset(data), copy, workers=0)
    assert not [path for path in data.parent.iterdir() if path.name.startswith(".segtl")]
    found = find_dataset(copy)
    assert said(found) == []
    return found


def same_content(before: Dataset, after: Dataset) -> None:
    assert [case.id for case in before.cases] == [case.id for case in after.cases]
    assert (before.labels, before.channel_names, before.layout) == (after.labels, after.channel_names, after.layout)
    for one, other in zip(before.cases, after.cases, strict=True):
        first, second = read_image(one.images), read_image(other.images)
        np.testing.assert_array_equal(first.array, second.array)
        np.testing.assert_allclose(first.affine, second.affine, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(read_label(one.label).array, read_label(other.label).array)


def test_a_whole_data_set_is_copied_byte_by_byte(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", cases=2)
    assert said(find_dataset(data)) == []
    fixed(data)
    files = [path.relative_to(data) for path in data.rglob("*") if path.is_file()]
    assert len(files) == 5
    for file in files:
        assert (tmp_path / "copy" / file).read_bytes() == (data / file).read_bytes()


@pytest.mark.parametrize(("code", "factor", "name"), [(1, 1e-3, "metre"), (3, 1e3, "micrometre")])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_units_become_millimetres(tmp_path: Path, code: int, factor: float, name: str, ending: str, kind: type) -> None:
    data = make_dataset(tmp_path / "data", cases=2)
    for path in data.glob("*Tr/*.nii.gz"):
        image = nibabel.load(path)
        affine = np.diag([factor] * 3 + [1]) @ image.affine
        stored = kind(np.asarray(image.dataobj), affine)
        stored.set_qform(affine, code=4)
        stored.set_sform(affine, code=2)
        stored.header["xyzt_units"] = code | 8
        path.unlink()
        nibabel.save(stored, path.with_name(path.name.replace(".nii.gz", ending)))
    description = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps(description | {"file_ending": ending}))
    before = find_dataset(data)
    assert {what for _, what in said(before)} == {f"its unit of length is the {name}"}
    after = fixed(data)
    same_content(before, after)
    for case in after.cases:
        for path in case.files:
            header = nibabel.load(path).header
            assert header.get_xyzt_units() == ("mm", "sec")
            assert (header["qform_code"], header["sform_code"]) == (4, 2)
            np.testing.assert_allclose(header.get_zooms(), (1, 1, 2.5), rtol=1e-5)
            np.testing.assert_allclose(header.get_qform(), header.get_sform(), rtol=1e-4, atol=1e-4)


def test_compression_follows_the_name(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", cases=2)
    plain, packed = data / "imagesTr" / "case_0_0000.nii.gz", data / "imagesTr" / "case_1_0000.nii.gz"
    plain.write_bytes(gzip.decompress(plain.read_bytes()))
    packed = packed.rename(packed.with_name("case_1_0000.nii"))
    (data / "dataset.json").write_text(
        (data / "dataset.json").read_text().replace('"file_ending": ".nii.gz"', '"x": 0')
    )
    before = find_dataset(data)
    assert said(before) == [
        ("case_0_0000.nii.gz", "it is not compressed, which its name does not show"),
        ("case_1_0000.nii", "it is compressed, which its name does not show"),
    ]
    after = fixed(data)
    same_content(before, after)
    assert [case.images[0].read_bytes()[:2] == b"\x1f\x8b" for case in after.cases] == [True, False]


@pytest.mark.parametrize("new", [".NII.GZ", ".Nii.gz"])
def test_endings_become_lower_case(tmp_path: Path, new: str) -> None:
    data = make_dataset(tmp_path / "data", cases=2)
    for path in data.glob("*Tr/*.nii.gz"):
        path.rename(path.with_name(path.name.replace(".nii.gz", new)))
    before = find_dataset(data)
    assert {what for _, what in said(before)} == {f"its ending is {new}, which some programs do not know"}
    after = fixed(data)
    same_content(before, after)
    assert all(path.name.endswith(".nii.gz") for case in after.cases for path in case.files)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_become_whole_numbers(tmp_path: Path, dtype: type) -> None:
    data = make_dataset(tmp_path / "data", cases=2)
    for path in data.glob("labelsTr/*"):
        label = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.asarray(label.dataobj).astype(dtype), label.affine), path)
    before = find_dataset(data)
    assert {what for _, what in said(before)} == {"its label values are floating-point numbers"}
    after = fixed(data)
    same_content(before, after)
    assert {read_header(case.label).dtype for case in after.cases} == {np.dtype(np.uint8)}


def test_labels_get_the_axes_of_their_image(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", cases=2)
    for path in data.glob("labelsTr/*"):
        label = nibabel.load(path)
        nibabel.save(label.as_reoriented([[2, -1], [1, -1], [0, 1]]), path)
    before = find_dataset(data)
    assert {what for _, what in said(before)} == {"its axes run SPR, those of its image LAS"}
    after = fixed(data)
    same_content(before, after)
    for case in after.cases:
        np.testing.assert_array_equal(nibabel.load(case.label).affine, nibabel.load(case.images[0]).affine)


def test_labels_get_the_affine_of_their_image(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", cases=2)
    for path in data.glob("labelsTr/*"):
        label = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.asarray(label.dataobj), label.affine + 1e-4 * np.eye(4)), path)
    before = find_dataset(data)
    assert {what for _, what in said(before)} == {"its affine differs from that of its image by rounding"}
    after = fixed(data)
    for case in after.cases:
        np.testing.assert_array_equal(nibabel.load(case.label).affine, nibabel.load(case.images[0]).affine)


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [(codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")],
)
def test_the_description_loses_its_byte_order_mark(tmp_path: Path, mark: bytes, encoding: str) -> None:
    data = make_dataset(tmp_path / "data", cases=2)
    description = data / "dataset.json"
    description.write_bytes(mark + description.read_text().replace("MRI", "MRT süß").encode(encoding))
    before = find_dataset(data)
    assert said(before) == [("dataset.json", "it starts with a byte order mark, which strict readers of JSON refuse")]
    after = fixed(data)
    same_content(before, after)
    assert json.loads((after.root / "dataset.json").read_bytes())["channel_names"] == {"0": "MRT süß"}


def test_lists_name_the_files_of_the_copy(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", cases=2)
    outside = tmp_path / "elsewhere.NII.GZ"
    (data / "labelsTr" / "case_1.nii.gz").rename(outside)
    (data / "imagesTr" / "case_0_0000.nii.gz").rename(data / "imagesTr" / "case_0_0000.NII.gz")
    training = [
        {"image": f"imagesTr\\case_{index}_0000.{end}", "label": label}
        for index, end, label in ((0, "NII.gz", ".\\labelsTr\\case_0.nii.gz"), (1, "nii.gz", "../elsewhere.NII.GZ"))
    ]
    content = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "ball", "4": "core"}, "training": training}
    (data / "dataset.json").write_text(json.dumps(content))
    before = find_dataset(data)
    assert ("dataset.json", "it names files with backslashes") in said(before)
    after = fixed(data)
    same_content(before, after)
    written = json.loads((after.root / "dataset.json").read_text())
    assert written["training"] == [
        {"image": "./imagesTr/case_0_0000.nii.gz", "label": "./labelsTr/case_0.nii.gz"},
        {"image": "./imagesTr/case_1_0000.nii.gz", "label": "./labelsTr/case_1_0000.nii.gz"},
    ]


def test_a_case_may_have_any_format(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for folder, name in (("images", "a.MHA"), ("labels", "a.nrrd")):
        (data / folder).mkdir(parents=True)
        array = np.zeros((6, 7, 8), np.float32)
        array[2:4, 2:5, 3:6] = 1
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((1.0, 2.0, 3.0))
        file = data / folder / name
        sitk.WriteImage(image, str(file.with_suffix(file.suffix.lower())))
        file.with_suffix(file.suffix.lower()).rename(file)
    before = find_dataset(data)
    assert said(before) == [
        ("a.MHA", "its ending is .MHA, which some programs do not know"),
        ("a.nrrd", "its label values are floating-point numbers"),
    ]
    after = fixed(data)
    same_content(before, after)
    assert [path.name for path in after.cases[0].files] == ["a.mha", "a.nrrd"]


def test_a_copy_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_dataset(tmp_path / "data", cases=2)
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = tmp_path / f".segtl-{short_namespace()}-{dead.pid}-1-0123abcd-copy"
    (left / "imagesTr").mkdir(parents=True)

    def fail(*_: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(fixes_module, "_fix_description", fail)
    with pytest.raises(UserError, match="the disk is full"):
        write_fixed(find_dataset(data), tmp_path / "copy", workers=0)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("unit", [2, 3])
def test_what_cannot_be_read_is_copied_as_it_is(tmp_path: Path, unit: int) -> None:
    data = make_dataset(tmp_path / "data", cases=2)
    image = nibabel.load(data / "imagesTr" / "case_0_0000.nii.gz")
    image.header["xyzt_units"] = unit
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header), image.get_filename())
    broken, missing = data / "imagesTr" / "case_0_0000.nii.gz", data / "labelsTr" / "case_1.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-20])
    missing.unlink()
    write_fixed(find_dataset(data), tmp_path / "copy", workers=0)
    assert (tmp_path / "copy" / "imagesTr" / broken.name).read_bytes() == broken.read_bytes()
    assert not (tmp_path / "copy" / "labelsTr" / missing.name).exists()


@pytest.mark.parametrize(("place", "what"), [("data/copy", "lies in the data set"), ("full", "is not empty")])
def test_a_wrong_place_is_refused(tmp_path: Path, place: str, what: str) -> None:
    data = make_dataset(tmp_path / "data", cases=2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match=what):
        write_fixed(find_dataset(data), tmp_path / place, workers=0)
    assert not (tmp_path / "data" / "copy").exists()
