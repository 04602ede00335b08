"""Measurements of made and of real data sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image as Raster

from seg_transfer.data.dataset import Case, find_dataset
from seg_transfer.errors import UserError
from seg_transfer.planning.case_fingerprint import CaseChannel, nonzero_box, outlier_ratio
from seg_transfer.planning.distribution import Distribution
from seg_transfer.planning.examine import examine
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.label_means import LabelMeans, LabelSpread


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Two cases: one LPS with 2 x 3 x 4 mm, of 20 x 10 x 8; one RAS, whose foreground is brighter and larger."""
    root = tmp_path / "made"
    (root / "imagesTr").mkdir(parents=True)
    (root / "labelsTr").mkdir()
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "organ": 1, "tumour": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(description))
    rng = np.random.default_rng(0)
    image = np.zeros((20, 10, 8), np.int16)
    image[5:15, 2:8, 1:7] = rng.integers(100, 200, (10, 6, 6))
    label = np.zeros((20, 10, 8), np.uint8)
    label[6:10, 3:5, 2:4] = 1
    label[6, 3, 2] = 2
    write(root, "one", image, label, np.diag([-2.0, -3.0, 4.0, 1.0]))
    image = np.ones((16, 12, 6), np.float32)
    label = np.zeros((16, 12, 6), np.uint8)
    label[:, :, :3] = 1
    image[label == 1] = 1000 + rng.random(int(label.sum())) * 10
    write(root, "two", image, label, np.diag([2.0, 3.0, 5.0, 1.0]))
    return root


def write(root: Path, case: str, image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(image, affine), root / "imagesTr" / f"{case}_0000.nii.gz")
    nibabel.save(nibabel.Nifti1Image(label, affine), root / "labelsTr" / f"{case}.nii.gz")


def test_a_case_is_measured_in_canonical_order(volumes: Path) -> None:
    one, two = examine(find_dataset(volumes), workers=0).fingerprint().cases
    assert (one.id, one.shape, one.cropped_shape, one.spacing) == ("one", (20, 10, 8), (10, 6, 6), (2, 3, 4))
    assert one.crop_ratio == pytest.approx(360 / 1600)
    assert (one.orientation, two.orientation) == ("LPS", "RAS")
    assert (one.channels[0].dtype, two.channels[0].dtype) == ("int16", "float32")
    organ, tumour = one.labels
    assert (organ.voxels, organ.slices) == (15, (4, 2, 2))
    assert organ.ml == pytest.approx(15 * 24 / 1000)
    assert (tumour.voxels, tumour.slices) == (1, (1, 1, 1))
    assert two.labels[1].voxels == 0
    assert two.labels[0].slices == (16, 12, 3)


def test_pooled_figures(volumes: Path) -> None:
    made = examine(find_dataset(volumes), workers=0).fingerprint()
    assert (made.dataset, made.dimension, made.unit) == ("made", 3, "mm")
    assert made.spacing == (2, 3, 4.5)
    assert made.shape == (18, 11, 7)
    assert made.crop_ratio == pytest.approx((360 / 1600 + 1) / 2)
    (channel,) = made.channels
    assert channel.dtypes == ("float32", "int16")
    assert channel.minimum == 0
    organ, tumour = made.labels
    assert (organ.name, organ.value, organ.cases, organ.voxels) == ("organ", 1, 2, 15 + 576)
    assert (tumour.cases, tumour.median_ml) == (1, pytest.approx(0.024))
    assert made.site().labelled_slices[2] == 2 + 3
    assert made.site().foreground_share() == pytest.approx((16 / 1600 + 576 / 1152) / 2)


