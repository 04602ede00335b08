"""Values worked out by hand, and those of MONAI on random masks."""

import math

import numpy as np
import pytest
from scipy import ndimage

from seg_transfer.evaluation.case_scores import score_case
from seg_transfer.evaluation.metrics import METRICS, LabelMasks


def volume(shape, **boxes):
    array = np.zeros(shape, np.uint8)
    for name, box in boxes.items():
        array[tuple(slice(*side) for side in box)] = int(name.removeprefix("label"))
    return array


def test_overlap_and_volume():
    reference = volume((10, 10, 6), label1=((2, 6), (2, 6), (1, 3)))
    prediction = volume((10, 10, 6), label1=((3, 6), (2, 6), (1, 4)))
    score = score_case(prediction, reference, [1], (2.0, 2.0, 5.0))[1]
    assert (score.reference_voxels, score.prediction_voxels) == (32, 36)
    assert score.metrics["dice"] == pytest.approx(2 * 24 / 68)
    assert score.metrics["iou"] == pytest.approx(24 / 44)
    assert score.metrics["volume_difference"] == pytest.approx(4 * 20 / 1000)
    assert score.metrics["relative_volume_difference"] == pytest.approx(4 / 32)
    assert score.empty == "none"


@pytest.mark.parametrize(("axis", "expected"), [(0, 1.5), (1, 3.0), (2, 14.0)])
def test_distances_follow_the_spacing_of_their_axis(axis, expected):
    reference = volume((9, 9, 9), label1=((4, 5), (4, 5), (4, 5)))
    prediction = np.roll(reference, 2 if axis == 2 else axis + 1, axis)
    score = score_case(prediction, reference, [1], (1.5, 1.5, 7))[1]
    assert score.metrics["hd95"] == pytest.approx(expected)
    assert score.metrics["dice"] == score.metrics["iou"] == 0
    # Neighbours share one face, 2 apart none of their surface is near the other.
    assert score.metrics["nsd"] == (0.5 if axis == 0 else 0)


def test_hd95_is_the_larger_directed_percentile():
    reference = volume((30, 3, 3), label1=((2, 23), (1, 2), (1, 2)))
    prediction = volume((30, 3, 3), label1=((2, 3), (1, 2), (1, 2)))
    # From the reference's 21 voxels 0, 0.5, ... 10 mm, whose 95th percentile is 9.5; from the prediction's 0.
    for first, second in ((prediction, reference), (reference, prediction)):
        assert score_case(first, second, [1], (0.5, 1, 1))[1].metrics["hd95"] == pytest.approx(9.5)


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        # A square of 5 pixels has an outline of 4 x 4 unit sides and 4 cut corners of half a diagonal. Moved by 3
        # pixels, on each outline 8 unit sides and 2 corners lie within 1 of the other outline: one half.
        ((1, 1, 1), 0.5),
        # Sides along y are now 2 long, corners sqrt(5) / 2, and the 2 sides next to the corners are 2 away.
        ((1, 2, 1), (6 + math.sqrt(5)) / (24 + 2 * math.sqrt(5))),
    ],
)
def test_nsd_of_a_2d_image_weighs_the_outline_by_its_length(spacing, expected):
    reference = volume((20, 20, 1), label1=((5, 10), (5, 10), (0, 1)))
    prediction = volume((20, 20, 1), label1=((8, 13), (5, 10), (0, 1)))
    score = score_case(prediction, reference, [1], spacing, unit="pixel")[1]
    assert score.metrics["nsd"] == pytest.approx(expected, rel=1e-5)
    assert score.metrics["hd95"] == 3
    assert score.metrics["volume_difference"] == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_slice_is_measured_in_its_plane(axis):
    outer, inner = np.zeros((12, 12), np.uint8), np.zeros((12, 12), np.uint8)
    outer[1:10, 1:10], inner[3:8, 3:8] = 1, 1
    spacing = [1.0, 1.0]
    spacing.insert(axis, 50.0)
    score = score_case(np.expand_dims(inner, axis), np.expand_dims(outer, axis), [1], spacing, tolerance=2)[1]
    # As a volume the whole square would be surface, and the distance from most of it to the inner one 0.
    assert score.metrics["hd95"] == pytest.approx(math.sqrt(8))
    assert score.metrics["volume_difference"] == pytest.approx((25 - 81) * 50 / 1000)


