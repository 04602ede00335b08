"""Rules on the network at the edges where their choice changes, and the figures in their reasons."""

from __future__ import annotations

from dataclasses import replace

import pytest

from seg_transfer.catalogue.encoders import BUNDLED, ENCODERS, entry
from seg_transfer.errors import UserError
from seg_transfer.planning.cost import Machine, step_flops, step_memory
from seg_transfer.planning.rules import configuration as configuration_rule
from seg_transfer.planning.rules import encoder as encoder_rule
from seg_transfer.planning.rules import patch
from seg_transfer.planning.rules.decoder import decoder_channels

RESNET18 = entry("resnet18")
AMPLE = patch.Limits(machine=Machine("cuda"), memory_bytes=10**12, step_seconds=None)


class TestConfiguration:
    settings: dict = {  # noqa: RUF012
        "dimension": 3,
        "ratio": 1.0,
        "slices": 30,
        "volumes": True,
        "covered": 0.1,
        "steps_3d": 1000,
        "device": "cpu",
    }

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
            ({"ratio": 6.0, "steps_3d": 10, "covered": 0.19}, "2.5d"),
            ({"ratio": 6.0, "steps_3d": 10, "covered": 0.2}, "3d"),
            ({"slices": 7, "covered": 1.0}, "2.5d"),
            ({"ratio": 6.0, "steps_3d": 10, "device": "cuda"}, "3d"),
            ({"slices": 7, "device": "cuda"}, "2.5d"),
            ({"volumes": False, "device": "cuda"}, "2.5d"),
            ({"volumes": False, "dimension": 2}, "2d"),
            ({"requested": "2d"}, "2d"),
        ],
    )
    def test_choice(self, changes: dict, expected: str) -> None:
        assert configuration_rule.configuration(**(self.settings | changes))[0] == expected

    @pytest.mark.parametrize("covered", [0.19, 0.2])
    def test_the_reason_carries_the_share(self, covered: float) -> None:
        reason = configuration_rule.configuration(**(self.settings | {"covered": covered, "steps_3d": 10}))[1]
        assert f"{covered:.0%} of the median slice" in reason

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
        chosen, reason = patch.most_stages((30, 200, side), RESNET18)
        assert chosen == stages
        assert f" {side}" in reason

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
        assert patch.slice_strides(spacing, slices, (2, 4, 8))[0] == expected

    def test_a_stem_of_stride_4_evens_out_wider_spacings(self) -> None:
        assert patch.slice_strides((2.5, 1, 1), 36, (4, 8, 16))[0] == (2, 2, 2)
        assert patch.slice_strides((2.5, 1, 1), 36, (2, 4, 8))[0] == (1, 2, 2)
        assert patch.most_stages((30, 200, 35), entry("convnext_tiny"))[0] == 2

    def fit(self, shape: tuple, limits: patch.Limits = AMPLE, configuration: str = "3d", stages: int = 3, **more):
        settings = {"entry": RESNET18, "stages": stages, "channels": 1, "classes": 3} | more
        architecture = patch.Architecture(**settings)
        return patch.fit_patch(shape, (1, 1, 1), architecture, configuration=configuration, limits=limits)

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

    def test_on_a_cpu_time_limits_the_patch_and_then_the_stages(self) -> None:
        limits = patch.Limits(Machine("cpu"), 10**11, 1.5)
        made, _ = self.fit((1, 960, 960), limits, "2d", stages=4)
        assert made.stages == 4
        assert 64 <= made.patch[1] < 512
        assert Machine("cpu").seconds(step_flops(made, 4)) <= 1.5
        # 0.06 s are less than the smallest patch of four stages (4 x 64 x 64) takes: fewer stages bear a smaller one.
        fewer, _ = self.fit((1, 960, 960), patch.Limits(Machine("cpu"), 10**11, 0.06), "2d", stages=5)
        assert fewer.stages < 5
        assert Machine("cpu").seconds(step_flops(fewer, 4)) <= 0.06

    def test_the_decoder_is_narrow_where_the_limits_of_a_step_shrink_the_patch(self) -> None:
        limits = patch.Limits(Machine("cpu"), 10**11, 0.5)
        small, _ = self.fit((1, 128, 128), limits, "2d", stages=4)
        large, reason = self.fit((1, 960, 960), limits, "2d", stages=4)
        assert small.patch == (1, 128, 128) and small.decoder_channels == (32, 64, 128, 256)
        assert 64 < large.patch[1] < 512 and large.decoder_channels == (16, 32, 64, 128)
        assert "half of the decoder's channels" in reason
        wide = replace(large, decoder_channels=(32, 64, 128, 256))
        seconds = [Machine("cpu").seconds(step_flops(network, 4)) for network in (large, wide)]
        assert seconds[0] < seconds[1] <= 0.5
        ample = {"target_seconds": 0.5, "total_voxels": 1e12}
        assert patch.batch_size(large, limits, **ample) == (
            4,
            "with half of the decoder's channels, more steps are worth more",
        )
        unlimited, _ = self.fit((1, 960, 960), patch.Limits(Machine("cpu"), 10**11, None), "2d", stages=4)
        assert unlimited.decoder_channels == (32, 64, 128, 256)

    def test_the_decoder_is_narrow_where_a_volume_takes_more_than_half_of_a_steps_time(self) -> None:
        whole, _ = self.fit((36, 50, 35), patch.Limits(Machine("cpu"), 10**11, None), "3d", stages=3)
        seconds = Machine("cpu").seconds(step_flops(whole, 2))
        for share, widths in ((0.4, (32, 64, 128)), (0.6, (16, 32, 64))):
            limits = patch.Limits(Machine("cpu"), 10**11, seconds / share)
            made, _ = self.fit((36, 50, 35), limits, "3d", stages=3)
            assert (made.patch, made.decoder_channels) == (whole.patch, widths)
        flat, _ = self.fit((1, 128, 128), patch.Limits(Machine("cpu"), 10**11, 0.5), "2d", stages=4)
        slow = patch.Limits(Machine("cpu"), 10**11, 1.1 * Machine("cpu").seconds(step_flops(flat, 4)))
        assert self.fit((1, 128, 128), slow, "2d", stages=4)[0].decoder_channels == (32, 64, 128, 256)

    def test_an_encoder_whose_speed_was_not_measured_counts_as_fast_as_resnet18(self) -> None:
        unmeasured = replace(RESNET18, slowness=(None, None))
        for configuration in ("2d", "3d"):
            made, _ = self.fit((36, 50, 35), configuration=configuration)
            other, _ = self.fit((36, 50, 35), configuration=configuration, entry=unmeasured)
            assert step_flops(other, 2) == step_flops(made, 2)

    def test_slices_of_a_stack_are_never_dropped(self) -> None:
        made, _ = self.fit((7, 300, 300), patch.Limits(Machine("cpu"), 10**11, 1.0), "2.5d")
        assert made.patch[0] == 7

    def test_too_little_memory_is_refused_with_the_need(self) -> None:
        with pytest.raises(UserError, match=r"--memory.*(?s:.)*smallest patch"):
            self.fit((36, 50, 35), patch.Limits(Machine("cpu"), 500_000_000, None))

    def test_batch_is_bounded_by_each_limit_in_turn(self) -> None:
        made, _ = self.fit((36, 50, 35))
        ample = {"target_seconds": 100.0, "total_voxels": 1e12}
        assert patch.batch_size(made, AMPLE, **ample) == (8, "at most 8 in 3d")
        memory = patch.Limits(Machine("cuda"), step_memory(made, 5) + 10, None)
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
        flat, _ = patch.fit_patch(
            (32, 64, 64), (8, 1, 1), patch.Architecture(RESNET18, 3, 1, 2), configuration="3d", limits=AMPLE
        )
        deep, _ = self.fit((32, 64, 64), classes=2)
        assert flat.patch == deep.patch
        assert flat.depths() == (1, 1, 3)
        assert deep.depths() == (3, 3, 3)
        assert flat.density() == (1, 1, 1)
        assert deep.density() == (0.5, 0.25, 0.125)


