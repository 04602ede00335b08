"""Each rule at the edges where its choice changes, and that its reason carries the measured figures."""

from __future__ import annotations

import pytest
from made_fingerprints import FIGURES, channel

from seg_transfer.catalogue import ENCODERS, entry
from seg_transfer.errors import UserError
from seg_transfer.planning.cost import Machine, step_flops, step_memory
from seg_transfer.planning.plan import Normalization, Weights
from seg_transfer.planning.rules import configuration as configuration_rule
from seg_transfer.planning.rules import encoder as encoder_rule
from seg_transfer.planning.rules import geometry, patch, training, transfer
from seg_transfer.planning.rules.augmentation import augmentation, mirror_axes, tta_axes
from seg_transfer.planning.rules.decoder import decoder_channels
from seg_transfer.planning.rules.normalization import input_mapping, normalization

RESNET18 = entry("resnet18")
AMPLE = patch.Limits(machine=Machine("cuda"), memory_bytes=10**12, step_seconds=None)


def kind(made: object, *, dimension: int = 3, crop_ratio: float = 1.0) -> str:
    return normalization(made, dimension=dimension, crop_ratio=crop_ratio)[0].kind  # type: ignore[arg-type]


class TestNormalization:
    @pytest.mark.parametrize("name", ["CT", "ct", "CT venous", "low-dose CT", "ct_1"])
    def test_ct_as_a_whole_word_is_clipped_to_the_data_sets_percentiles(self, name: str) -> None:
        chosen, reason = normalization(channel(name), dimension=3, crop_ratio=1)
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
        chosen, reason = normalization(channel("MRI"), dimension=3, crop_ratio=crop_ratio)
        assert chosen.mask is mask
        assert ("75%" in reason) is mask

    def test_a_fixed_range_is_kept(self) -> None:
        eight_bit = channel("R", dtypes=("uint8",), maximum=255)
        chosen, _ = normalization(eight_bit, dimension=2, crop_ratio=1)
        assert (chosen.kind, chosen.lower, chosen.upper) == ("minmax", 0, 255)
        probability = channel("vesselness", dtypes=("float32", "float64"), minimum=0.0, maximum=0.98)
        chosen, _ = normalization(probability, dimension=3, crop_ratio=1)
        assert (chosen.kind, chosen.lower, chosen.upper) == ("minmax", 0, 1)
        sixteen_bit = channel("red", dtypes=("uint16",), maximum=60000)
        assert normalization(sixteen_bit, dimension=2, crop_ratio=1)[0].upper == 65535

    def test_eight_bits_do_not_make_a_scale(self) -> None:
        assert kind(channel("image", dtypes=("uint8",), maximum=255), dimension=3) == "zscore"
        assert kind(channel("ultrasound", dtypes=("uint8",), maximum=255), dimension=2) == "zscore"
        assert kind(channel("R", dtypes=("uint16", "uint8"), maximum=255), dimension=2) == "zscore"
        assert kind(channel("image", dtypes=("float32",), minimum=-0.01, maximum=1)) == "zscore"

    @pytest.mark.parametrize(("ratio", "expected"), [(5.0, "minmax"), (5.01, "zscore")])
    def test_outliers_decide_whatever_the_name_says(self, ratio: float, expected: str) -> None:
        made = channel("R", dtypes=("uint8",), maximum=255, outlier_ratio=ratio)
        chosen, reason = normalization(made, dimension=2, crop_ratio=1)
        assert chosen.kind == expected
        assert f"{ratio:.3g}" in reason

    def test_the_users_choice_wins(self) -> None:
        chosen, reason = normalization(channel("CT"), dimension=3, crop_ratio=1, requested="minmax")
        assert (chosen.kind, chosen.lower, chosen.upper) == ("minmax", 0, 1500)
        assert "asked" in reason

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
        chosen, _ = geometry.target_spacing(spacings, (50, 50, 50), dimension=3, unit="mm")
        assert chosen == (3.0, 1.0, 1.0)

    def test_far_slices_take_the_tenth_percentile_but_never_finer_than_in_plane(self) -> None:
        spacings = [(4.0 + index, 1.0, 1.0) for index in range(11)]
        chosen, reason = geometry.target_spacing(spacings, (50, 50, 50), dimension=3, unit="mm")
        assert chosen == (5.0, 1.0, 1.0)
        assert "median 9" in reason
        mixed = [(0.5, 1.0, 1.0)] * 4 + [(6.0, 1.0, 1.0)] * 6
        assert geometry.target_spacing(mixed, (50, 50, 50), dimension=3, unit="mm")[0] == (1.0, 1.0, 1.0)

    @pytest.mark.parametrize(("side", "factor"), [(32, 1.0), (24, 24 / 32), (10, 0.5)])
    def test_tiny_slices_are_resampled_finer_at_most_twice(self, side: int, factor: float) -> None:
        chosen, _ = geometry.target_spacing([(1.0, 1.0, 1.0)], (40, 60, side), dimension=3, unit="mm")
        assert chosen == pytest.approx((1.0, factor, factor))

    @pytest.mark.parametrize(("ratio", "order"), [(3.0, 3), (3.01, 0)])
    def test_far_slices_are_not_splined(self, ratio: float, order: int) -> None:
        assert geometry.slice_order(ratio)[0] == order


