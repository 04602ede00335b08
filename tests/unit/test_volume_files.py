"""Volumes for the viewer: numbers of labels, and how large ones are thinned out."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest

from seg_transfer.data.image import image_from_array, image_from_pixels
from seg_transfer.errors import UserError
from seg_transfer.reporting.volume_files import MOST_VOXELS, exact_file, image_file, label_file, plane_of, thinning


def read(content: bytes) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(content))


def test_labels_are_numbered_in_the_order_of_their_names() -> None:
    labels = np.array([0, 7, 300, 5, -1, 70000, 8], np.int32).reshape(7, 1, 1)
    found = read(label_file(labels, np.eye(4), {"b": 300, "a": 7, "c": 70000}))
    assert np.asarray(found.dataobj).ravel().tolist() == [0, 2, 1, 0, 0, 3, 0]


def test_a_label_map_keeps_its_place_when_thinned_out() -> None:
    labels = np.arange(8, dtype=np.uint8).reshape(8, 1, 1) % 3
    found = read(label_file(labels, np.diag([2.0, 1, 1, 1]), {"one": 1, "two": 2}, (2, 1, 1)))
    assert np.asarray(found.dataobj).ravel().tolist() == [0, 2, 1, 0]
    assert found.header.get_zooms()[0] == 4


def test_255_labels_have_a_colour() -> None:
    labels = np.arange(257, dtype=np.int64).reshape(257, 1, 1)
    values = {str(value): value for value in range(1, 256)}
    assert np.asarray(read(label_file(labels, np.eye(4), values)).dataobj).ravel().tolist() == [*range(256), 0]
    with pytest.raises(UserError, match="256 labels, at most 255"):
        label_file(labels, np.eye(4), values | {"256": 256})
    assert not np.asarray(read(label_file(labels, np.eye(4), {})).dataobj).any()


def test_a_2d_image_keeps_its_colours_and_its_rows_run_downwards() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    image = image_from_pixels(pixels)
    whole, thinned = nibabel.Nifti1Image.from_bytes(exact_file(image)), read(image_file(image, (2, 1, 1)))
    for found, step in ((whole, 1), (thinned, 2)):
        shown = np.asarray(found.dataobj)[..., 0]
        assert shown["G"].T.tolist() == pixels[:, ::step, 1].tolist()
        assert found.affine.diagonal().tolist() == [step, -1, 1, 1]
    assert plane_of(image) == "image"
    planes = [plane_of(image_from_array(np.zeros(shape), (1, 1, 1))) for shape in ((4, 4, 4), (4, 1, 4))]
    assert planes == ["", "coronal"]


def test_thinning_evens_out_the_voxels() -> None:
    assert thinning((100, 100, 100), (1, 1, 1)) == (1, 1, 1)
    steps = thinning((512, 512, 600), (0.7, 0.7, 1.0))
    assert np.prod([-(-size // step) for size, step in zip((512, 512, 600), steps, strict=True)]) <= MOST_VOXELS
    assert thinning((40000, 40000, 1), (1, 1, 1))[2] == 1
