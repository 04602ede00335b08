"""3D Slicer's segmentations as labels: found by their image's name, placed into its grid, segments known by name."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from made_segmentations import AFFINE, NAMES, SHAPE, Fields, cropped, put_case, put_image, segment, slicer, truth

import seg_transfer
from seg_transfer.data.dataset import Case, Dataset, find_dataset, find_images
from seg_transfer.data.formats import write_volume
from seg_transfer.data.geometry import Grid
from seg_transfer.data.image import read_image, read_label
from seg_transfer.errors import UserError
from seg_transfer.evaluation.largest_component import find_postprocessing
from seg_transfer.evaluation.overlay import CaseFiles, save_overlay
from seg_transfer.evaluation.score_files import evaluate_files, evaluate_folders
from seg_transfer.planning.examine import examine
from seg_transfer.preprocessing.store import Store
from seg_transfer.workflow.work_folder import WorkFolder


def canonical(array: np.ndarray) -> np.ndarray:
    return array[::-1]  # of AFFINE, whose first axis runs to the left


def label_of(dataset: Dataset, case: int = 0) -> np.ndarray:
    """What planning and preprocessing read as the case's label, after the checks found no problem."""
    assert examine(dataset, workers=0).problems == []
    files = dataset.cases[case]
    return read_label(files.label, grid=read_image(files.images).native, names=dataset.names).array[0]


def problems(root: Path) -> str:
    return "\n".join(f"{each.what} ({each.hint})" for each in examine(find_dataset(root), workers=0).problems)


@pytest.mark.parametrize(
    ("image", "label", "description"),
    [
        ("images/a.nii.gz", "labels/a.seg.nrrd", None),
        ("images/a_0000.nii.gz", "labels/a.seg.nrrd", None),
        ("images/a.nrrd", "labels/a.seg.nrrd", None),
        ("images/a.NRRD", "masks/a.Seg.NRRD", None),
        ("images/a.mha", "labels/a.nrrd", None),  # renamed by hand: the header counts
        ("imagesTr/a_0000.nii.gz", "labelsTr/a.seg.nrrd", {"file_ending": ".nii.gz"}),
        ("imagesTr/a_0000.nrrd", "labelsTr/a.SEG.NRRD", {"file_ending": ".nrrd"}),
        ("imagesTr/a_0000.nii.gz", "labelsTr/a.seg.nrrd", {}),
        ("x/a.nii.gz", "y/a.seg.nrrd", {"training": [{"image": "./x/a.nii.gz", "label": "./y/a.seg.nrrd"}]}),
        ("x/a.nii.gz", "b.seg.nrrd", {"dataset": {"a": {"images": ["x/a.nii.gz"], "label": "b.seg.nrrd"}}}),
    ],
)
def test_a_segmentation_belongs_to_its_image(
    tmp_path: Path, image: str, label: str, description: dict[str, object] | None
) -> None:
    put_case(tmp_path, image=image, label=label)
    if description is not None:
        description = {"channel_names": {"0": "CT"}, "labels": NAMES, **description}
        (tmp_path / "dataset.json").write_text(json.dumps(description))
    dataset = find_dataset(tmp_path)
    assert dataset.cases == (Case("a", (tmp_path / image,), tmp_path / label),)
    assert dataset.labels == tuple(NAMES.items())
    np.testing.assert_array_equal(label_of(dataset), canonical(truth()))


