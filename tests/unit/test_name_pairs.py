"""Label maps whose names are like those of their images, not the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg_transfer.data.name_pairs import pair_names

PUBLIC = {
    "Synapse": ("img{:04}", "label{:04}"),
    "LiTS": ("volume-{}", "segmentation-{}"),
    "PROMISE12": ("Case{:02}", "Case{:02}_segmentation"),
    "ISIC": ("ISIC_{:07}", "ISIC_{:07}_segmentation"),
    "DRIVE": ("{}_training", "{}_manual1"),
    "GlaS": ("train_{}", "train_{}_anno"),
    "BUSI": ("benign ({})", "benign ({})_mask"),
    "another case": ("SCAN_{}", "scan_{} GT"),
    "before and after": ("ct.{}.axial", "mask {} final"),
}
"""Names of images and label maps of known data sets."""


@pytest.mark.parametrize(("image", "label"), PUBLIC.values(), ids=PUBLIC)
@pytest.mark.parametrize("numbers", [[7], [9, 10, 11], list(range(1, 131))], ids=len)
def test_names_of_public_data_sets(image: str, label: str, numbers: list[int]) -> None:
    expected = {label.format(number): image.format(number) for number in numbers}
    assert pair_names(expected, expected.values()) == expected
    assert pair_names(expected, [*expected.values(), image.format(999)]) == expected, "an image has no label"


@pytest.mark.parametrize(
    ("labels", "images"),
    [
        (["mask"], ["img"]),
        (["b1", "b2"], ["a2", "a3"]),
        (["x_1", "x_2", "x_3"], ["a_1", "a_2"]),
        (["1_reader1", "1_reader2"], ["1", "2"]),
        (["1-1", "1-2", "1-3"], ["1", "2", "3"]),
        (["2021_x_1", "2021_x_2"], ["y_1_2020", "y_2_2020"]),
        (["01_m", "02_m"], ["1", "2"]),
        ([], ["a"]),
        (["a"], []),
    ],
)
def test_what_leaves_a_label_map_without_an_image_of_its_own(labels: list[str], images: list[str]) -> None:
    assert pair_names(labels, images) == {}


def test_the_least_is_left_out() -> None:
    """Of ``1_2`` both numbers count, although the last ones alone would do."""
    labels, images = ["m_1_2", "m_1_3"], ["2_3", "1_3", "1_2", "2_2"]
    assert pair_names(labels, images) == {"m_1_2": "1_2", "m_1_3": "1_3"}


def test_two_ways_that_differ_are_none() -> None:
    assert pair_names(["a_b", "b_a"], ["a_b_c", "b_a_c"]) == {"a_b": "a_b_c", "b_a": "b_a_c"}
    assert pair_names(["1_2_x", "2_1_x"], ["1_2", "2_1"]) == {"1_2_x": "1_2", "2_1_x": "2_1"}
    assert pair_names(["k1_l"], ["1_l", "k1"]) == {}


WORDS = st.text("abcxyz", min_size=1, max_size=6)
NUMBERS = st.sets(st.integers(0, 10**6), min_size=2, max_size=12)


@given(numbers=NUMBERS, words=st.tuples(WORDS, WORDS, WORDS, WORDS), separator=st.sampled_from("_- ."))
def test_numbers_between_words_are_found(numbers: set[int], words: tuple[str, ...], separator: str) -> None:
    first, second, third, fourth = words
    expected = {
        f"{third}{separator}{number}{separator}{fourth}": f"{first}{separator}{number}{separator}{second}"
        for number in numbers
    }
    assert pair_names(expected, expected.values()) == expected
