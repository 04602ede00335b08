import math

import numpy as np
import pytest
from made_scores import scores
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image as Pillow

from seg_transfer.data.formats import write_volume
from seg_transfer.data.geometry import Grid
from seg_transfer.data.image import image_from_array
from seg_transfer.evaluation.drawing import ERROR_OPACITY, ERRORS, SliceCounts, draw_plane, errors_of
from seg_transfer.evaluation.overlay import CaseFiles, case_overlay, pick_cases, save_overlay
from seg_transfer.evaluation.planes import AXIAL, CORONAL, IMAGE_2D, SAGITTAL, outline, planes_of
from seg_transfer.evaluation.score_files import evaluate_files


def test_best_median_and_worst():
    assert pick_cases(scores({"a": 0.2, "b": 0.9, "c": 0.5, "d": 0.4, "e": math.nan})) == [
        ("best", "b"),
        ("median", "d"),
        ("worst", "a"),
    ]
    several = scores({str(index): index / 10 for index in range(10)})
    assert [name for _, name in pick_cases(several, 6)] == ["9", "7", "5", "3", "1", "0"]
    assert [title for title, _ in pick_cases(several, 6)][1:-1] == ["3 of 10", "5 of 10", "7 of 10", "9 of 10"]
    assert pick_cases(scores({"a": 0.2, "b": 0.9}), 6) == [("best", "b"), ("worst", "a")]
    assert pick_cases(scores({"a": 0.2, "b": 0.9})) == [("best", "b"), ("worst", "a")]
    assert pick_cases(scores({"a": 0.2})) == [("only case", "a")]
    assert pick_cases(scores({"a": math.nan})) == [("no label", "a")]


def test_planes_lie_as_radiologists_see_them():
    """The voxel that is most right, most anterior and most superior ends where the letters say."""
    volume = np.zeros((3, 4, 5), int)
    volume[2, 3, 4] = 1
    axial, coronal, sagittal = AXIAL.cut(volume, 4), CORONAL.cut(volume, 3), SAGITTAL.cut(volume, 2)
    assert axial.shape == (4, 3)
    assert coronal.shape == (5, 3)
    assert sagittal.shape == (5, 4)
    assert axial[0, 0] == coronal[0, 0] == sagittal[0, 0] == 1
    assert (AXIAL.marks, CORONAL.marks, SAGITTAL.marks) == (("R", "L", "A"), ("R", "L", "S"), ("A", "P", "S"))
    assert AXIAL.cut(volume[None], 4).shape == (1, 4, 3)


def test_a_2d_image_keeps_its_rows_and_columns():
    """A 2D image is read with x along its columns and y down its rows."""
    image = np.arange(6).reshape(3, 2, 1)
    np.testing.assert_array_equal(IMAGE_2D.cut(image, 0), [[0, 2, 4], [1, 3, 5]])


def test_one_plane_for_2d_images_and_single_slices():
    def planes(shape, unit="mm"):
        return planes_of(image_from_array(np.zeros(shape, np.float32), (1, 1, 1), unit))

    assert planes((4, 4, 4)) == (AXIAL, CORONAL, SAGITTAL)
    assert planes((4, 1, 4)) == (CORONAL,)
    assert planes((4, 4, 1), "pixel") == (IMAGE_2D,)


def test_the_slice_with_most_foreground_is_shown():
    reference, prediction = np.zeros((4, 4, 40), np.uint8), np.zeros((4, 4, 40), np.uint8)
    reference[...] = 9  # not annotated

    def shown(plane):
        counts = SliceCounts.of(reference, prediction, [1, (2, 3)])
        return counts.labelled_slice(plane), counts.wrong_slice(plane)

    assert shown(AXIAL) == (20, 20)
    prediction[:, :, 35] = 3
    assert shown(AXIAL) == (35, 20), "what is not annotated has no errors"
    reference[...] = 0
    assert shown(AXIAL) == (35, 35)
    reference[1:3, 1, 17], reference[1, 1, 18] = 1, 2
    assert shown(AXIAL) == (17, 35)
    assert shown(SAGITTAL) == (1, 1) and shown(CORONAL) == (1, 1)


def test_an_outline_runs_along_the_edges_of_pixels():
    mask = np.zeros((3, 4), bool)
    mask[1, 3] = True
    edges = {frozenset(map(tuple, edge)) for edge in outline(mask).tolist()}
    corners = {"nw": (3, 1), "ne": (4, 1), "sw": (3, 2), "se": (4, 2)}
    sides = ("nw", "ne"), ("sw", "se"), ("nw", "sw"), ("ne", "se")
    assert edges == {frozenset((corners[a], corners[b])) for a, b in sides}
    assert len(outline(np.ones((5, 7), bool))) == 2 * (5 + 7)
    assert len(outline(np.zeros((5, 7), bool))) == 0