def test_a_label_map_comes_before_a_segmentation_of_the_same_case(tmp_path: Path) -> None:
    """As before in nnU-Net's layout, where file_ending says which files are meant."""
    put_case(tmp_path, image="imagesTr/a_0000.nii.gz", label="labelsTr/a.seg.nrrd")
    nib.save(nib.Nifti1Image(truth(), AFFINE), tmp_path / "labelsTr/a.nii.gz")
    slicer(tmp_path / "labelsTr/a_old.seg.nrrd", truth(), [])
    description = {"channel_names": {"0": "CT"}, "labels": NAMES, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    dataset = find_dataset(tmp_path)
    assert (dataset.cases[0].label, dataset.unused) == (tmp_path / "labelsTr/a.nii.gz", ())


def test_segments_are_told_by_their_names(tmp_path: Path) -> None:
    """Two cases number the same segments the other way round; a third lacks one and has an empty one."""
    for seed, name in enumerate("ab"):
        put_case(tmp_path, name, seed)
    put_image(tmp_path / "images/c.nii.gz")
    liver, start = cropped((truth() == 1).astype(np.uint8))
    segments = [segment("forgotten", 3), segment("liver", 1)]
    slicer(tmp_path / "labels/c.seg.nrrd", liver, segments, start=start)
    dataset = find_dataset(tmp_path)
    assert dataset.labels == (("background", 0), ("liver", 1), ("tumour", 2))
    expected = [truth(0), truth(1), truth() == 1]
    for case in range(3):
        np.testing.assert_array_equal(label_of(dataset, case), canonical(expected[case]))
    measured = examine(dataset, workers=0).fingerprint()
    voxels = [[label.voxels for label in case.labels] for case in measured.cases]
    assert voxels == [[int((array == value).sum()) for value in (1, 2)] for array in expected]


def test_dataset_json_says_which_value_a_name_has(tmp_path: Path) -> None:
    put_image(tmp_path / "imagesTr/a_0000.nii.gz")
    array = truth()
    array[0, 0, 0], array[0, 0, 1] = 3, 4
    names = [segment("le\u0301sion", 2), segment("Background", 3), segment("IGNORE", 4), segment(" liver ", 1)]
    slicer(tmp_path / "labelsTr/a.seg.nrrd", array, names)
    labels = {"nothing": 0, "l\u00e9sion": 700, "liver": 5, "other": 6, "ignore": 9}
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels}))
    expected = np.choose(truth(), [0, 5, 700])
    expected[0, 0, 1] = 9
    np.testing.assert_array_equal(label_of(find_dataset(tmp_path)), canonical(expected))

    del labels["liver"]
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels}))
    assert "the segment 'liver' is none of the labels 'background', 'nothing', 'other', 'lésion'" in problems(tmp_path)


def test_names_of_a_plain_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put_case(tmp_path, "a")
    put_image(tmp_path / "images/b.nii.gz")
    nib.save(nib.Nifti1Image(truth(), AFFINE), plain := tmp_path / "labels/b.nii.gz")
    with pytest.raises(UserError, match="others are label maps with values such as 2") as refused:
        find_dataset(tmp_path)
    assert "dataset.json" in str(refused.value.hint)
    plain.unlink()

    array = truth()
    array[0, 0, 0] = 3
    second = tmp_path / "labels/b.seg.nrrd"
    slicer(second, array, [segment("Liver", 1), segment("tumour", 2), segment("Ignore", 3)])
    with pytest.raises(UserError, match="segments are named 'Liver' and 'liver'"):
        find_dataset(tmp_path)
    slicer(second, array, [segment("liver", 1), segment("tumour", 2), segment("Ignore", 3)])
    dataset = find_dataset(tmp_path)
    assert (dataset.labels, dataset.ignore) == (tuple(NAMES.items()), 3)
    assert not caplog.records

    for file in (tmp_path / "labels/a.seg.nrrd", second):
        slicer(file, truth(), [segment("Segment_1", 1), segment("Segment_2", 2)])
    with caplog.at_level(logging.WARNING):
        assert [name for name, _ in find_dataset(tmp_path).labels] == ["background", "Segment_1", "Segment_2"]
    assert "Segment_1, Segment_2" in caplog.text and "same in every case" in caplog.text


def test_names_in_the_encoding_of_old_files(tmp_path: Path) -> None:
    for name, text in (("a", "Läsion"), ("b", "L\udce4sion")):  # the second in Latin-1
        put_image(tmp_path / f"images/{name}.nii.gz")
        slicer(tmp_path / f"labels/{name}.seg.nrrd", (truth() > 0).astype(np.uint8), [segment(text)])
    assert find_dataset(tmp_path).labels == (("background", 0), ("Läsion", 1))


def test_axes_in_another_order_than_the_image(tmp_path: Path) -> None:
    put_image(tmp_path / "images/a.nii.gz")
    part, start = cropped(truth())
    turned = np.diag([1.0, -1.0, 1.0, 1.0])[[2, 0, 1, 3]].T  # voxel of the file -> voxel of the crop
    turned[1, 3] = part.shape[1] - 1
    shift = np.eye(4)
    shift[:3, 3] = start
    array = part[:, ::-1].transpose(2, 0, 1)
    segments = [segment("liver", 1), segment("tumour", 2)]
    slicer(tmp_path / "labels/a.seg.nrrd", array, segments, affine=AFFINE @ shift @ turned)
    np.testing.assert_array_equal(label_of(find_dataset(tmp_path)), canonical(truth()))


