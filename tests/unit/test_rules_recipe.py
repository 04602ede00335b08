"""Rules on learning at the edges where their choice changes, and the figures in their reasons."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import get_args

import pytest
from made_fingerprints import fingerprint, images_2d
from made_plans import learns, model_plan

from seg_transfer.options.choices import StrategyName
from seg_transfer.planning.case_fingerprint import CaseChannel
from seg_transfer.planning.cost import Machine
from seg_transfer.planning.data_plan import Normalization
from seg_transfer.planning.evidence_record import Estimate, TransferEvidence
from seg_transfer.planning.label_means import LabelMeans
from seg_transfer.planning.plan import Augmentation, ModelPlan, Weights
from seg_transfer.planning.rules import classic as textbook
from seg_transfer.planning.rules import optimization as training
from seg_transfer.planning.rules import strategy as transfer
from seg_transfer.planning.rules.augmentation import augmentation, mirror_axes, structure_spread, tta_axes
from seg_transfer.planning.strategy import Strategy


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


def model(stages: int = 3, *, source: str = "bundled", encoder: str = "tf_efficientnet_lite0") -> ModelPlan:
    weights = {"source": source}
    if source == "model":
        weights |= {"path": "m.segtl", "sha256": "0", "carry": "all"}
    return model_plan(
        "2d",
        (1, 32, 32),
        stages=stages,
        decoder_channels=(8,) * stages,
        weights=Weights.model_validate(weights),
        encoder=encoder,
    )


class TestStrategies:
    """Each fills in the same record; finest stage first."""

    @pytest.mark.parametrize(
        ("name", "start", "rate", "batchnorm", "pretrained"),
        [
            ("scratch", (0, 0, 0, 0), (1, 1, 1, 1), "trained", 0),
            ("frozen", (None, None, None, None), (0, 0, 0, 0), "recalibrated", 4),
            ("partial", (None, None, 0, 0), (0, 0, 1, 1), "trained", 2),
            ("gradual", (0.3, 0.233, 0.167, 0.1), (0.2187, 0.243, 0.27, 0.3), "recalibrated", 4),
            ("finetune", (0, 0, 0, 0), (0.2187, 0.243, 0.27, 0.3), "recalibrated", 4),
        ],
    )
    def test_of_four_pretrained_stages(
        self, name: str, start: tuple, rate: tuple[float, ...], batchnorm: str, pretrained: int
    ) -> None:
        chosen = transfer.STRATEGIES[name](model(4))
        assert (chosen.name, chosen.start, chosen.batchnorm) == (name, start, batchnorm)
        assert chosen.rate == pytest.approx(rate) and chosen.pretrained_stages == pretrained

    def test_options_name_every_strategy(self) -> None:
        assert set(get_args(StrategyName)) == set(transfer.STRATEGIES)

    @pytest.mark.parametrize(
        ("stages", "start", "rate"),
        [(1, (0.1,), (0.3,)), (2, (0.3, 0.1), (0.27, 0.3)), (3, (0.3, 0.2, 0.1), (0.243, 0.27, 0.3))],
    )
    def test_gradual_unfreezes_from_the_top_down(
        self, stages: int, start: tuple[float, ...], rate: tuple[float, ...]
    ) -> None:
        chosen = transfer.gradual(model(stages))
        assert chosen.start == start and chosen.rate == pytest.approx(rate)

    @pytest.mark.parametrize(
        ("stages", "source", "start", "pretrained", "batchnorm"),
        [
            (2, "bundled", (None, 0), 1, "trained"),
            (1, "bundled", (0,), 1, "recalibrated"),  # one stage at least learns; a single one is pretrained
            (4, "model", (None, None, 0, 0), 4, "recalibrated"),  # an earlier model starts the stages above as well
            (4, "none", (None, None, 0, 0), 0, "trained"),
        ],
    )
    def test_partial_takes_the_lower_stages_alone(
        self, stages: int, source: str, start: tuple, pretrained: int, batchnorm: str
    ) -> None:
        chosen = transfer.partial(model(stages, source=source))
        assert (chosen.start, chosen.pretrained_stages, chosen.batchnorm) == (start, pretrained, batchnorm)
        assert chosen.rate == tuple(0 if each is None else 1 for each in start)

    @pytest.mark.parametrize(
        ("name", "batchnorm", "recalibrates"),
        [("frozen", "recalibrated", True), ("gradual", "trained", True), ("finetune", "trained", False)],
    )
    def test_on_random_weights_batchnorm_is_trained_where_they_learn(
        self, name: str, batchnorm: str, recalibrates: bool
    ) -> None:
        chosen = transfer.STRATEGIES[name](model(source="none"))
        assert (chosen.batchnorm, chosen.recalibrates) == (batchnorm, recalibrates)
        assert chosen.pretrained_stages == 0

    def test_an_encoder_without_batchnorm_keeps_its_norms(self) -> None:
        for name in ("frozen", "partial", "gradual", "finetune"):
            assert transfer.STRATEGIES[name](model(encoder="convnext_tiny")).batchnorm == "source"
        reason = transfer.strategy(model(encoder="convnext_tiny"), requested="finetune")[1]
        assert "the encoder has no BatchNorm" in reason

    @pytest.mark.parametrize(
        ("start", "batchnorm", "recalibrates"),
        [
            ((0.0, 0.0), "source", False),
            ((None, None), "source", False),
            ((0.0, 0.0), "recalibrated", True),
            ((0.0, 0.0), "trained", False),
            ((0.5, 0.0), "trained", True),
            ((None, 0.0), "trained", True),
        ],
    )
    def test_statistics_are_estimated_where_a_stage_waits(
        self, start: tuple, batchnorm: str, recalibrates: bool
    ) -> None:
        assert learns(*start, batchnorm=batchnorm).recalibrates == recalibrates

    @pytest.mark.parametrize(
        ("start", "frozen"), [((0.0, 0.0), 0), ((0.3, None), 0), ((None, 0.0, None), 1), ((None, None), 2)]
    )
    def test_frozen_stages_are_those_below_the_first_that_learns(self, start: tuple, frozen: int) -> None:
        assert learns(*start, batchnorm="source").frozen_stages == frozen

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"rate": (1.0,)}, "rate has 1 entries, start has 2"),
            ({"start": (None, 0.0)}, "stage 0 never learns, but its rate is 1 instead of 0"),
            ({"start": (None, None), "rate": (0.0, 0.0)}, "a frozen encoder cannot train its BatchNorm"),
            ({"pretrained_stages": 3}, "pretrained_stages is 3, start has 2 entries"),
            ({"start": (0.0, 1.5)}, "start"),
            ({"name": "../away"}, "name"),
        ],
    )
    def test_what_contradicts_itself_is_refused(self, changes: dict, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            Strategy.model_validate(learns(0.0, 0.0).model_dump() | changes)

    def test_it_is_printed_in_a_line(self) -> None:
        assert str(transfer.partial(model(3))) == (
            "partial: stages start at never, never, 0; rates 0, 0, 1; 2 of 3 pretrained; BatchNorm trained"
        )


class TestChoice:
    def test_gradual_is_chosen_for_all(self) -> None:
        chosen, reason = transfer.strategy(model())
        assert chosen == transfer.gradual(model())
        assert reason.startswith("never far from the best where all were measured; the encoder was not measured")
        assert reason.endswith("BatchNorm is re-estimated once on training patches and then frozen")

    def test_without_weights_everything_learns(self) -> None:
        chosen, reason = transfer.strategy(model(source="none"))
        assert chosen == transfer.scratch(model())
        assert reason == "there are no pretrained weights"

    def test_a_frozen_random_encoder_may_be_requested_as_a_control(self) -> None:
        chosen, reason = transfer.strategy(model(source="none"), requested="frozen")
        assert chosen == transfer.frozen(model(source="none"))
        assert reason.startswith("frozen was requested; the encoder's weights are random")
        assert "random" not in transfer.strategy(model(), requested="frozen")[1]
        assert "random" not in transfer.strategy(model(source="none"), requested="scratch")[1]

    @pytest.mark.parametrize(("gain", "name"), [(0.1, "gradual"), (-0.019, "gradual"), (-0.021, "scratch")])
    def test_an_encoder_that_is_worse_than_a_random_one_beyond_chance_is_not_taken(
        self, gain: float, name: str
    ) -> None:
        found = evidence(gain)
        chosen, reason = transfer.strategy(model(), evidence=found)
        assert chosen.name == name and reason.startswith("random weights know more of this data") == (name == "scratch")
        assert "frozen features of stage 1" in reason and "balanced accuracy of 0.800" in reason
        assert f"{gain:+.3f} ± 0.010 on 7 cases" in reason
        assert transfer.strategy(model(), evidence=found, requested="frozen")[0].name == "frozen"


class TestClassic:
    settings: dict = {"cases": 160, "labelled_slices": 3000, "dimension": 3, "channels": ["MRI"]}  # noqa: RUF012
    rgb: dict = {"dimension": 2, "channels": ["R", "G", "B"]}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("cases", "slices", "size"),
        [(50, 1000, "large"), (49, 1000, "small"), (50, 999, "small"), (1, 1, "small"), (5000, 5000, "large")],
    )
    def test_large_takes_cases_and_slices(self, cases: int, slices: int, size: str) -> None:
        chosen, reason = textbook.size(cases, slices)
        assert chosen == size
        assert f"{cases} training cases with {slices} labelled slices (large from 50 and 1000 on)" in reason

    @pytest.mark.parametrize(
        ("dimension", "channels", "expected"), [(2, 3, "similar"), (2, 1, "different"), (3, 3, "different")]
    )
    def test_only_2d_images_in_colour_are_similar(self, dimension: int, channels: int, expected: str) -> None:
        assert textbook.similarity(dimension, [str(index) for index in range(channels)])[0] == expected

    def test_images_are_similar_if_the_earlier_model_has_read_each_of_their_channels(self) -> None:
        assert textbook.similarity(3, ["ct"], earlier=["CT", "PET"])[0] == "similar"
        assert textbook.similarity(3, ["CT", "MRI"], earlier=["CT"]) == (
            "different",
            "different: the earlier model was trained on CT, not on MRI",
        )

    @pytest.mark.parametrize(
        ("cases", "slices", "rgb", "expected", "words"),
        [
            (
                49,
                1000,
                True,
                transfer.frozen,
                "2D images of 3 channels, like the encoder's training images: freeze the",
            ),
            (50, 999, False, transfer.partial, "trained on RGB photographs: take only the lower stages"),
            (50, 1000, True, transfer.finetune, "like the encoder's training images: fine-tune all stages"),
            (50, 1000, False, transfer.finetune, "trained on RGB photographs: fine-tune all stages"),
        ],
    )
    def test_the_four_cases(
        self, cases: int, slices: int, rgb: bool, expected: Callable[[ModelPlan], Strategy], words: str
    ) -> None:
        settings = self.settings | {"cases": cases, "labelled_slices": slices} | (self.rgb if rgb else {})
        chosen, reason = textbook.classic(model(), **settings)
        assert chosen == expected(model())
        assert reason.startswith("classic was requested; ") and words in reason
        assert f"{cases} training cases with {slices} labelled slices" in reason

    @pytest.mark.parametrize("cases", [10, 160])
    def test_without_weights_there_is_nothing_to_transfer(self, cases: int) -> None:
        chosen, reason = textbook.classic(model(source="none"), **(self.settings | {"cases": cases}))
        assert chosen == transfer.scratch(model()) and "no pretrained weights" in reason

    def test_an_earlier_model_of_the_same_channels_is_frozen_for_few_cases(self) -> None:
        settings = self.settings | {"cases": 10, "earlier": ["mri"]}
        chosen, reason = textbook.classic(model(source="model"), **settings)
        assert chosen.name == "frozen" and "the earlier model was trained on MRI too" in reason


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
        assert "gland, with 0.0001 of all voxels and in 3 case(s)" in reason

    @pytest.mark.parametrize(("gain", "expected"), [(0.2, "float32"), (1.1, "float32"), (1.11, "bfloat16")])
    def test_precision_is_what_was_measured_faster(self, gain: float, expected: str) -> None:
        chosen, reason = training.precision(Machine("cpu", bfloat16_gain=gain))
        assert chosen == expected
        assert f"{1 / gain:.2g} times" in reason

    @pytest.mark.parametrize(("gain", "expected"), [(0.9, "torch"), (1.1, "torch"), (1.11, "fast")])
    def test_gradients_of_depthwise_convolutions_are_what_was_measured_faster(self, gain: float, expected: str) -> None:
        asked = []

        def measured(*arguments: object) -> float:
            asked.append(arguments)
            return gain

        for configuration, patch in (("2d", (1, 32, 32)), ("3d", (8, 32, 32))):
            model = model_plan(configuration, patch)
            chosen, reason = training.depthwise_gradients(model, Machine("cpu", bfloat16_gain=2.0), measured)
            assert chosen == expected and f"{gain:.2f} times" in reason
        assert asked == [(2, "bfloat16"), (3, "bfloat16")]
        assert training.depthwise_gradients(model, Machine("cuda"), measured)[0] == "torch"
        assert len(asked) == 2

    def test_a_machine_is_as_fast_as_its_cores_and_bfloat16_no_slower_than_float32(self) -> None:
        flops = 150e9
        assert Machine("cpu", cores=2, bfloat16_gain=0.3).seconds(flops) == pytest.approx(1)
        assert Machine("cpu", cores=4, bfloat16_gain=9.0).seconds(flops) == pytest.approx(0.5 / 1.7)
        assert Machine("cuda", cores=4).seconds(flops) == Machine("cuda", cores=1).seconds(flops)

    def test_deep_supervision_needs_three_blocks(self) -> None:
        assert [training.deep_supervision(stages)[0] for stages in (2, 3)] == [False, True]


def shown(mean: float, std: float, labels: tuple[float, ...]) -> CaseChannel:
    """A channel of a case with these means of background and labels."""
    known = {"dtype": "int16", "minimum": 0, "maximum": 1, "outlier_ratio": 1, "foreground": None}
    return CaseChannel(**known, mean=mean, std=std, label_means=labels)


def varied(**changes: object):
    return augmentation(
        **({"ratio": 1.0, "configuration": "3d", "unit": "mm", "mirrored": (), "spread": (), "labels": 2} | changes)
    )


class TestAugmentation:
    def test_structures_change_as_much_as_labels_differ_between_cases(self) -> None:
        """As stored where the normalization keeps what is stored, else after z-score; 0 without two cases."""
        two = SimpleNamespace(label_means=LabelMeans.of([shown(100, 20, (80, 130)), shown(300, 40, (260, 400))]))
        apart = SimpleNamespace(label_means=LabelMeans.of([shown(100, 20, (80, 130)), shown(110, 40, (70, 210))]))
        one = SimpleNamespace(label_means=LabelMeans.of([shown(100, 20, (80, 130))]))
        zscore, minmax = Normalization(kind="zscore"), Normalization(kind="minmax", lower=0, upper=1)
        spread = structure_spread([two, apart, two, one], [zscore, minmax, minmax, zscore])
        # Of -1, -1 and 1.5, 2.5; of 80, 70 and 130, 210 over the root of 1000; 3.628, bounded; of nothing.
        assert spread == (0.354, 0.901, 1.0, 0.0)
        assert varied(spread=spread)[0].structure_probability == 0.5
        assert varied(spread=(0.0,))[0].structure_probability == 0
        assert varied(spread=spread, labels=1)[0].structure_probability == 0

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
        made = fingerprint(labels=tuple(labels))
        assert mirror_axes(made.site(), labels, axes, configuration, "auto")[0] == expected

    def test_2d_images_are_mirrored_in_plane(self) -> None:
        assert mirror_axes(images_2d().site(), ["cell"], (2, 1, 0), "2d", "auto")[0] == (1, 2)

    def test_2d_images_whose_labels_name_sides_are_not_mirrored(self) -> None:
        names = ["left lung", "right lung", "heart"]
        mirrored, reason = mirror_axes(images_2d().site(), names, (2, 1, 0), "2d", "auto")
        assert mirrored == () and "left lung, right lung name" in reason
        assert varied(configuration="2d", unit="pixel", mirrored=mirrored)[0].rotate_degrees == 30

    def test_the_reason_names_the_labels(self) -> None:
        assert "left_kidney" in mirror_axes(fingerprint().site(), ["left_kidney"], (2, 1, 0), "3d", "auto")[1]

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
        why = "not measured to help" if setting else "scanners do not distort volumes"
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

    def test_2d_images_have_no_upright(self) -> None:
        assert varied(configuration="2d", unit="pixel", mirrored=(1, 2))[0].rotate_degrees == 180
        assert varied(configuration="2d")[0].rotate_degrees == 30

    def test_prediction_mirrors_as_training(self) -> None:
        chosen, reason = tta_axes((1, 2))
        assert chosen == (1, 2)
        assert "4 pass" in reason
