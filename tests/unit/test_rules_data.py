"""Rules on data at the edges where their choice changes, and the figures in their reasons."""

from __future__ import annotations

import pytest
from made_fingerprints import FIGURES, channel

from seg_transfer.planning.counted import Counted
from seg_transfer.planning.data_plan import Normalization
from seg_transfer.planning.label_means import LabelSpread
from seg_transfer.planning.rules import spacing as geometry
from seg_transfer.planning.rules.normalization import input_mapping, normalization, shared_scale

SHARED = (True, "alike")


def kind(made: object, *, dimension: int = 3, crop_ratio: float = 1.0) -> str:
    return normalization(made, dimension=dimension, crop_ratio=crop_ratio, scale=SHARED)[0].kind  # type: ignore[arg-type]


class TestNormalization:
    @pytest.mark.parametrize("name", ["CT", "ct", "CT venous", "low-dose CT", "ct_1"])
    def test_ct_as_a_whole_word_is_clipped_to_the_data_sets_percentiles(self, name: str) -> None:
        chosen, reason = normalization(channel(name), dimension=3, crop_ratio=1, scale=SHARED)
        assert chosen == Normalization(kind="clip_zscore", lower=-20, upper=120, mean=50, std=20)
        assert "-20" in reason and "120" in reason

    @pytest.mark.parametrize("name", ["OCT", "section", "MRI", "PET", "dict"])
    def test_ct_inside_another_word_is_not_ct(self, name: str) -> None:
        assert kind(channel(name)) == "zscore"

    def test_ct_without_foreground_has_no_figures_to_clip_to(self) -> None:
        assert kind(channel("CT", foreground=None)) == "zscore"
        flat = FIGURES.model_copy(update={"percentile_99_5": FIGURES.percentile_00_5})
        assert kind(channel("CT", foreground=flat)) == "zscore"

    @pytest.mark.parametrize(("crop_ratio", "mask"), [(0.75, True), (0.751, False)])
    def test_the_mask_is_used_where_cropping_removes_a_quarter(self, crop_ratio: float, mask: bool) -> None:
        chosen, reason = normalization(channel("MRI"), dimension=3, crop_ratio=crop_ratio, scale=SHARED)
        assert chosen.mask is mask
        assert ("75%" in reason) is mask

    def test_a_fixed_range_is_kept(self) -> None:
        eight_bit = channel("R", dtypes=("uint8",), maximum=255)
        chosen, _ = normalization(eight_bit, dimension=2, crop_ratio=1, scale=SHARED)
        assert (chosen.kind, chosen.lower, chosen.upper) == ("minmax", 0, 255)
        probability = channel("vesselness", dtypes=("float32", "float64"), minimum=0.0, maximum=0.98)
        chosen, _ = normalization(probability, dimension=3, crop_ratio=1, scale=SHARED)
        assert (chosen.kind, chosen.lower, chosen.upper) == ("minmax", 0, 1)
        sixteen_bit = channel("red", dtypes=("uint16",), maximum=60000)
        assert normalization(sixteen_bit, dimension=2, crop_ratio=1, scale=SHARED)[0].upper == 65535

    def test_eight_bits_do_not_make_a_scale(self) -> None:
        assert kind(channel("image", dtypes=("uint8",), maximum=255), dimension=3) == "zscore"
        assert kind(channel("ultrasound", dtypes=("uint8",), maximum=255), dimension=2) == "zscore"
        assert kind(channel("R", dtypes=("uint16", "uint8"), maximum=255), dimension=2) == "zscore"
        assert kind(channel("image", dtypes=("float32",), minimum=-0.01, maximum=1)) == "zscore"

    @pytest.mark.parametrize(("ratio", "expected"), [(5.0, "minmax"), (5.01, "zscore")])
    def test_outliers_decide_whatever_the_name_says(self, ratio: float, expected: str) -> None:
        made = channel("R", dtypes=("uint8",), maximum=255, outlier_ratio=ratio)
        chosen, reason = normalization(made, dimension=2, crop_ratio=1, scale=SHARED)
        assert chosen.kind == expected
        assert f"{ratio:.3g}" in reason

    def test_a_fixed_range_without_a_shared_scale_is_not_kept(self) -> None:
        eight_bit = channel("R", dtypes=("uint8",), maximum=255)
        chosen, reason = normalization(eight_bit, dimension=2, crop_ratio=1, scale=(False, "stains differ"))
        assert chosen.kind == "zscore"
        assert "fixed range 0 to 255" in reason and "stains differ" in reason
        asked = normalization(eight_bit, dimension=2, crop_ratio=1, scale=(False, ""), requested="minmax")[0]
        assert asked.kind == "minmax"

    @pytest.mark.parametrize(
        ("blue", "expected", "figures"),
        [
            ((0.6, 0.6), True, (0.4, 0.4)),
            ((0.61, 0.6), False, (0.4, 0.4)),
            ((0.9, 0.6), False, (0.5, 0.4)),
            (None, True, (0.3, 0.3)),
        ],
    )
    def test_the_channels_of_a_2d_image_decide_together(
        self, blue: tuple[float, float] | None, expected: bool, figures: tuple[float, float]
    ) -> None:
        red = LabelSpread(as_stored=0.3, zscore=0.3)
        other = LabelSpread(as_stored=blue[0], zscore=blue[1]) if blue else None
        image = [channel(name, dtypes=("uint8",), maximum=255, label_spread=red) for name in "RG"]
        image.append(channel("B", dtypes=("uint8",), maximum=255, label_spread=other))
        kept, reason = shared_scale(image, dimension=2)
        assert kept is expected
        assert f"by {figures[0]:g} of the spread" in reason and f"by {figures[1]:g} after z-score" in reason

    def test_a_scale_is_looked_for_where_the_range_is_fixed(self) -> None:
        scaled = channel("MRI", label_spread=LabelSpread(as_stored=5.0, zscore=0.1))
        kept = channel("R", dtypes=("uint8",), maximum=255, label_spread=LabelSpread(as_stored=0.1, zscore=0.2))
        assert shared_scale([scaled, kept], dimension=2)[0]
        assert shared_scale([scaled], dimension=3) == (True, "no two cases to compare")

    def test_the_users_choice_wins(self) -> None:
        chosen, reason = normalization(channel("CT"), dimension=3, crop_ratio=1, scale=SHARED, requested="minmax")
        assert (chosen.kind, chosen.lower, chosen.upper) == ("minmax", 0, 1500)
        assert reason == "requested"

    def test_mean_and_std_of_the_encoder_meet_min_max_only(self) -> None:
        minmax, zscore = Normalization(kind="minmax", lower=0, upper=1), Normalization(kind="zscore")
        assert input_mapping([minmax] * 3)[0] == "encoder_mean_std"
        assert input_mapping([minmax, zscore])[0] == "as_is"
        assert input_mapping([zscore])[0] == "as_is"