@pytest.mark.parametrize("flat", [False, True])
def test_the_overlay_shows_reference_and_prediction(tmp_path, flat):
    shape, ending = ((40, 32, 1), ".png") if flat else ((40, 32, 8), ".nii.gz")
    grid = Grid(shape, np.diag([1.0, 1.0, 1.0 if flat else 4.0, 1.0]), "pixel" if flat else "mm", flat=flat)
    files = {}
    for case, shift in (("a", 0), ("b", 6)):
        labels = np.zeros(shape, np.uint8)
        labels[8:24, 8:20] = 1
        paths = [tmp_path / f"{case}_{kind}{ending}" for kind in ("image", "reference", "prediction")]
        for path, array in zip(paths, (labels * 0, labels, np.roll(labels, shift, 0)), strict=True):
            write_volume(path, array, grid)
        files[case] = CaseFiles((paths[0],), reference=paths[1], prediction=paths[2])
    pairs = {case: (file.prediction, file.reference) for case, file in files.items()}
    found = evaluate_files(pairs, labels={"liver": 1})
    save_overlay(tmp_path / "overlay.png", found, files)
    drawn = np.asarray(Pillow.open(tmp_path / "overlay.png").convert("RGB")).astype(int)
    # Orange on black: the outline at its full colour, the area at 0.4 of it.
    outline_pixels = (np.abs(drawn - (230, 159, 0)).max(axis=2) < 12).sum()
    area_pixels = (np.abs(drawn - (92, 64, 0)).max(axis=2) < 8).sum()
    assert outline_pixels > 500
    assert area_pixels > 10_000
    top, bottom = np.array_split((np.abs(drawn - (92, 64, 0)).max(axis=2) < 8).sum(axis=1), 2)
    assert top.sum() > 0
    assert bottom.sum() > 0
    missed, extra = (np.array(to_rgb(ERRORS[kind])) * 255 for kind in ("false negative", "false positive"))
    for colour in (missed, extra):  # of the shifted case, over black; the other one has no errors
        errors = np.abs(drawn - colour * ERROR_OPACITY).max(axis=2) < 8
        assert errors.sum() > 2000 and errors[: len(errors) // 2].sum() == 0


@pytest.mark.parametrize(
    ("wrong_at", "titles"),
    [(5, ["a: most of the labels, and most errors"]), (1, ["a: most of the labels", "a: most errors"])],
)
def test_errors_have_a_row_where_they_lie_in_other_slices(wrong_at, titles, tmp_path):
    reference = np.zeros((8, 8, 8), np.uint8)
    reference[2:6, 2:6, 4:7] = 1
    reference[1:7, 1:7, 5] = 1
    predicted = reference.copy()
    predicted[2:6, 2:6, wrong_at] = wrong_at == 1
    grid = Grid((8, 8, 8), np.eye(4), "mm")
    paths = [tmp_path / f"{name}.nii.gz" for name in ("image", "reference", "predicted")]
    for path, array in zip(paths, (reference * 3, reference, predicted), strict=True):
        write_volume(path, array, grid)
    figure = case_overlay("a", CaseFiles((paths[0],), *paths[1:]), {"ball": 1}, None)
    assert [part._suptitle.get_text() for part in figure.subfigs] == titles


def test_errors_are_of_three_kinds_and_none_where_nothing_is_annotated():
    reference = np.array([0, 1, 1, 2, 9, 9, 0, 1])[:, None, None]
    prediction = np.array([1, 1, 0, 1, 1, 0, 0, 2])[:, None, None]
    assert errors_of(reference, prediction, [1, 2]).ravel().tolist() == [2, 0, 1, 3, 0, 0, 0, 3]
    assert errors_of(reference, prediction, [(1, 2), 2]).ravel().tolist() == [2, 0, 1, 3, 0, 0, 0, 3]


def test_nested_regions_lie_over_each_other_and_what_is_not_annotated_is_no_foreground():
    shape = (40, 40, 3)
    reference = np.full(shape, 9, np.uint8)  # only the first slice is annotated
    prediction = np.zeros(shape, np.uint8)
    for labels in (reference[..., :1], prediction):
        labels[...] = 0
        labels[5:35, 5:35] = 1
        labels[10:30, 10:30] = 2
    image = image_from_array(np.zeros(shape, np.float32), (1, 1, 1))
    figure, drawn = Figure(), []
    for values in ([(1, 2), 2], [(1, 2)]):
        axes = figure.subplots()
        draw_plane(axes, AXIAL, image, reference, prediction, values, inches=3, index=0)
        assert [text.get_text() for text in axes.texts][-1] == "axial 1/3"
        drawn.append(np.asarray(axes.images[-1].get_array()))
    nested, whole = drawn
    assert (whole[..., 3] > 0).sum() == (nested[..., 3] > 0).sum() == 30 * 30
    assert (nested[..., :3] != whole[..., :3]).any(axis=2).sum() == 20 * 20