def test_voxels_that_are_not_annotated_are_not_measured(volumes: Path) -> None:
    whole = examine(find_dataset(volumes), workers=0).fingerprint()
    description = json.loads((volumes / "dataset.json").read_text())
    description["labels"] = {"background": 0, "both": [1, 2], "tumour": 2, "ignore": 9}
    (volumes / "dataset.json").write_text(json.dumps({**description, "regions_class_order": [1, 2]}))
    path = volumes / "labelsTr" / "two.nii.gz"
    label = np.asarray(nibabel.load(path).dataobj).copy()
    label[8:] = 9
    nibabel.save(nibabel.Nifti1Image(label, nibabel.load(path).affine), path)
    made = examine(find_dataset(volumes), workers=0).fingerprint()
    assert (made.ignore, [region.name for region in made.regions]) == (9, ["both", "tumour"])
    assert [label.name for label in made.labels] == ["label_1", "tumour"]
    assert [case.annotated for case in made.cases] == [1, 0.5]
    assert made.cases[1].labels[0].voxels == 576 // 2
    assert made.cases[0] == whole.cases[0]
    figures = made.cases[1].channels[0].foreground
    assert figures is not None and figures.minimum >= 1000
    assert made.site().foreground_share() == whole.site().foreground_share()
    assert made.site().smallest_label() == ("tumour", pytest.approx(1 / (1600 + 576)), 1)


def test_every_case_weighs_the_same(volumes: Path) -> None:
    """16 foreground voxels around 150 against 576 around 1005: the mean lies half way, not near 1005."""
    made = examine(find_dataset(volumes), workers=0).fingerprint()
    figures = made.channels[0].foreground
    assert figures is not None
    one, two = (case.channels[0].foreground for case in made.cases)
    assert one is not None and two is not None
    assert figures.mean == pytest.approx((one.mean + two.mean) / 2, rel=1e-6)
    assert 550 < figures.mean < 600
    assert figures.percentile_99_5 == pytest.approx(two.percentile_99_5, rel=1e-3)