def test_decoder_has_one_block_per_stage() -> None:
    for stages in range(1, 6):
        widths, _ = decoder_channels(RESNET18.strides[:stages], "cuda")
        assert len(widths) == stages
    assert decoder_channels((2, 4, 8, 16), "cpu")[0] == (32, 64, 128, 256)
    assert decoder_channels((4, 8, 16, 32), "cpu")[0] == (64, 128, 256, 256)
    narrow, reason = decoder_channels((2, 4, 8, 16), "cpu", narrow=True)
    assert narrow == (16, 32, 64, 128) and reason.startswith("half")


class TestEncoder:
    def test_kernels_of_a_3d_network_stand_in_the_centre_slice(self) -> None:
        assert encoder_rule.inflation("3d")[0] == "centre"
        assert encoder_rule.inflation("2.5d")[1] == "no effect in 2.5d"

    def test_the_bundled_weights_of_imagenet_are_the_default(self) -> None:
        chosen, reason = encoder_rule.encoder("auto")
        assert BUNDLED[chosen].images == "ImageNet-1k" and "ImageNet-1k" in reason
        for cached in (False, True):
            weights, reason = encoder_rule.weights(entry(chosen), "auto", lambda name, cached=cached: cached)
            assert weights.source == "bundled"
            assert "apache-2.0" in reason and "terms of their own" in reason

    def test_auto_takes_the_bundled_then_the_cache_then_nothing(self) -> None:
        for cached in (True, False):
            lite = encoder_rule.weights(entry("tf_efficientnet_lite1"), "auto", lambda name, cached=cached: cached)
            assert lite[0].source == "bundled"
        assert encoder_rule.weights(RESNET18, "auto", lambda name: True)[0].source == "imagenet"
        weights, reason = encoder_rule.weights(entry("resnet50"), "auto", lambda name: False)
        assert weights.source == "none"
        assert "auto never downloads" in reason

    def test_imagenet_names_repository_and_revision(self) -> None:
        weights, _ = encoder_rule.weights(entry("vgg16_bn"), "imagenet", lambda name: False)
        assert weights.repository == ENCODERS["vgg16_bn"].repository
        assert weights.revision == ENCODERS["vgg16_bn"].revision

    def test_terms_of_the_bundled_weights_are_said(self) -> None:
        _, reason = encoder_rule.weights(entry("tf_efficientnet_lite2"), "bundled", lambda name: False)
        assert "ImageNet-1k" in reason and "apache-2.0" in reason

    def test_a_network_without_recorded_weights_has_none_to_download(self) -> None:
        unknown = replace(RESNET18, name="timm/other", repository="", file="")
        with pytest.raises(UserError, match="no ImageNet weights of timm/other"):
            encoder_rule.weights(unknown, "imagenet", lambda name: False)
        assert encoder_rule.weights(unknown, "auto", lambda name: False)[0].source == "none"

    def test_other_encoders_have_no_bundled_weights(self) -> None:
        with pytest.raises(UserError, match="no bundled weights for resnet18"):
            encoder_rule.weights(RESNET18, "bundled", lambda name: True)