@pytest.mark.parametrize(
    ("shift", "scale", "message"),
    [
        ((0.004, 0, -0.004), 1, None),
        ((0.3, 0, 0), 1, "corners lie up to 0.3 voxels off"),
        ((0, 0.02, 0), 1, "corners lie up to 0.02 voxels off"),
        ((0, 0, 0), 1.5, "its spacing is 1 x 1 x 3.75 mm, not 1 x 1 x 2.5"),
    ],
)
@pytest.mark.parametrize("planes", [4, 1])
def test_it_lies_on_the_voxels_of_its_image_or_is_refused(
    tmp_path: Path, shift: tuple[float, ...], scale: float, message: str | None, planes: int
) -> None:
    """Also one of a single slice, whose thickness is another one."""
    put_image(tmp_path / "images/a.nii.gz")
    array = truth()
    array[..., : 6 - planes] = 0
    part, start = cropped(array)
    stretched = AFFINE @ np.diag([1, 1, scale, 1])
    stretched[:3, 3] = (AFFINE @ [*np.add(start, shift), 1])[:3]
    segments = [segment("liver", 1), segment("tumour", 2)]
    slicer(tmp_path / "labels/a.seg.nrrd", part, segments, affine=stretched)
    if message is None:
        np.testing.assert_array_equal(label_of(find_dataset(tmp_path)), canonical(array))
    else:
        found = problems(tmp_path)
        assert "does not lie on the voxels of its image" in found and message in found and "source geometry" in found


def test_background_beyond_the_image_is_left_out_and_segments_are_not(tmp_path: Path) -> None:
    put_image(tmp_path / "images/a.nii.gz")
    file, segments = tmp_path / "labels/a.seg.nrrd", [segment("liver", 1), segment("tumour", 2)]
    wide = np.pad(truth(), ((2, 3), (0, 1), (4, 0)))
    slicer(file, wide, segments, start=(-2, 0, -4))
    np.testing.assert_array_equal(label_of(find_dataset(tmp_path)), canonical(truth()))
    wide[0, 0, 0] = wide[-1, -1, -1] = 1
    slicer(file, wide, segments, start=(-2, 0, -4))
    assert "2 voxel(s) of its segments lie outside of the image" in problems(tmp_path)
    slicer(file, truth(), segments, start=(500, 0, 0))
    count = np.count_nonzero(truth())
    assert f"{count} voxel(s) of its segments lie outside of the image" in problems(tmp_path)


@pytest.mark.parametrize("last", [False, True])
def test_layers_become_one_label_map(tmp_path: Path, last: bool) -> None:
    """Three layers that all use the value 1, one of them for two segments."""
    put_image(tmp_path / "images/a.nii.gz")
    array = truth()
    array[15:18, 15:18, 1:4] = 3
    part, start = cropped(array)
    layers = np.stack([np.choose(part, [0, 1, 0, 2]), part == 2, np.zeros_like(part)]).astype(np.uint8)
    segments = [segment("liver", 1, 0), segment("tumour", 1, 1), segment("spleen", 2, 0), segment("empty", 1, 2)]
    slicer(tmp_path / "labels/a.seg.nrrd", layers, segments, start=start, last=last)
    dataset = find_dataset(tmp_path)
    assert dataset.labels == (("background", 0), ("liver", 1), ("spleen", 2), ("tumour", 3))
    np.testing.assert_array_equal(label_of(dataset), canonical(np.choose(array, [0, 1, 3, 2])))


def test_overlapping_segments_are_refused_with_their_names(tmp_path: Path) -> None:
    put_image(tmp_path / "images/a.nii.gz")
    layers = np.stack([truth() > 0, truth() == 2]).astype(np.uint8)
    file = slicer(tmp_path / "labels/a.seg.nrrd", layers, [segment("liver", 1, 0), segment("tumour", 1, 1)])
    assert f"segments overlap: 'liver' and 'tumour' in {(truth() == 2).sum()} voxel(s)" in problems(tmp_path)
    # two segments of one name are one label
    slicer(file, layers, [segment("liver", 1, 0), segment("liver", 1, 1)])
    np.testing.assert_array_equal(label_of(find_dataset(tmp_path)), canonical(truth() > 0))


def test_old_files_have_a_layer_of_ones_for_each_segment(tmp_path: Path) -> None:
    put_image(tmp_path / "images/a.nii.gz")
    layers = np.stack([truth() == 1, truth() == 2]).astype(np.uint8)
    slicer(tmp_path / "labels/a.seg.nrrd", layers, [segment(name, None, None) for name in ("liver", "tumour")])
    np.testing.assert_array_equal(label_of(find_dataset(tmp_path)), canonical(truth()))


def test_an_empty_segmentation_is_background(tmp_path: Path) -> None:
    """Slicer saves one voxel of zero at any place."""
    put_case(tmp_path, "a")
    put_image(tmp_path / "images/b.nii.gz")
    for segments in ([], [segment("liver")]):
        slicer(tmp_path / "labels/b.seg.nrrd", np.zeros((1, 1, 1), np.uint8), segments, affine=np.eye(4))
        assert not label_of(find_dataset(tmp_path), 1).any()


