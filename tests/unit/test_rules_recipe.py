"""Rules on learning at the edges where their choice changes, and the figures in their reasons."""

from __future__ import annotations

import pytest

from seg_transfer.planning.cost import Machine
from seg_transfer.planning.evidence_record import Estimate, TransferEvidence
from seg_transfer.planning.plan import Augmentation, Weights
from seg_transfer.planning.rules import optimization as training
from seg_transfer.planning.rules import strategy as transfer
from seg_transfer.planning.rules.augmentation import augmentation, mirror_axes, tta_axes


def evidence(gain: float) -> TransferEvidence:
    """Of an encoder that is so much better than a random one at stage 1, and worse at stage 0."""
    return TransferEvidence(
        measured_on="0",
        cases=7,
        voxels=100,
        pretrained=(Estimate(mean=0.6, error=0.02), Estimate(mean=0.8, error=0.02)),
        random=(Estimate(mean=0.9, error=0.02), Estimate(mean=0.8 - gain, error=0.02)),
        gain=(Estimate(mean=-0.3, error=0.01), Estimate(mean=gain, error=0.01)),
        seconds=1,
    )


class TestTransfer:
    settings: dict = {  # noqa: RUF012
        "cases": 160,
        "labelled_slices": 3000,
        "dimension": 3,
        "channels": 1,
        "weights": Weights(source="bundled"),
        "stages": 3,
        "has_batchnorm": True,
    }
    pictures: dict = {"dimension": 2, "channels": 3}  # noqa: RUF012

    def candidate(self, **changes: object):
        return transfer.strategy(**(self.settings | changes))[0]

    def choose(self, **changes: object):
        candidate, reason = transfer.strategy(**(self.settings | changes))
        return candidate.strategy, reason

    @pytest.mark.parametrize(
        ("cases", "slices", "size"),
        [(50, 1000, "large"), (49, 1000, "small"), (50, 999, "small"), (1, 1, "small"), (5000, 5000, "large")],
    )
    def test_large_takes_cases_and_slices(self, cases: int, slices: int, size: str) -> None:
        chosen, reason = transfer.size(cases, slices)
        assert chosen == size
        assert f"{cases} training cases with {slices}" in reason

    def test_only_pictures_in_colour_are_similar(self) -> None:
        assert transfer.similarity(2, 3)[0] == "similar"
        assert transfer.similarity(2, 1)[0] == "different"
        assert transfer.similarity(3, 3)[0] == "different"

    @pytest.mark.parametrize(
        ("cases", "pictures", "advice"),
        [
            (160, False, "tune all stages, or train from scratch"),
            (10, False, "take the lower stages alone"),
            (10, True, "freeze the encoder and train the rest"),
            (160, True, "tune all stages"),
        ],
    )
    def test_one_strategy_in_all_four_cases_beside_the_advice(self, cases: int, pictures: bool, advice: str) -> None:
        chosen, reason = self.choose(cases=cases, **(self.pictures if pictures else {}))
        assert (chosen.kind, chosen.encoder_lr_ratio, chosen.layer_decay) == ("gradual", 0.3, 0.9)
        assert f"(the classic advice: {advice}): gradual" in reason

    def test_without_weights_everything_learns(self) -> None:
        chosen, reason = self.choose(weights=Weights(source="none"))
        assert (chosen.kind, chosen.encoder_lr_ratio, chosen.batchnorm) == ("scratch", 1.0, "trained")
        assert "no pretrained weights" in reason

    def test_a_frozen_random_encoder_may_be_asked_for_as_a_control(self) -> None:
        chosen, reason = self.choose(**self.pictures, weights=Weights(source="none"), requested="frozen")
        assert (chosen.kind, chosen.batchnorm) == ("frozen", "recalibrated")
        assert reason.startswith("asked for frozen: the encoder's weights are random")
        assert "random" not in self.choose(**self.pictures, requested="frozen")[1]
        assert "random" not in self.choose(weights=Weights(source="none"), requested="scratch")[1]

    @pytest.mark.parametrize(("stages", "frozen"), [(4, 2), (2, 1)])
    def test_partial_takes_the_lower_stages_alone_and_leaves_at_least_one_to_learn(
        self, stages: int, frozen: int
    ) -> None:
        chosen = self.candidate(requested="partial", stages=stages)
        assert (chosen.pretrained_stages, chosen.strategy.frozen_stages) == (frozen, frozen)
        assert chosen.strategy.encoder_lr_ratio == 1  # what starts at random learns like the decoder
        earlier = Weights(source="model", path="m.segtl", sha256="0", carry="all")
        assert self.candidate(requested="partial", stages=stages, weights=earlier).pretrained_stages is None

    @pytest.mark.parametrize(("gain", "kind"), [(0.1, "gradual"), (-0.019, "gradual"), (-0.021, "scratch")])
    def test_an_encoder_that_knows_less_than_a_random_one_beyond_chance_is_not_taken(
        self, gain: float, kind: str
    ) -> None:
        found = evidence(gain)
        chosen, reason = self.choose(evidence=found)
        assert chosen.kind == kind and ("from the start" in reason) == (kind == "scratch")
        assert "frozen features of stage 1" in reason and "balanced accuracy of 0.800" in reason
        assert f"{gain:+.3f} ± 0.010 on 7 cases" in reason
        assert self.choose(evidence=found, requested="frozen")[0].kind == "frozen"

    def test_gradual_thaws_from_the_top_down(self) -> None:
        assert transfer.unfreeze_fractions(3) == (0.1, 0.2, 0.3)
        assert transfer.unfreeze_fractions(1) == (0.1,)
        assert len(self.choose(requested="gradual", stages=4)[0].unfreeze_at) == 4

    @pytest.mark.parametrize("kind", ["frozen", "gradual", "finetune"])
    @pytest.mark.parametrize("pictures", [False, True])
    def test_batchnorm_of_pretrained_stages_is_estimated_anew(self, kind: str, pictures: bool) -> None:
        chosen, reason = self.choose(requested=kind, **(self.pictures if pictures else {}))
        assert chosen.batchnorm == "recalibrated"
        assert reason.endswith("BatchNorm is re-estimated once on training patches and then kept")

    @pytest.mark.parametrize(
        ("kind", "source", "expected"),
        [
            ("partial", "bundled", "trained"),
            ("partial", "model", "recalibrated"),  # an earlier model fills the stages above as well
            ("partial", "none", "trained"),
            ("finetune", "none", "trained"),
            ("frozen", "none", "recalibrated"),
        ],
    )
    def test_batchnorm_trains_where_random_weights_learn(self, kind: str, source: str, expected: str) -> None:
        weights = Weights(source="model", path="m.segtl", sha256="0", carry="all")
        chosen, _ = self.choose(requested=kind, weights=weights if source == "model" else Weights(source=source))
        assert chosen.batchnorm == expected and chosen.recalibrates == (kind != "finetune")

    def test_an_encoder_without_batchnorm_keeps_its_norms(self) -> None:
        strategy, reason = self.choose(has_batchnorm=False, requested="finetune")
        assert strategy.batchnorm == "source"
        assert "the encoder has no BatchNorm" in reason


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
        smallest = ("gland", 0.0001, 3)
        assert training.foreground_share(0.01, smallest)[0] == 0.5
        chosen, reason = training.foreground_share(0.0099, smallest)
        assert chosen == 0.67
        assert "gland, too, with 0.0001 of all voxels and in 3 case(s)" in reason

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