class TestGeometry:
    @pytest.mark.parametrize(
        ("spacing", "axes"),
        [
            ((1, 1, 1), (2, 1, 0)),
            ((0.7, 0.7, 5), (2, 1, 0)),
            ((5, 0.7, 0.7), (0, 2, 1)),
            ((0.7, 5, 0.7), (1, 2, 0)),
            ((1, 1, 0.995), (2, 1, 0)),
            ((1, 1, 0.9), (1, 2, 0)),
            ((2, 1, 2), (2, 1, 0)),
        ],
    )
    def test_slices_lie_along_the_coarsest_axis_and_ties_go_to_axial(
        self, spacing: tuple[float, float, float], axes: tuple[int, int, int]
    ) -> None:
        chosen, reason = geometry.axes(spacing, (50, 50, 50), dimension=3)
        assert chosen == axes
        assert f"{spacing[1]:.4g}" in reason

    def test_single_slices_are_read_across_their_only_axis(self) -> None:
        assert geometry.axes((1, 1, 1), (999, 960, 1), dimension=2)[0] == (2, 1, 0)
        assert geometry.axes((0.1, 1, 1), (1, 200, 200), dimension=2)[0] == (0, 2, 1)

    @pytest.mark.parametrize(("ratio", "crop"), [(0.95, True), (0.96, False), (1.0, False)])
    def test_cropping_must_be_worth_it(self, ratio: float, crop: bool) -> None:
        chosen, reason = geometry.crop_nonzero(ratio)
        assert chosen is crop
        assert f"{ratio:.0%}" in reason

    def test_the_median_spacing_where_slices_are_close(self) -> None:
        spacings = [(3.0, 1.0, 1.0), (3.0, 1.0, 1.0), (1.0, 2.0, 1.0)]
        chosen, _ = geometry.target_spacing(Counted.columns(spacings), (50, 50, 50), dimension=3, unit="mm")
        assert chosen == (3.0, 1.0, 1.0)

    def test_far_slices_take_the_tenth_percentile_but_never_finer_than_in_plane(self) -> None:
        spacings = [(4.0 + index, 1.0, 1.0) for index in range(11)]
        chosen, reason = geometry.target_spacing(Counted.columns(spacings), (50, 50, 50), dimension=3, unit="mm")
        assert chosen == (5.0, 1.0, 1.0)
        assert "median 9" in reason
        mixed = [(0.5, 1.0, 1.0)] * 4 + [(6.0, 1.0, 1.0)] * 6
        chosen, _ = geometry.target_spacing(Counted.columns(mixed), (50, 50, 50), dimension=3, unit="mm")
        assert chosen == (1.0, 1.0, 1.0)

    @pytest.mark.parametrize(("side", "factor"), [(32, 1.0), (24, 24 / 32), (10, 0.5)])
    def test_tiny_slices_are_resampled_finer_at_most_twice(self, side: int, factor: float) -> None:
        chosen, _ = geometry.target_spacing(Counted.columns([(1.0, 1.0, 1.0)]), (40, 60, side), dimension=3, unit="mm")
        assert chosen == pytest.approx((1.0, factor, factor))

    @pytest.mark.parametrize(
        ("slices", "side", "short"),
        [
            ([5, 5.01], 50, "median of 2 cases"),
            ([5, 9], 50, "median of 2 cases, finer along slices"),
            ([2, 2], 24, "median of 2 cases, in-plane 1.33 times as fine"),
            ([5, 9], 24, "median of 2 cases, finer along slices, in-plane 1.33 times as fine"),
        ],
    )
    def test_the_short_reason_says_what_is_not_the_median(self, slices: list[float], side: int, short: str) -> None:
        spacings = Counted.columns([(step, 1.0, 1.0) for step in slices])
        _, reason = geometry.target_spacing(spacings, (40, 60, side), dimension=3, unit="mm")
        assert reason.split("; ")[0] == short

    @pytest.mark.parametrize(("ratio", "order"), [(3.0, 3), (3.01, 0)])
    def test_far_slices_are_not_splined(self, ratio: float, order: int) -> None:
        assert geometry.slice_order(ratio)[0] == order
