"""How nnU-Net's order of axes is translated, by how the files' axes run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from made_fingerprints import fingerprint

from seg_transfer.data.nnunet import NnunetConfiguration, NnunetPlans
from seg_transfer.errors import UserError
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.nnunet_grid import nnunet_grid


def plans(
    transpose: tuple[int, int, int] = (0, 1, 2),
    *,
    reoriented: bool = False,
    spacing: tuple[float, ...] = (4.0, 1.0, 1.0),
) -> NnunetPlans:
    chosen = NnunetConfiguration(
        name="made",
        spacing=spacing,
        patch_size=tuple(range(16, 16 + len(spacing))),
        normalization_schemes=("ZScoreNormalization",),
        use_mask_for_norm=(False,),
    )
    return NnunetPlans(Path("nnUNetPlans.json"), chosen, transpose, reoriented, None, (None,))


def oriented(*orientations: str) -> Fingerprint:
    made = fingerprint(cases=len(orientations))
    cases = [case.model_copy(update={"orientation": one}) for case, one in zip(made.cases, orientations, strict=True)]
    return made.model_copy(update={"cases": tuple(cases)})


@pytest.mark.parametrize(
    ("orientation", "transpose", "axes"),
    [
        ("RAS", (0, 1, 2), (2, 1, 0)),
        ("LPS", (0, 1, 2), (2, 1, 0)),
        ("RAS", (2, 0, 1), (0, 2, 1)),
        ("ASR", (0, 1, 2), (0, 2, 1)),
        ("SAR", (2, 0, 1), (2, 0, 1)),
        ("PIR", (1, 0, 2), (2, 0, 1)),
    ],
)
def test_axes_follow_the_files(orientation: str, transpose: tuple[int, int, int], axes: tuple[int, int, int]) -> None:
    assert nnunet_grid(plans(transpose), oriented(orientation)).axes[0] == axes


def test_readers_that_turn_images_make_the_files_axes_irrelevant() -> None:
    assert nnunet_grid(plans((1, 0, 2), reoriented=True), oriented("PIR")).axes[0] == (1, 2, 0)


def test_the_most_frequent_order_decides_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert nnunet_grid(plans(), oriented("RAS", "ASR", "LAS")).axes[0] == (2, 1, 0)
    assert "2 of 3 cases decide" in caplog.text


def test_single_slices_along_another_axis_are_refused() -> None:
    made = fingerprint(shape=(1, 40, 40), dimension=2)
    with pytest.raises(UserError, match="single slices along another axis"):
        nnunet_grid(plans(spacing=(1.0, 1.0)), made)