def varied(**changes: object):
    return augmentation(**({"ratio": 1.0, "configuration": "3d", "unit": "mm", "mirrored": ()} | changes))


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
        assert varied(configuration="2d", unit="pixel", mirrored=mirrored)[0].rotate_degrees == 30

    def test_the_reason_names_the_labels(self) -> None:
        assert "left_kidney" in mirror_axes(["left_kidney"], (2, 1, 0), "3d", "mm")[1]

    def test_probabilities_are_nnunets_and_the_schemas_default(self) -> None:
        usual = varied()[0]
        assert usual == Augmentation(low_resolution_axes=(0,), rotate_out_of_plane=True)
        assert (usual.rotate_probability, usual.gamma_probability, usual.scale_range) == (0.2, 0.3, (0.7, 1.4))

    @pytest.mark.parametrize("setting", [{}, {"configuration": "2d", "unit": "pixel", "mirrored": (1, 2)}])
    def test_what_was_not_measured_is_off_and_says_so(self, setting: dict) -> None:
        chosen, reasons = varied(**setting)
        for name in ("low_resolution", "stretch", "shear", "lens", "colour"):
            assert getattr(chosen, f"{name}_probability") == 0
        for name in ("low_resolution", "colour"):
            assert "not measured to help" in reasons[f"{name}_probability"]
        why = "not measured to help" if setting else "volumes are measured in millimetres"
        assert why in reasons["stretch_probability"]

    def test_resolution_is_lost_along_slices_in_3d_and_in_plane_elsewhere(self) -> None:
        assert varied()[0].low_resolution_axes == (0,)
        assert varied(configuration="2.5d")[0].low_resolution_axes == (1, 2)
        assert varied(configuration="2d", unit="pixel")[0].low_resolution_axes == (1, 2)

    @pytest.mark.parametrize(
        ("ratio", "configuration", "tilted"), [(1.5, "3d", True), (1.6, "3d", False), (1.0, "2.5d", False)]
    )
    def test_out_of_plane_only_where_nearly_isotropic(self, ratio: float, configuration: str, tilted: bool) -> None:
        assert varied(ratio=ratio, configuration=configuration)[0].rotate_out_of_plane is tilted

    def test_pictures_have_no_upright(self) -> None:
        assert varied(configuration="2d", unit="pixel", mirrored=(1, 2))[0].rotate_degrees == 180
        assert varied(configuration="2d")[0].rotate_degrees == 30

    def test_prediction_mirrors_as_training(self) -> None:
        chosen, reason = tta_axes((1, 2))
        assert chosen == (1, 2)
        assert "4 pass" in reason