class TestConfiguration:
    settings: dict = {"dimension": 3, "ratio": 1.0, "slices": 30, "steps_3d": 1000, "device": "cpu"}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({}, "3d"),
            ({"dimension": 2}, "2d"),
            ({"slices": 7}, "2.5d"),
            ({"slices": 8}, "3d"),
            ({"steps_3d": 599}, "2.5d"),
            ({"steps_3d": 600}, "3d"),
            ({"ratio": 3.0}, "3d"),
            ({"ratio": 3.1}, "2.5d"),
            ({"ratio": 6.0, "steps_3d": 10, "device": "cuda"}, "3d"),
            ({"slices": 7, "device": "cuda"}, "2.5d"),
            ({"requested": "2d"}, "2d"),
        ],
    )
    def test_choice(self, changes: dict, expected: str) -> None:
        assert configuration_rule.configuration(**(self.settings | changes))[0] == expected

    def test_the_reason_carries_the_steps(self) -> None:
        assert "599" in configuration_rule.configuration(**(self.settings | {"steps_3d": 599}))[1]


class TestPatch:
    @pytest.mark.parametrize(
        ("ratio", "slices", "expected"),
        [(1.0, 35, 7), (1.5, 35, 7), (1.6, 35, 5), (3.0, 35, 5), (3.1, 35, 3), (1.0, 6, 5), (1.0, 5, 5), (1.0, 1, 3)],
    )
    def test_stack(self, ratio: float, slices: int, expected: int) -> None:
        assert patch.stack(ratio, slices)[0] == expected

    @pytest.mark.parametrize(
        ("side", "stages"), [(35, 3), (48, 3), (49, 4), (97, 5), (96, 4), (5, 1), (12, 1), (13, 2)]
    )
    def test_the_deepest_map_is_at_least_4_wide(self, side: int, stages: int) -> None:
        chosen, reason = patch.most_stages((30, 200, side), RESNET18, bundled=False)
        assert chosen == stages
        assert f" {side}" in reason

    def test_the_bundled_fifth_level_is_left_out(self) -> None:
        assert patch.most_stages((1, 500, 500), RESNET18, bundled=True)[0] == 4
        assert patch.most_stages((1, 500, 500), RESNET18, bundled=False)[0] == 5

    @pytest.mark.parametrize(
        ("spacing", "slices", "expected"),
        [
            ((1, 1, 1), 36, (2, 2, 2)),
            ((1, 1, 1), 12, (2, 1, 1)),
            ((1, 1, 1), 6, (1, 1, 1)),
            ((7.7, 1.25, 1.25), 36, (1, 1, 1)),
            ((3.27, 0.977, 0.977), 48, (1, 1, 2)),
            ((1.5, 1, 1), 36, (1, 2, 2)),
        ],
    )
    def test_slices_stride_where_that_evens_out_spacings(
        self, spacing: tuple[float, float, float], slices: int, expected: tuple[int, ...]
    ) -> None:
        assert patch.slice_strides(spacing, slices, 3)[0] == expected

    def fit(self, shape: tuple, limits: patch.Limits = AMPLE, configuration: str = "3d", stages: int = 3, **more):
        settings = {"entry": RESNET18, "stages": stages, "channels": 1, "classes": 3} | more
        return patch.fit(shape, (1, 1, 1), configuration=configuration, limits=limits, **settings)

    def test_a_small_case_is_covered_as_by_nnunet(self) -> None:
        made, reason = self.fit((36, 50, 35))
        assert made.patch == (40, 56, 40)
        assert "36 x 50 x 35" in reason

    def test_the_patch_shrinks_evenly_until_a_step_fits_into_the_memory(self) -> None:
        whole, _ = self.fit((128, 128, 64))
        limits = patch.Limits(Machine("cuda"), step_memory(whole, 2) * 2 // 3, None)
        made, reason = self.fit((128, 128, 64), limits)
        assert step_memory(made, 2) <= limits.memory_bytes < step_memory(whole, 2)
        assert all(size % 8 == 0 and size >= 32 for size in made.patch)
        assert made.patch[0] == made.patch[1] > made.patch[2]
        assert "128 x 128 x 64" in reason

    def test_on_a_cpu_time_limits_the_patch_and_then_the_levels(self) -> None:
        limits = patch.Limits(Machine("cpu"), 10**11, 1.5)
        made, _ = self.fit((1, 960, 960), limits, "2d", stages=4)
        assert made.stages == 4
        assert 64 <= made.patch[1] < 512
        assert Machine("cpu").seconds(step_flops(made, 4)) <= 1.5
        # 0.06 s are less than the smallest patch of four levels (4 x 64 x 64) takes: fewer levels bear a smaller one.
        fewer, _ = self.fit((1, 960, 960), patch.Limits(Machine("cpu"), 10**11, 0.06), "2d", stages=5)
        assert fewer.stages < 5
        assert Machine("cpu").seconds(step_flops(fewer, 4)) <= 0.06

    def test_slices_of_a_stack_are_never_given_up(self) -> None:
        made, _ = self.fit((7, 300, 300), patch.Limits(Machine("cpu"), 10**11, 1.0), "2.5d")
        assert made.patch[0] == 7

    def test_too_little_memory_is_said_with_what_it_takes(self) -> None:
        with pytest.raises(UserError, match=r"--memory.*(?s:.)*smallest patch"):
            self.fit((36, 50, 35), patch.Limits(Machine("cpu"), 500_000_000, None))

    def test_batch_is_bounded_by_each_limit_in_turn(self) -> None:
        made, _ = self.fit((36, 50, 35))
        ample = {"target_seconds": 100.0, "total_voxels": 1e12}
        assert patch.batch_size(made, AMPLE, **ample) == (8, "at most 8 in 3d")
        memory = patch.Limits(Machine("cuda"), step_memory(made, 5) + 1, None)
        assert patch.batch_size(made, memory, **ample)[0] == 5
        sample = Machine("cpu").seconds(step_flops(made, 1))
        cpu = patch.Limits(Machine("cpu"), 10**12, None)
        assert patch.batch_size(made, cpu, target_seconds=4.5 * sample, total_voxels=1e12)[0] == 4
        voxels = 3.5 * made.voxels / 0.05
        assert patch.batch_size(made, AMPLE, target_seconds=100, total_voxels=voxels)[0] == 3
        smallest, reason = patch.batch_size(made, AMPLE, target_seconds=100, total_voxels=1)
        assert smallest == 2
        assert "smallest" in reason

    def test_an_anisotropic_volume_costs_less_while_its_kernels_are_flat(self) -> None:
        flat, _ = patch.fit(
            (32, 64, 64), (8, 1, 1), entry=RESNET18, configuration="3d", stages=3, channels=1, classes=2, limits=AMPLE
        )
        deep, _ = self.fit((32, 64, 64), classes=2)
        assert flat.patch == deep.patch
        assert flat.depths() == (1, 1, 3)
        assert deep.depths() == (3, 3, 3)
        assert flat.density() == (1, 1, 1)
        assert deep.density() == (0.5, 0.25, 0.125)


def test_decoder_has_one_block_per_level() -> None:
    for stages in range(1, 6):
        widths, _ = decoder_channels(stages, "cuda")
        assert len(widths) == stages
    assert decoder_channels(4, "cpu")[0] == (32, 64, 128, 256)


class TestEncoder:
    def test_auto_takes_the_cache_then_the_bundled_then_nothing(self) -> None:
        assert encoder_rule.encoder("auto")[0] == "resnet18"
        assert encoder_rule.weights(RESNET18, "auto", lambda name: True)[0].source == "imagenet"
        assert encoder_rule.weights(RESNET18, "auto", lambda name: False)[0].source == "bundled"
        weights, reason = encoder_rule.weights(entry("resnet50"), "auto", lambda name: False)
        assert weights.source == "none"
        assert "auto never downloads" in reason

    def test_imagenet_names_repository_and_revision(self) -> None:
        weights, _ = encoder_rule.weights(entry("vgg16_bn"), "imagenet", lambda name: False)
        assert weights.repository == ENCODERS["vgg16_bn"].repository
        assert weights.revision == ENCODERS["vgg16_bn"].revision

    def test_only_one_encoder_has_bundled_weights(self) -> None:
        with pytest.raises(UserError, match="no bundled weights for resnet50"):
            encoder_rule.weights(entry("resnet50"), "bundled", lambda name: True)


class TestTransfer:
    settings: dict = {  # noqa: RUF012
        "cases": 160,
        "labelled_slices": 3000,
        "dimension": 3,
        "channels": 1,
        "mapped_to_encoder": False,
        "weights": Weights(source="bundled"),
        "configuration": "3d",
        "stages": 3,
        "batch": 4,
    }
    pictures: dict = {"dimension": 2, "channels": 3, "mapped_to_encoder": True, "configuration": "2d"}  # noqa: RUF012

    def choose(self, **changes: object):
        return transfer.strategy(**(self.settings | changes))

    @pytest.mark.parametrize(
        ("cases", "slices", "size"),
        [(50, 1000, "large"), (49, 1000, "small"), (50, 999, "small"), (1, 1, "small"), (5000, 5000, "large")],
    )
    def test_large_takes_cases_and_slices(self, cases: int, slices: int, size: str) -> None:
        chosen, reason = transfer.size(cases, slices)
        assert chosen == size
        assert f"{cases} training cases with {slices}" in reason

    def test_only_pictures_in_colour_are_similar(self) -> None:
        assert transfer.similarity(2, 3, True)[0] == "similar"
        assert transfer.similarity(2, 1, True)[0] == "different"
        assert transfer.similarity(2, 3, False)[0] == "different"
        assert transfer.similarity(3, 3, True)[0] == "different"

    def test_the_four_cases(self) -> None:
        assert self.choose()[0].kind == "finetune"
        assert self.choose(cases=10)[0].kind == "gradual"
        assert self.choose(**self.pictures, cases=10)[0].kind == "partial"
        assert self.choose(**self.pictures)[0].kind == "finetune"
        assert self.choose()[0].encoder_lr_ratio > self.choose(**self.pictures)[0].encoder_lr_ratio

    def test_without_weights_everything_learns(self) -> None:
        chosen, reason = self.choose(weights=Weights(source="none"))
        assert (chosen.kind, chosen.encoder_lr_ratio, chosen.batchnorm) == ("scratch", 1.0, "trained")
        assert "no pretrained weights" in reason

    def test_a_frozen_random_encoder_may_be_asked_for_as_a_control(self) -> None:
        chosen, _ = self.choose(**self.pictures, weights=Weights(source="none"), requested="frozen")
        assert (chosen.kind, chosen.batchnorm) == ("frozen", "recalibrated")

    def test_partial_leaves_at_least_one_level_to_learn(self) -> None:
        assert self.choose(requested="partial", stages=4)[0].frozen_stages == 2
        assert self.choose(requested="partial", stages=2)[0].frozen_stages == 1

    def test_gradual_thaws_from_the_top_down(self) -> None:
        assert transfer.unfreeze_fractions(3) == (0.1, 0.2, 0.3)
        assert transfer.unfreeze_fractions(1) == (0.1,)
        assert len(self.choose(requested="gradual", stages=4)[0].unfreeze_at) == 4

    @pytest.mark.parametrize(
        ("kind", "similar", "configuration", "batch", "expected"),
        [
            ("finetune", False, "2d", 16, "trained"),
            ("finetune", False, "2d", 15, "recalibrated"),
            ("finetune", False, "2.5d", 48, "recalibrated"),
            ("frozen", True, "2d", 4, "source"),
            ("frozen", True, "3d", 4, "recalibrated"),
            ("partial", False, "2d", 48, "recalibrated"),
        ],
    )
    def test_batchnorm(self, kind: str, similar: bool, configuration: str, batch: int, expected: str) -> None:
        chosen, _ = transfer.batchnorm(kind, similar=similar, pretrained=True, configuration=configuration, batch=batch)
        assert chosen == expected


class TestTraining:
    def test_time_decides_on_a_cpu_and_steps_on_a_gpu(self) -> None:
        cpu, reason = training.budget("cpu", 1.5, epochs=None, time_budget=None)
        assert (cpu.epochs, cpu.time_budget, cpu.steps) == (None, 1200, 800)
        assert cpu.steps_per_epoch == 32
        assert "20 min" in reason
        gpu, _ = training.budget("cuda", 0.1, epochs=None, time_budget=None)
        assert (gpu.epochs, gpu.time_budget) == (150, None)

    def test_the_users_budget_wins(self) -> None:
        assert training.budget("cuda", 0.1, epochs=None, time_budget=60)[0].time_budget == 60
        assert training.budget("cpu", 1.0, epochs=3, time_budget=None)[0].epochs == 3
        assert training.budget("cpu", 100.0, epochs=None, time_budget=60)[0].steps_per_epoch == 1

    @pytest.mark.parametrize(("budget", "seconds"), [(None, 0.5), (1200, 0.5), (150, 0.5), (90, 0.3), (30, 0.1)])
    def test_a_step_leaves_time_for_300_of_them(self, budget: float | None, seconds: float) -> None:
        assert training.target_step_seconds(budget) == pytest.approx(seconds)

    @pytest.mark.parametrize(("steps", "decay"), [(800, 0.975), (10, 0.9), (100_000, 0.999)])
    def test_averaging_follows_the_length_of_the_run(self, steps: int, decay: float) -> None:
        assert training.ema_decay(steps)[0] == pytest.approx(decay)

    @pytest.mark.parametrize(("steps", "share"), [(10_000, 0.05), (400, 0.05), (200, 0.1), (20, 0.2)])
    def test_short_runs_warm_up_for_a_larger_share(self, steps: int, share: float) -> None:
        assert training.warmup(steps)[0] == pytest.approx(share)

    def test_sparse_labels_are_sampled_more_often(self) -> None:
        assert training.foreground_share(0.01)[0] == 0.5
        assert training.foreground_share(0.0099)[0] == 0.67

    @pytest.mark.parametrize(("gain", "expected"), [(0.2, "float32"), (1.1, "float32"), (1.11, "bfloat16")])
    def test_precision_is_what_was_measured_faster(self, gain: float, expected: str) -> None:
        chosen, reason = training.precision(Machine("cpu", bfloat16_gain=gain))
        assert chosen == expected
        assert f"{1 / gain:.2g} times" in reason

    def test_a_machine_is_as_fast_as_its_cores_and_bfloat16_no_slower_than_float32(self) -> None:
        flops = 150e9
        assert Machine("cpu", cores=2, bfloat16_gain=0.3).seconds(flops) == pytest.approx(1)
        assert Machine("cpu", cores=4, bfloat16_gain=9.0).seconds(flops) == pytest.approx(0.5 / 1.7)
        assert Machine("cuda", cores=4).seconds(flops) == Machine("cuda", cores=1).seconds(flops)

    def test_deep_supervision_needs_three_blocks(self) -> None:
        assert [training.deep_supervision(stages)[0] for stages in (2, 3)] == [False, True]


class TestAugmentation:
    @pytest.mark.parametrize(
        ("labels", "axes", "configuration", "expected"),
        [
            (["liver"], (2, 1, 0), "3d", (2,)),
            (["liver"], (0, 2, 1), "3d", (0,)),
            (["liver"], (0, 2, 1), "2d", ()),
            (["left_kidney", "liver"], (2, 1, 0), "3d", ()),
            (["Kidney Right"], (0, 2, 1), "3d", ()),
            (["kidney_l", "kidney_r"], (1, 2, 0), "3d", ()),
            (["LeftKidney"], (2, 1, 0), "3d", ()),
            (["kidneyRight"], (2, 1, 0), "3d", ()),
            (["BRIGHT"], (2, 1, 0), "3d", (2,)),
            (["r"], (2, 1, 0), "3d", (2,)),
            (["leftover", "bright"], (2, 1, 0), "3d", (2,)),
            (["Anterior", "Posterior"], (2, 1, 0), "3d", (2,)),
            (["left lung"], (2, 1, 0), "2d", ()),
        ],
    )
    def test_volumes_are_mirrored_from_left_to_right_where_names_stay_true(
        self, labels: list[str], axes: tuple[int, int, int], configuration: str, expected: tuple[int, ...]
    ) -> None:
        assert mirror_axes(labels, axes, configuration, "mm")[0] == expected

    def test_pictures_are_mirrored_in_plane(self) -> None:
        assert mirror_axes(["cell"], (2, 1, 0), "2d", "pixel")[0] == (1, 2)

    def test_pictures_whose_labels_tell_sides_apart_stay_upright(self) -> None:
        mirrored, reason = mirror_axes(["left lung", "right lung", "heart"], (2, 1, 0), "2d", "pixel")
        assert mirrored == () and "left lung, right lung mean" in reason
        assert augmentation(100, 1.0, "2d", "pixel", mirrored)[0].rotate_degrees == 30

    def test_the_reason_names_the_labels(self) -> None:
        assert "left_kidney" in mirror_axes(["left_kidney"], (2, 1, 0), "3d", "mm")[1]

    def test_few_cases_are_varied_more(self) -> None:
        few, _ = augmentation(29, 1.0, "3d", "mm", ())
        enough, _ = augmentation(30, 1.0, "3d", "mm", ())
        assert few.rotate_probability > enough.rotate_probability
        assert few.brightness_probability > enough.brightness_probability

    @pytest.mark.parametrize(
        ("ratio", "configuration", "tilted"), [(1.5, "3d", True), (1.6, "3d", False), (1.0, "2.5d", False)]
    )
    def test_out_of_plane_only_where_nearly_isotropic(self, ratio: float, configuration: str, tilted: bool) -> None:
        assert augmentation(100, ratio, configuration, "mm", ())[0].rotate_out_of_plane is tilted

    def test_pictures_have_no_upright(self) -> None:
        assert augmentation(100, 1.0, "2d", "pixel", (1, 2))[0].rotate_degrees == 180
        assert augmentation(100, 1.0, "2d", "mm", ())[0].rotate_degrees == 30

    def test_prediction_mirrors_as_training(self) -> None:
        chosen, reason = tta_axes((1, 2))
        assert chosen == (1, 2)
        assert "4 pass" in reason