def test_processes_measure_the_same(volumes: Path) -> None:
    dataset = find_dataset(volumes)
    assert examine(dataset, workers=2).fingerprint() == examine(dataset, workers=0).fingerprint()


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (3, 0, 4, 2, 1), (2, 4, 3, 1, 0)])
def test_pooled_figures_do_not_depend_on_the_order_in_which_cases_are_done(
    order: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One case without foreground, one damaged; sums of real numbers depend on their order."""
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for index in range(5):
        image = np.random.default_rng(index).normal(10.0**index, 1, (6, 6, 6)).astype(np.float32)
        label = np.full(image.shape, index != 1, np.uint8)
        write(tmp_path, f"case{index}", image, label, np.eye(4))
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}, "numTraining": 5}
    description["file_ending"] = ".nii.gz"
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    (tmp_path / "labelsTr" / "case2.nii.gz").write_bytes(b"not a label")
    dataset = find_dataset(tmp_path)
    usual = examine(dataset, workers=0)

    def in_order(function: Callable[[Case], Any], items: Sequence[Case], **_: object) -> Iterator[tuple[Case, Any]]:
        yield from ((items[index], function(items[index])) for index in order)

    monkeypatch.setattr("seg_transfer.planning.examine.map_cases", in_order)
    made = examine(dataset, workers=0)
    assert made.problems == usual.problems
    assert [case.id for case in made.fingerprint().cases] == ["case0", "case1", "case3", "case4"]
    assert made.fingerprint() == usual.fingerprint()
    (pooled,), (expected,) = made.foreground, usual.foreground
    assert pooled is not None and expected is not None
    assert pooled.weight == pytest.approx(3)
    assert (pooled.mean, pooled.variance) == (expected.mean, expected.variance)


def test_a_damaged_case_is_named_and_the_others_are_measured(volumes: Path) -> None:
    (volumes / "imagesTr" / "two_0000.nii.gz").write_bytes(b"not an image")
    examined = examine(find_dataset(volumes), workers=0)
    assert [problem.case for problem in examined.problems] == ["two"]
    assert [case.id for case in examined.fingerprint().cases] == ["one"]
    (volumes / "imagesTr" / "one_0000.nii.gz").write_bytes(b"not an image")
    with pytest.raises(UserError, match="every case has problems"):
        examine(find_dataset(volumes), workers=0).fingerprint()


def test_orientation_and_type_of_the_files_do_not_matter(volumes: Path) -> None:
    """The same world in any order of axes, and as real numbers, whose distributions are sorted instead of counted."""
    usual = examine(find_dataset(volumes), workers=0).fingerprint()
    for folder in ("imagesTr", "labelsTr"):
        for number, path in enumerate(sorted((volumes / folder).iterdir())):
            loaded = nibabel.load(path)
            target = nibabel.orientations.axcodes2ornt("SAR" if folder == "imagesTr" else "PIL")
            turned = loaded.as_reoriented(
                nibabel.orientations.ornt_transform(nibabel.io_orientation(loaded.affine), target)
            )
            dtype = np.float32 if folder == "imagesTr" else (np.int16, np.int32)[number]
            nibabel.save(nibabel.Nifti1Image(np.asarray(turned.dataobj).astype(dtype), turned.affine), path)
    turned = examine(find_dataset(volumes), workers=0).fingerprint()
    for one, other in zip(usual.cases, turned.cases, strict=True):
        files = {"orientation": "SAR", "channels": (one.channels[0].model_copy(update={"dtype": "float32"}),)}
        assert other == one.model_copy(update=files)


def test_it_is_saved_and_read_whole(volumes: Path, tmp_path: Path) -> None:
    made = examine(find_dataset(volumes), workers=0).fingerprint()
    path = tmp_path / "fingerprint.json"
    made.save(path)
    assert Fingerprint.load(path) == made
    assert sum('"id"' in line for line in path.read_text().splitlines()) == 2
    content = json.loads(path.read_text())
    del content["digest"]
    path.write_text(json.dumps(content | {"version": 3}))
    with pytest.raises(UserError, match="version"):
        Fingerprint.load(path)
    with pytest.raises(UserError, match="no fingerprint"):
        Fingerprint.load(tmp_path / "missing.json")


def test_2d_images(tmp_path: Path) -> None:
    root = tmp_path / "images_2d"
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    rng = np.random.default_rng(0)
    for name in "ab":
        Raster.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(root / "images" / f"{name}.png")
        label = np.zeros((30, 40), np.uint8)
        label[:10, :20] = 255
        Raster.fromarray(label).save(root / "labels" / f"{name}.png")
    made = examine(find_dataset(root), workers=0).fingerprint()
    assert (made.dimension, made.unit, made.shape, made.spacing) == (2, "pixel", (40, 30, 1), (1, 1, 1))
    assert [channel.dtypes for channel in made.channels] == [("uint8",)] * 3
    assert made.channels[0].maximum == 255
    assert made.labels[0].voxels == 2 * 200
    assert made.labels[0].median_ml is None
    assert made.cases[0].labels[0].slices == (20, 10, 1)
    x, y, z = made.cases[0].labels[0].positions
    assert (x.lower, x.upper, x.low_half) == pytest.approx((4.5 / 40, 14.5 / 40, 1))  # columns 0 to 19 of 40
    assert {y.low_half, z.low_half} == {0 if y.lower > 0.5 else 1, 0.5}


def test_means_over_the_image_and_over_each_label(volumes: Path) -> None:
    two = examine(find_dataset(volumes), workers=0).fingerprint().cases[1].channels[0]
    background, organ, tumour = two.label_means
    assert (background, tumour) == (1, None)
    assert organ == pytest.approx(1005, abs=1)
    assert two.mean == pytest.approx((1 + organ) / 2)
    assert two.std == pytest.approx((organ - 1) / 2, rel=1e-4)


def label_spread(cases: Sequence[CaseChannel]) -> LabelSpread | None:
    return LabelMeans.of(cases).spread()


def images_of_two_lights(gains: tuple[float, ...], shares: tuple[float, ...]) -> list[CaseChannel]:
    """Background of 20 and a label of 100 under lights of their own, the label on a share of the image."""
    made = []
    for gain, share in zip(gains, shares, strict=True):
        stages = np.where(np.arange(100) < 100 * share, 100.0, 20.0) * gain
        made.append(
            CaseChannel(
                dtype="uint8",
                minimum=stages.min(),
                maximum=stages.max(),
                outlier_ratio=1,
                mean=stages.mean(),
                std=stages.std(),
                label_means=(20 * gain, 100 * gain),
                foreground=None,
            )
        )
    return made


def test_a_label_is_more_alike_after_z_score_where_lights_differ_and_before_it_where_contents_do() -> None:
    lights = label_spread(images_of_two_lights((1.0, 2.0), (0.3, 0.3)))
    assert lights is not None
    assert lights.zscore == pytest.approx(0, abs=1e-6)
    # means of 20 and 40, 100 and 200: standard deviations 10 and 50; within 36.7 and 73.3
    within = 80 * (0.3 * 0.7) ** 0.5
    expected = ((10**2 + 50**2) / 2) ** 0.5 / (within * ((1 + 4) / 2) ** 0.5)
    assert lights.as_stored == pytest.approx(expected, rel=1e-4)
    contents = label_spread(images_of_two_lights((1.0, 1.0), (0.1, 0.5)))
    assert contents is not None
    assert contents.as_stored == 0 < contents.zscore


def test_a_label_in_a_single_case_is_compared_with_nothing() -> None:
    one, two = images_of_two_lights((1.0, 2.0), (0.3, 0.3))
    assert label_spread([one]) is None
    uniform = one.model_copy(update={"std": 0.0})
    assert label_spread([one, uniform]) is None
    alone = one.model_copy(update={"label_means": (None, 100.0)})
    other = two.model_copy(update={"label_means": (40.0, None)})
    assert label_spread([alone, other]) is None
    both = label_spread([one, other])
    assert both == label_spread([one.model_copy(update={"label_means": (20.0, None)}), other])


def test_outlier_ratio() -> None:
    even = np.arange(1001, dtype=float)
    assert outlier_ratio(Distribution(even)) == pytest.approx(1000 / 990)
    assert outlier_ratio(Distribution(np.append(even, 9900.0))) == pytest.approx(10, rel=0.01)
    assert outlier_ratio(Distribution(np.full(5, 7.0))) == 1
    assert outlier_ratio(Distribution(np.append(np.ones(1000), 2.0))) == pytest.approx(1e6)


def test_an_empty_image_is_not_cropped() -> None:
    assert nonzero_box([np.zeros((4, 5, 6), bool)]) == (range(4), range(5), range(6))
    mask = np.zeros((4, 5, 6), bool)
    mask[1, 2, 3] = mask[2, 2, 5] = True
    assert nonzero_box([mask]) == (range(1, 3), range(2, 3), range(3, 6))
    other = np.zeros((4, 5, 6), np.int16)
    other[0, 4, 5] = -1
    assert nonzero_box([mask, other]) == (range(3), range(2, 5), range(3, 6))


def test_hippocampus_agrees_with_nnunet(shared: Path) -> None:
    """nnU-Net lists the cases by name, in (z, y, x); its figures pool equally many samples per case."""
    found = examine(find_dataset(shared / "data" / "hippocampus"), workers=0).fingerprint()
    reference = json.loads(
        (shared / "reference" / "nnunet-2.8.1" / "hippocampus" / "dataset_fingerprint.json").read_text()
    )
    assert [list(case.spacing[::-1]) for case in found.cases] == reference["spacings"]
    assert [list(case.cropped_shape[::-1]) for case in found.cases] == reference["shapes_after_crop"]
    expected = reference["foreground_intensity_properties_per_channel"]["0"]
    figures = found.channels[0].foreground
    assert figures is not None
    for name in ("mean", "std", "median", "percentile_00_5", "percentile_99_5"):
        assert getattr(figures, name) == pytest.approx(expected[name], rel=0.02), name
