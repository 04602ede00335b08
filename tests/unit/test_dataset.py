from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Pillow

from seg_transfer.data.dataset import Case, Dataset, find_dataset, find_images
from seg_transfer.data.description import Region
from seg_transfer.data.image import image_from_array, read_label
from seg_transfer.errors import UserError

V2 = {"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}
V1 = {"modality": {"0": "MRI"}, "labels": {"0": "background", "2": "tumour", "1": "liver"}}


def put(path: Path, values=((0, 1), (2, 0)), *, slices: int = 3, channels: int = 0) -> Path:
    """A tiny volume, or a 2D image, of these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.array(values, dtype=np.uint8)
    if path.name.endswith(".nii.gz"):
        array = np.repeat(array[..., np.newaxis], slices, axis=2)
        array = np.stack([array] * channels, axis=-1) if channels else array
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    else:
        Pillow.fromarray(np.dstack([array] * channels) if channels else array).save(path)
    return path


def nnunet(root: Path, description: dict, cases=("a", "b")) -> Path:
    root.mkdir(exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(description))
    for case in cases:
        for channel in description.get("channel_names", description.get("modality")):
            put(root / f"imagesTr/{case}_{int(channel):04d}.nii.gz")
        put(root / f"labelsTr/{case}.nii.gz")
    return root


def test_nnunet_v2(tmp_path: Path) -> None:
    root = nnunet(tmp_path / "Dataset007_Liver", V2)
    (root / "imagesTr/._a_0000.nii.gz").write_bytes(b"hidden")
    (root / "imagesTr/notes.txt").write_text("ignored")
    found = find_dataset(root)
    assert (found.name, found.layout, found.dimension, found.unit) == ("Dataset007_Liver", "nnunet", 3, "mm")
    assert found.channel_names == ("CT", "PET")
    assert found.labels == (("background", 0), ("liver", 1))
    assert found.cases[0] == Case(
        "a", (root / "imagesTr/a_0000.nii.gz", root / "imagesTr/a_0001.nii.gz"), root / "labelsTr/a.nii.gz"
    )
    assert [case.id for case in found.cases] == ["a", "b"]
    assert (found.unused, found.label_map_note) == ((), "")


def test_nnunet_v1_lists_cases_without_their_suffix(tmp_path: Path) -> None:
    listed = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in "ab"]
    found = find_dataset(nnunet(tmp_path / "d", {**V1, "name": "Livers", "training": listed}))
    assert (found.name, found.layout) == ("Livers", "nnunet")
    assert found.labels == (("background", 0), ("liver", 1), ("tumour", 2))
    assert found.cases[1].images == (tmp_path / "d/imagesTr/b_0000.nii.gz",)


def test_msd(tmp_path: Path) -> None:
    listed = []
    for case in ("b", "a"):
        put(tmp_path / f"imagesTr/{case}.nii.gz", channels=2)
        put(tmp_path / f"labelsTr/{case}.nii.gz")
        listed.append({"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"})
    description = {**V1, "modality": {"0": "T2", "1": "ADC"}, "training": listed, "test": ["./imagesTs/c.nii.gz"]}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    found = find_dataset(tmp_path)
    assert (found.layout, found.channel_names, found.dimension) == ("msd", ("T2", "ADC"), 3)
    assert found.cases[0] == Case("a", (tmp_path / "imagesTr/a.nii.gz",), tmp_path / "labelsTr/a.nii.gz")

    (tmp_path / "dataset.json").write_text(json.dumps({**description, "training": [listed[0], listed[0]]}))
    with pytest.raises(UserError, match="lists b twice"):
        find_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({**description, "training": [listed[0], {"image": "x"}]}))
    with pytest.raises(UserError, match="names no label"):
        find_dataset(tmp_path)


def test_rgb_2d_images_hold_all_channels_in_one_file(tmp_path: Path) -> None:
    for case in ("a", "b"):
        put(tmp_path / f"imagesTr/{case}_0000.png", channels=3)
        put(tmp_path / f"labelsTr/{case}.png")
    description = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "x": 1, "y": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps({**description, "file_ending": ".png"}))
    found = find_dataset(tmp_path)
    assert (found.dimension, found.unit) == (2, "pixel")
    assert found.cases[0].images == (tmp_path / "imagesTr/a_0000.png",)


@pytest.mark.parametrize(
    "names", [("images", "labels"), ("imagesTr", "labelsTr"), ("scans", "GT"), ("raw", "my_masks")]
)
def test_two_plain_folders(tmp_path: Path, names: tuple[str, str]) -> None:
    for case in ("b", "a"):
        put(tmp_path / names[0] / f"{case}.jpg", channels=3)
        put(tmp_path / names[1] / f"{case}.png", values=((0, 255), (128, 0)))
    found = find_dataset(tmp_path)
    assert (found.layout, found.dimension, found.unit) == ("folders", 2, "pixel")
    assert found.channel_names == ("R", "G", "B")
    assert found.labels == (("background", 0), ("label_1", 128), ("label_2", 255))
    assert found.label_map_note == "label values 0, 128, 255 are classes 0, 1, 2"
    assert found.cases[0] == Case("a", (tmp_path / names[0] / "a.jpg",), tmp_path / names[1] / "a.png")
    classes = found.classes(read_label(tmp_path / names[1] / "a.png"))
    assert classes.dtype == np.uint8
    assert classes[..., 0].T.tolist() == [[0, 2], [1, 0]]


def test_plain_folders_with_channel_files_beside_test_images(tmp_path: Path) -> None:
    for channel in range(2):
        put(tmp_path / f"imagesTr/a_{channel:04d}.nii.gz")
        put(tmp_path / f"imagesTs/z_{channel:04d}.nii.gz")
    put(tmp_path / "labelsTr/a.nii.gz")
    found = find_dataset(tmp_path)
    assert found.channel_names == ("channel_0", "channel_1")
    assert found.labels == (("background", 0), ("label_1", 1), ("label_2", 2))
    assert [len(case.images) for case in found.cases] == [2]
    assert find_dataset(tmp_path, workers=2) == found


def test_volumes_of_one_slice_are_2d_images_only_if_all_are(tmp_path: Path) -> None:
    for case in ("a", "b"):
        put(tmp_path / f"images/{case}.nii.gz", slices=1)
        put(tmp_path / f"labels/{case}.nii.gz", slices=1)
    assert (find_dataset(tmp_path).dimension, find_dataset(tmp_path).unit) == (2, "mm")
    put(tmp_path / "images/b.nii.gz", slices=2)
    assert find_dataset(tmp_path).dimension == 3


def test_links_are_followed(tmp_path: Path) -> None:
    real = nnunet(tmp_path / "real", V2)
    root = tmp_path / "linked"
    root.mkdir()
    (root / "dataset.json").symlink_to(real / "dataset.json")
    (root / "labelsTr").symlink_to(real / "labelsTr")
    (root / "imagesTr").mkdir()
    for path in (real / "imagesTr").iterdir():
        (root / "imagesTr" / path.name).symlink_to(path)
    found = find_dataset(root)
    assert len(found.cases) == 2
    assert found.cases[0].images[0] == root / "imagesTr/a_0000.nii.gz"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"liver": 1, "spleen": 2}}, "no label has the value 0"),
        ({"labels": {"background": 0, "liver": 1, "spleen": 1}}, "labels share a value"),
        ({"labels": {"background": 0, "liver": 1.5}}, r"label liver has the value 1\.5"),
        ({"labels": {"background": 0}}, "no label besides the background"),
        ({"labels": None}, "there is no labels"),
        ({"channel_names": {"1": "CT"}}, "number the channels from 0"),
        ({"channel_names": None}, "there is no channel_names"),
        ({"file_ending": ".mha"}, "no file ends with .mha"),
    ],
)
def test_what_dataset_json_may_not_say(tmp_path: Path, change: dict, message: str) -> None:
    root = nnunet(tmp_path / "d", V2)
    (root / "dataset.json").write_text(json.dumps({**V2, **change}))
    with pytest.raises(UserError, match=message):
        find_dataset(root)


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        find_dataset(tmp_path / "absent")
    with pytest.raises(UserError, match="cannot identify the folder of images"):
        find_dataset(tmp_path)
    root = nnunet(tmp_path / "d", V2)
    (root / "labelsTr").rename(root / "labels_elsewhere")
    with pytest.raises(UserError, match="the folder labelsTr is missing"):
        find_dataset(root)
    (root / "dataset.json").write_text("{")
    with pytest.raises(UserError, match=r"dataset\.json: not readable as JSON"):
        find_dataset(root)


def test_images_without_suffix_are_explained(tmp_path: Path) -> None:
    root = nnunet(tmp_path / "d", V2, cases=())
    put(root / "imagesTr/a.nii.gz")
    put(root / "labelsTr/a.nii.gz")
    with pytest.raises(UserError, match=r"no file is named <case>_<channel.*not a\.nii\.gz(.|\n)*liver_01_0000"):
        find_dataset(root)


def test_folders_whose_names_do_not_meet(tmp_path: Path) -> None:
    put(tmp_path / "images/a.nii.gz")
    put(tmp_path / "labels/b.nii.gz")
    with pytest.raises(UserError, match=r"no label has the name of an image: .* a\.nii\.gz, labels such as b\.nii"):
        find_dataset(tmp_path)


def test_labels_that_cannot_be_inferred(tmp_path: Path) -> None:
    put(tmp_path / "images/a.png")
    put(tmp_path / "labels/a.png", values=((0, 0), (0, 0)))
    with pytest.raises(UserError, match="no label holds a value other than 0"):
        find_dataset(tmp_path)
    Pillow.fromarray((np.arange(400, dtype=np.uint16)).reshape(20, 20)).save(tmp_path / "labels/a.png")
    with pytest.raises(UserError, match="hold 400 different values"):
        find_dataset(tmp_path)
    (tmp_path / "labels/a.png").rename(tmp_path / "labels/a.jpg")
    with pytest.raises(UserError, match="JPEG compression"):
        find_dataset(tmp_path)


def test_a_description_of_version_1_is_read(tmp_path: Path) -> None:
    """It wrote each region as a list, here as segtl wrote it on 2026-11-20."""
    content = {
        "version": 1,
        "name": "brain",
        "root": "/data/brain",
        "layout": "nnunet",
        "dimension": 3,
        "unit": "mm",
        "channel_names": ["T1"],
        "labels": [["background", 0], ["label_1", 1], ["core", 2]],
        "regions": [["whole", [1, 2], 1], ["core", [2], 2]],
        "ignore": None,
        "label_map_note": "",
        "cases": [{"id": "a", "images": ["/data/brain/imagesTr/a_0000.nii.gz"], "label": None}],
        "unused": [],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert Dataset.load(tmp_path / "dataset.json").regions == (
        Region(name="whole", values=(1, 2), writes=1),
        Region(name="core", values=(2,), writes=2),
    )


def test_saved_and_loaded(tmp_path: Path) -> None:
    found = find_dataset(nnunet(tmp_path / "d", V2))
    found.save(tmp_path / "dataset.json")
    assert Dataset.load(tmp_path / "dataset.json") == found
    (tmp_path / "dataset.json").write_text('{"name": "x"}')
    with pytest.raises(UserError, match=r"dataset\.json: root: Field required"):
        Dataset.load(tmp_path / "dataset.json")
    with pytest.raises(UserError, match="segtl plan"):
        Dataset.load(tmp_path / "absent.json")


def test_select(tmp_path: Path) -> None:
    found = find_dataset(nnunet(tmp_path / "d", V2))
    assert [case.id for case in found.select({"b"}).cases] == ["b"]
    assert found.select([]).cases == ()
    with pytest.raises(UserError, match=r"no such case: c(.|\n)*such as a"):
        found.select(["c"])


def test_undeclared_values_have_no_class(tmp_path: Path) -> None:
    found = find_dataset(nnunet(tmp_path / "d", V2))
    label = image_from_array(np.zeros((2, 2, 2)), (1, 1, 1))
    for value in (2, 3, -1, 70000):
        array = np.zeros((1, 2, 2, 2), np.int32)
        array[0, 0, 0, 0] = value
        with pytest.raises(UserError, match=f"label values {value} occur, but only 0, 1 are declared"):
            found.classes(type(label)(array, label.affine, label.native))


def test_images_to_predict(tmp_path: Path) -> None:
    for channel in (0, 1):
        put(tmp_path / f"in/a_{channel:04d}.nii.gz")
    put(tmp_path / "in/b_0001.nii.gz")
    put(tmp_path / "in/c_0000.nii.gz", channels=2)
    put(tmp_path / "in/d.nii.gz", channels=2)
    files = {case.id: [path.name for path in case.images] for case in find_images(tmp_path / "in", 2)}
    assert files == {
        "a": ["a_0000.nii.gz", "a_0001.nii.gz"],
        "b": ["b_0000.nii.gz", "b_0001.nii.gz"],  # the first is missing, which reading it will say
        "c": ["c_0000.nii.gz"],
        "d": ["d.nii.gz"],
    }
    assert find_images(tmp_path / "in/a_0001.nii.gz", 2) == find_images(tmp_path / "in", 2)[:1]
    assert [case.id for case in find_images(tmp_path / "in/c_0000.nii.gz", 1)] == ["c"]
    assert find_images(tmp_path / "in/d.nii.gz", 2)[0].label is None


def test_one_channel_models_take_any_name(tmp_path: Path) -> None:
    put(tmp_path / "scan_2020.nii.gz")
    put(tmp_path / "scan_2021.nii.gz")
    put(tmp_path / "x_0000.nii.gz")
    assert [case.id for case in find_images(tmp_path, 1)] == ["scan_2020", "scan_2021", "x"]
    put(tmp_path / "x.nii.gz")
    with pytest.raises(UserError, match="is the same image"):
        find_images(tmp_path, 1)
    with pytest.raises(UserError, match="no such file or folder"):
        find_images(tmp_path / "absent", 1)


@pytest.mark.parametrize(
    ("name", "dimension", "cases", "files"),
    [
        ("abdomen_mr", 3, 14, 1),
        ("cells", 2, 200, 1),
        ("hippocampus", 3, 200, 1),
        ("retina", 2, 20, 1),
        ("sarcoma", 3, 16, 3),
    ],
)
def test_real_data_sets(shared: Path, name: str, dimension: int, cases: int, files: int) -> None:
    found = find_dataset(shared / "data" / name)
    assert (found.dimension, len(found.cases), len(found.cases[0].images)) == (dimension, cases, files)
    assert found.unused == ()
    assert found.unit == ("pixel" if dimension == 2 else "mm")
    assert found.labels[0] == ("background", 0)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_description_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    root = nnunet(tmp_path / "d", V2)
    described = {**V2, "name": "Größe"}
    (root / "dataset.json").write_text(json.dumps(described, ensure_ascii=False), encoding=encoding)
    assert find_dataset(root).name == "Größe"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 10**6, "nested too deeply"),
        (b'{"labels": {"a": NaN}}', "NaN is no number of JSON"),
        (b'{"labels": {"a": 1e999}}', "too large for a number"),
        (b'{"labels": ' + b"9" * 5000 + b"}", "not readable as JSON"),
        (b'{"name": "\\ud800"}', "half of a character"),
        (b"\x80\x00\x00", "not a text file"),
        (b'{"name": "a\x00"}', "not a text file"),
        (b"", "not readable as JSON"),
        (b"3", "not a JSON object"),
    ],
)
def test_a_damaged_description_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    root = nnunet(tmp_path / "d", V2)
    (root / "dataset.json").write_bytes(content)
    with pytest.raises(UserError, match=said):
        find_dataset(root)


def test_values_of_labels_may_be_texts(tmp_path: Path) -> None:
    labels = {"background": "0", "tumour": "2", "liver": 1}
    for chosen in (labels, labels | {"liver": "1"}):
        found = find_dataset(nnunet(tmp_path / "d", {**V2, "labels": chosen}))
        assert found.labels == (("background", 0), ("liver", 1), ("tumour", 2))


def test_composed_and_decomposed_names_are_the_same(tmp_path: Path) -> None:
    """A Mac writes the two dots of an u as a character of their own."""
    for folder, name in (("images", "Mu\u0308ller"), ("labels", "M\u00fcller")):
        put(tmp_path / folder / f"{name}.png")
    found = find_dataset(tmp_path)
    assert [case.id for case in found.cases] == ["M\u00fcller"] and not found.unused
    assert all(file.is_file() for file in found.cases[0].files)
    assert [case.id for case in find_images(tmp_path / "images", 1)] == ["M\u00fcller"]


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        put(tmp_path / folder / "a.png").rename(tmp_path / folder / "caf\udce9.png")
    with pytest.raises(UserError, match="is not UTF-8") as error:
        find_dataset(tmp_path)
    str(error.value).encode()


def test_msd_lists_of_windows_and_of_a_mac(tmp_path: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        put(tmp_path / f"{folder}/a.nii.gz")
        put(tmp_path / f"{folder}/u\u0308.nii.gz")
    listed = [{"image": f".\\imagesTr\\{name}.nii.gz", "label": f"labelsTr\\{name}.nii.gz"} for name in ("a", "\u00fc")]
    (tmp_path / "dataset.json").write_text(json.dumps({**V1, "training": listed}))
    found = find_dataset(tmp_path)
    assert (found.layout, [case.id for case in found.cases]) == ("msd", ["a", "\u00fc"])
    assert all(file.is_file() for case in found.cases for file in case.files)


def test_nnunets_list_of_files_elsewhere(tmp_path: Path) -> None:
    far = put(tmp_path / "far/t2.nii.gz")
    root = tmp_path / "d"
    label = put(root / "labels/one.nii.gz")
    listed = {"one": {"images": [str(far), "../far/t2.nii.gz"], "label": "labels/one.nii.gz"}}
    (root / "dataset.json").write_text(json.dumps({**V2, "dataset": listed}))
    found = find_dataset(root)
    assert found.layout == "nnunet"
    [case] = found.cases
    assert (case.id, case.images[0], case.label) == ("one", far, label)
    assert case.images[1].samefile(far)


@pytest.mark.parametrize(
    "listed",
    [
        [],
        {},
        "files",
        {"a": []},
        {"a": {"images": [], "label": "a.nii.gz"}},
        {"a": {"images": ["a_0000.nii.gz"]}},
        {"a": {"images": [1], "label": "a.nii.gz"}},
        {"../a": {"images": ["a_0000.nii.gz"], "label": "a.nii.gz"}},
    ],
)
def test_a_wrong_list_of_files_is_refused(tmp_path: Path, listed: object) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({**V2, "dataset": listed}))
    with pytest.raises(UserError, match="dataset"):
        find_dataset(tmp_path)