@pytest.mark.parametrize(
    ("segments", "fields", "message"),
    [
        ([segment("liver")], {}, "hold values that no segment has, such as 2"),
        ([], {}, "hold values that no segment has"),
        ([segment("liver"), segment("tumour")], {}, "'liver' and 'tumour' have the same value 1 in one layer"),
        ([segment("liver", layer=3), segment("tumour", 2)], {}, "segment 0 of its header has no name, or no valid"),
        ([segment("liver", 0), segment("tumour", 2)], {}, "segment 0 of its header"),
        ([segment("liver") | {"LabelValue": "one"}, segment("tumour", 2)], {}, "segment 0 of its header"),
        ([{"LabelValue": 1, "Layer": 0}, segment("tumour", 2)], {}, "segment 0 of its header"),
        ([segment("liver")], {"Segmentation_MasterRepresentation": "Fractional labelmap"}, "'Fractional labelmap'"),
        ([segment("liver")], {"Segmentation_SourceRepresentation": "Fractional labelmap"}, "'Fractional labelmap'"),
        ([segment("liver")], {"Segmentation_Extent": "0 1 0 1 0 1"}, "form of an old version"),
    ],
)
def test_what_contradicts_itself_is_refused(
    tmp_path: Path, segments: list[Fields], fields: dict[str, str], message: str
) -> None:
    put_case(tmp_path, "b")
    put_image(tmp_path / "images/a.nii.gz")
    slicer(tmp_path / "labels/a.seg.nrrd", truth(), segments, **fields)
    assert message in problems(tmp_path)


def test_damage_is_seen(tmp_path: Path) -> None:
    put_case(tmp_path, "a")
    file = slicer(tmp_path / "labels/a.seg.nrrd", truth(), [segment("liver", 1), segment("tumour", 2)])
    content = file.read_bytes()
    for broken in (
        content[:-30],
        content.replace(b"sizes: 20 24 8", b"sizes: 20 24 9"),
        content.replace(b"sizes: 20 24 8", b"sizes: 20 24 8000000"),
    ):
        file.write_bytes(broken)
        with pytest.raises(UserError):
            read_label(file, grid=Grid(SHAPE, AFFINE), names=NAMES)


def test_float_segmentations_and_those_without_segments_are_read_as_label_maps(tmp_path: Path) -> None:
    put_image(tmp_path / "images/a.nii.gz")
    file = slicer(tmp_path / "labels/a.seg.nrrd", truth().astype(float), [segment("liver", 1), segment("tumour", 2)])
    np.testing.assert_array_equal(label_of(find_dataset(tmp_path)), canonical(truth()))
    write_volume(file, truth(), Grid(SHAPE, AFFINE))
    dataset = find_dataset(tmp_path)
    assert dataset.labels == (("background", 0), ("label_1", 1), ("label_2", 2))
    np.testing.assert_array_equal(label_of(dataset), canonical(truth()))


def test_what_simpleitk_makes_of_it_is_one_still(tmp_path: Path) -> None:
    put_case(tmp_path, "a", seed=1)
    image = sitk.ReadImage(str(tmp_path / "labels/a.seg.nrrd"))
    (tmp_path / "labels/a.seg.nrrd").unlink()
    sitk.WriteImage(image, str(tmp_path / "labels/a.mha"))
    np.testing.assert_array_equal(label_of(find_dataset(tmp_path)), canonical(truth(1)))


def test_a_segmentation_is_no_image(tmp_path: Path) -> None:
    """Slicer saves it beside the image."""
    image = put_image(tmp_path / "a.nrrd")
    file = slicer(tmp_path / "a.seg.nrrd", truth(), [segment("liver", 1), segment("tumour", 2)])
    assert find_images(tmp_path, 1) == [Case("a", (image,))]
    with pytest.raises(UserError, match="not an image"):
        find_images(file, 1)
    image.unlink()
    with pytest.raises(UserError, match="there is no image, but segmentations"):
        find_images(tmp_path, 1)
    renamed = file.rename(tmp_path / "b.nrrd")
    with pytest.raises(UserError, match="not an image"):
        read_image([renamed])
    put_case(tmp_path / "data", image="images/a.seg.nrrd")
    with pytest.raises(UserError, match="cannot identify the folder of images"):
        find_dataset(tmp_path / "data")