def test_nsd_tolerance():
    reference = volume((12, 12, 12), label1=((2, 8), (2, 8), (2, 8)))
    prediction = np.roll(reference, 1, 2)
    scores = [score_case(prediction, reference, [1], (1, 1, 4), tolerance=tolerance)[1] for tolerance in (0, 3.9, 4)]
    nsd = [score.metrics["nsd"] for score in scores]
    assert 0 < nsd[0] < nsd[1] < nsd[2] == 1


@pytest.mark.parametrize("predicted", [0, 3])
def test_surfaces_are_measured_without_warnings(recwarn, predicted):
    reference = volume((8, 8, 8), label1=((2, 5), (2, 5), (2, 5)))
    score_case(volume((8, 8, 8), label1=((2, 2 + predicted), (2, 5), (3, 6))), reference, [1], (1, 1, 1))
    assert not [warning for warning in recwarn.list if warning.category is FutureWarning]


def test_a_perfect_prediction():
    labels = volume((8, 8, 4), label1=((0, 3), (0, 8), (0, 4)), label2=((4, 8), (2, 5), (1, 2)))
    for score in score_case(labels, labels.astype(np.int64), None, (1, 1, 3)).values():
        assert [score.metrics[name] for name in ("dice", "iou", "nsd", "hd95")] == [1, 1, 1, 0]
        assert score.metrics["volume_difference"] == score.metrics["relative_volume_difference"] == 0


def test_empty_masks_are_told_apart():
    nothing = np.zeros((6, 6, 6), np.uint8)
    something = volume((6, 6, 6), label1=((1, 3), (1, 3), (1, 3)))
    both = score_case(nothing, nothing, [1], (1, 1, 1))[1]
    assert both.empty == "both"
    assert all(math.isnan(both.metrics[name]) for name in ("dice", "iou", "hd95", "nsd"))
    assert both.metrics["volume_difference"] == 0
    assert math.isnan(both.metrics["relative_volume_difference"])
    false_negative = score_case(nothing, something, [1], (1, 1, 1))[1]
    false_positive = score_case(something, nothing, [1], (1, 1, 1))[1]
    assert (false_negative.empty, false_positive.empty) == ("prediction", "reference")
    for score in (false_negative, false_positive):
        assert [score.metrics[name] for name in ("dice", "iou", "nsd")] == [0, 0, 0]
        assert math.isnan(score.metrics["hd95"])
    assert false_negative.metrics["relative_volume_difference"] == -1
    assert false_positive.metrics["volume_difference"] == pytest.approx(0.008)


def test_values_are_found_in_either_map():
    reference = volume((6, 6, 6), label3=((0, 2), (0, 2), (0, 2)))
    prediction = volume((6, 6, 6), label200=((3, 5), (3, 5), (3, 5)))
    assert list(score_case(prediction, reference, None, (1, 1, 1))) == [3, 200]
    assert list(score_case(prediction, reference, [5], (1, 1, 1))) == [5]


def test_a_region_is_the_union_of_its_values():
    reference = volume((8, 8, 8), label1=((0, 4), (0, 4), (0, 4)), label2=((4, 6), (0, 4), (0, 4)))
    prediction = volume((8, 8, 8), label2=((0, 3), (0, 4), (0, 4)), label3=((3, 6), (0, 4), (0, 4)))
    scores = score_case(prediction, reference, [(1, 2, 3), (2, 3), 3], (1, 1, 1))
    assert list(scores) == [(1, 2, 3), (2, 3), 3]
    whole, core, last = scores.values()
    assert (whole.metrics["dice"], whole.metrics["hd95"], whole.metrics["nsd"]) == (1, 0, 1)
    assert core.metrics["dice"] == pytest.approx(2 * 32 / (96 + 32))
    assert (core.prediction_voxels, core.reference_voxels) == (96, 32)
    assert last.empty == "reference"