def test_references_are_placed_onto_predictions(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        put_case(tmp_path, name, seed)
        predicted = truth(seed)
        predicted[:6] = 0
        write_volume(tmp_path / f"predictions/{name}.nii.gz", predicted, Grid(SHAPE, AFFINE))
    labels = {"liver": 1, "tumour": 2}
    scores = evaluate_folders(tmp_path / "predictions", tmp_path / "labels", labels=labels)
    assert not scores.failures
    for seed, name in enumerate("ab"):
        overlap, whole = (truth(seed)[6:] == 1).sum(), (truth(seed) == 1).sum()
        assert scores.cases[name]["liver"].metrics["dice"] == pytest.approx(2 * overlap / (overlap + whole))
        assert scores.cases[name]["tumour"].metrics["dice"] == 1

    regions = {"both": (1, 2), "tumour": 2}
    with_regions = evaluate_folders(tmp_path / "predictions", tmp_path / "labels", labels=regions, names=NAMES)
    assert with_regions.cases["a"]["tumour"].metrics["dice"] == 1 and not with_regions.failures
    failed = evaluate_folders(tmp_path / "predictions", tmp_path / "labels", labels=regions).failures
    assert "the segment 'liver' is none of the labels" in failed["a"]
    with pytest.raises(UserError, match="others are label maps with values") as refused:
        evaluate_folders(tmp_path / "predictions", tmp_path / "labels")
    assert "-w" in str(refused.value.hint)


def test_two_segmentations_are_compared_by_names(tmp_path: Path) -> None:
    """Each is cropped by itself, and numbers its segments by itself."""
    other = truth()
    other[3, 2, 1] = 1
    part, start = cropped(np.choose(other, [0, 7, 3]).astype(np.uint8))
    for first, second in (("first", "second"), ("second", "first")):
        put_case(tmp_path, label=f"{first}/a.seg.nrrd")
        slicer(tmp_path / f"{second}/a.seg.nrrd", part, [segment("tumour", 3), segment("liver", 7)], start=start)
        scores = evaluate_folders(tmp_path / "first", tmp_path / "second")
        assert scores.labels == {"liver": 1, "tumour": 2}
        whole = int((other == 1).sum())
        assert scores.cases["a"]["liver"].metrics["dice"] == pytest.approx(2 * (whole - 1) / (2 * whole - 1))
        assert scores.cases["a"]["tumour"].metrics["dice"] == 1
    with pytest.raises(UserError, match="no label has the value 1 to ignore"):
        evaluate_folders(tmp_path / "first", tmp_path / "second", ignore=1)
    files = {"a": (tmp_path / "first/a.seg.nrrd", tmp_path / "second/a.seg.nrrd")}
    assert "nothing says what value its segment 'liver' has" in evaluate_files(files).failures["a"]


def test_summary_and_overlay_read_them_too(tmp_path: Path) -> None:
    files = {}
    for seed in range(6):
        put_case(tmp_path, f"c{seed}", seed % 2)
        predicted = truth(seed % 2)
        predicted[18, 20, 1] = 1
        write_volume(tmp_path / f"p/c{seed}.nii.gz", predicted, Grid(SHAPE, AFFINE))
        files[f"c{seed}"] = (tmp_path / f"p/c{seed}.nii.gz", tmp_path / f"labels/c{seed}.seg.nrrd")
    labels = {"liver": 1, "tumour": 2}
    found = find_postprocessing(files, labels=labels, scored={"liver": (1,), "tumour": (2,)})
    assert found.dice == {"liver": 1, "tumour": 1}
    scores = evaluate_files(files, labels=labels)
    overlays = {
        case: CaseFiles((tmp_path / f"images/{case}.nii.gz",), reference=reference, prediction=prediction)
        for case, (prediction, reference) in files.items()
    }
    save_overlay(tmp_path / "overlay.png", scores, overlays, names=NAMES)
    assert (tmp_path / "overlay.png").is_file()


def test_plan_and_preprocess(tmp_path: Path) -> None:
    data, work = tmp_path / "data", tmp_path / "work"
    for seed, name in enumerate("abcd"):
        put_case(data, name, seed)
    plan = seg_transfer.plan(
        data, work=work, config="2d", encoder="resnet18", weights="none", folds=2, memory=10**9, device="cpu", workers=0
    )
    assert [(label.name, label.value) for label in plan.data.labels] == list(NAMES.items())
    seg_transfer.preprocess(work=work, workers=0)
    store = Store.open(WorkFolder(work).store_folder(plan), plan.data)
    for seed, name in enumerate("abcd"):
        shares = [(truth(seed) == value).mean() for value in (0, 1, 2)]
        voxels = np.array(store.case(name).voxels)  # on the finer grid of the plan
        np.testing.assert_allclose(voxels / voxels.sum(), shares, rtol=0.1)