def test_voxels_that_are_not_annotated_do_not_count():
    """Of ten slices four are annotated; what is predicted in the others is neither right nor wrong."""
    truth = volume((6, 6, 10), label1=((2, 5), (2, 5), (2, 8)))
    reference = np.full_like(truth, 9)
    reference[:, :, 1:5] = truth[:, :, 1:5]
    prediction = np.ones_like(truth)
    prediction[:, :, 1:5] = np.roll(truth, 1, 0)[:, :, 1:5]
    score = score_case(prediction, reference, [1], (1, 1, 2), ignore=9)[1]
    assert (score.prediction_voxels, score.reference_voxels) == (27, 27)
    assert (score.metrics["dice"], score.metrics["iou"]) == (pytest.approx(2 / 3), 0.5)
    assert score.metrics["volume_difference"] == 0
    # Both masks end at slice 4 for no other reason than that annotation does.
    assert math.isnan(score.metrics["hd95"]) and math.isnan(score.metrics["nsd"])
    assert list(score_case(prediction, reference, None, (1, 1, 2), ignore=9)) == [1]
    assert list(score_case(prediction, reference, None, (1, 1, 2))) == [1, 9]


def test_surfaces_count_where_nothing_cuts_them_off():
    truth = volume((12, 9, 9), label1=((2, 5), (2, 5), (2, 5)), label2=((7, 9), (2, 5), (2, 5)))
    prediction = np.roll(truth, 1, 1)
    plain = score_case(prediction, truth, [1, 2], (1, 1, 1))
    reference = truth.copy()
    reference[10:] = 9
    prediction[10:] = 1
    scores = score_case(prediction, reference, [1, 2], (1, 1, 1), ignore=9)
    assert scores == plain
    reference[9, 1, 1] = 9  # touches label 2 with a corner
    scores = score_case(prediction, reference, [1, 2], (1, 1, 1), ignore=9)
    assert scores[1] == plain[1]
    assert math.isnan(scores[2].metrics["hd95"]) and scores[2].metrics["dice"] == plain[2].metrics["dice"]


def test_a_label_that_is_nowhere_annotated():
    nothing = np.full((4, 4, 4), 9, np.uint8)
    score = score_case(np.ones_like(nothing), nothing, [1, (1, 2)], (1, 1, 1), ignore=9)
    assert [each.empty for each in score.values()] == ["both", "both"]


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(2, 2, 2\)"):
        score_case(np.zeros((2, 2, 2), int), np.zeros((2, 2, 3), int), [1], (1, 1, 1))


@pytest.mark.parametrize(("shape", "spacing"), [((24, 30, 16), (1.0, 0.7, 3.0)), ((60, 50), (1.0, 1.0))])
def test_surface_distances_are_monais(shape, spacing):
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    noise = np.random.default_rng(0).normal(size=(2, *shape))
    smooth = ndimage.gaussian_filter(noise, (0, *[2.0] * len(shape)))
    prediction, reference = smooth[0] > 0, smooth[0] + 0.4 * smooth[1] > 0.01
    masks = LabelMasks(prediction, reference, spacing, tolerance=1.0, voxel_volume=1.0, cut_off=False)
    tensors = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    same = {"include_background": True, "spacing": spacing}
    distance = float(compute_hausdorff_distance(*tensors, percentile=95, **same))
    share = float(compute_surface_dice(*tensors, [1.0], use_subvoxels=True, **same))
    assert METRICS["hd95"].function(masks) == pytest.approx(distance, rel=1e-5)
    assert METRICS["nsd"].function(masks) == pytest.approx(share, rel=1e-5)
