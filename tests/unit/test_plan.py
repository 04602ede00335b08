"""The plan as a document, and the planner: every decision has its reason, impossible options are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_fingerprints import channel, fingerprint, images_2d, plan_of
from made_plans import data_plan, learns
from pydantic import BaseModel, ValidationError

from seg_transfer.catalogue.encoders import entry
from seg_transfer.data.description import Region
from seg_transfer.errors import UserError
from seg_transfer.options.plan_options import PlanOptions
from seg_transfer.planning.cost import Machine
from seg_transfer.planning.data_plan import Label
from seg_transfer.planning.fields import json_hash, part_hash
from seg_transfer.planning.option_checks import check_before_measuring
from seg_transfer.planning.plan import Plan, edited_parts
from seg_transfer.planning.resources import Resources
from seg_transfer.planning.rules.strategy import finetune, gradual, partial, scratch

# Facts about the data set and the user's seed: nothing that a rule decides.
FACTS = ("data.dataset", "data.dimension", "data.unit", "data.labels", "data.cases", "recipe.seed")
FACTS += ("data.regions", "data.ignore")


@pytest.fixture(
    params=[
        {},
        {"config": "2d"},
        {"config": "2.5d"},
        {"device": "cuda", "encoder": "resnet50"},
        {"strategy": "partial", "epochs": 2},
        {"device": "mps", "strategy": "scratch", "time_budget": 60.0},
    ],
    ids=str,
)
def volume_plan(request: pytest.FixtureRequest) -> Plan:
    return plan_of(fingerprint(channels=(channel("CT"), channel("PET"))), **request.param)


def leaves(value: object, path: str) -> Iterator[str]:
    """Paths of a part's fields, down to what has no fields of its own."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from leaves(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}.{index}")
    else:
        yield path


def resolve(plan: Plan, path: str) -> object:
    value: Any = plan
    for step in path.split("."):
        value = value[int(step)] if step.isdecimal() else getattr(value, step)
    return value


def covers(ancestor: str, path: str) -> bool:
    return path == ancestor or path.startswith(ancestor + ".")


class TestReasons:
    def test_every_reason_is_about_a_field_of_the_plan(self, volume_plan: Plan) -> None:
        for reason in volume_plan.reasons:
            resolve(volume_plan, reason.field)
            assert reason.choice and reason.reason

    def test_every_decided_field_has_a_reason(self, volume_plan: Plan) -> None:
        fields = [path for part in ("data", "model", "recipe") for path in leaves(getattr(volume_plan, part), part)]
        decided = [
            path
            for path in fields
            if not any(covers(fact, path) for fact in FACTS)
            and not (path.startswith("data.channels") and path.endswith(".name"))
        ]
        if not entry(volume_plan.model.encoder).depthwise:
            decided.remove("recipe.depthwise_gradients")
        missing = [p for p in decided if not any(covers(reason.field, p) for reason in volume_plan.reasons)]
        assert not missing

    def test_no_decision_is_noted_twice(self, volume_plan: Plan) -> None:
        noted = [reason.field for reason in volume_plan.reasons]
        assert len(set(noted)) == len(noted)

    def test_choices_are_shown_as_text(self) -> None:
        shown = {reason.field: reason.choice for reason in plan_of(fingerprint()).reasons}
        assert shown["model.patch"] == "40 x 56 x 40"
        assert shown["data.crop_nonzero"] == "no"
        assert shown["recipe.epochs"] == "none"
        assert shown["recipe.splits"] == "2 fold(s)"
        assert "recalibrated" in shown["recipe.strategy"]

    def test_regions_and_the_ignore_label_are_explained(self) -> None:
        made = fingerprint(labels=("edema", "necrosis", "rim"))
        regions = (Region(name="tumour", values=(1, 2, 3), writes=1), Region(name="left core", values=(2, 3), writes=2))
        cases = (*(case.model_copy(update={"annotated": 0.5}) for case in made.cases[:4]), *made.cases[4:])
        plan = plan_of(made.model_copy(update={"regions": regions, "ignore": 9, "cases": cases}))
        assert (plan.data.regions, plan.data.ignore) == (regions, 9)
        why = {reason.field: (reason.choice, reason.reason) for reason in plan.reasons}
        assert why["data.regions"][0] == "tumour, left core"
        assert "left core is 2 + 3, written as 2" in why["data.regions"][1]
        assert why["data.ignore"][0] == "9"
        assert "4 of 10 cases are partly annotated, 80.0% of the voxels" in why["data.ignore"][1]
        # a region's name says what mirroring would spoil as a label's does
        assert plan.recipe.augmentation.mirror_axes != plan_of(made).recipe.augmentation.mirror_axes


class TestOutputs:
    def test_of_labels(self) -> None:
        data = data_plan(ignore=7)
        assert data.outputs == ("background", "a", "b")
        assert data.scored == {"a": (1,), "b": (2,)}
        assert (data.stored_values, data.not_annotated, data.region_classes) == ((0, 1, 2, 7), 3, ())
        assert (data_plan().stored_values, data_plan().not_annotated) == ((0, 1, 2), None)

    def test_of_regions(self) -> None:
        labels = tuple(Label(name=str(value), value=value) for value in (0, 3, 5))
        regions = (Region(name="all", values=(3, 5), writes=3), Region(name="core", values=(5,), writes=5))
        data = data_plan(labels=labels, regions=regions)
        assert data.outputs == ("all", "core")
        assert data.scored == {"all": (3, 5), "core": (5,)}
        assert data.region_classes == ((1, 2), (2,))


class TestPlanner:
    def test_a_small_isotropic_volume_is_planned_in_3d_like_nnunets(self) -> None:
        plan = plan_of(fingerprint(cases=200), encoder="resnet18")
        assert plan.model.configuration == "3d"
        assert plan.model.patch == (40, 56, 40)
        assert plan.model.slice_strides == (2, 2, 2)
        assert plan.data.axes == (2, 1, 0)
        assert plan.recipe.batch_size == 5
        assert plan.expected is not None
        assert plan.expected.training_seconds_per_fold == 1200
        assert plan.expected.training_seconds_per_fold / plan.expected.seconds_per_step >= 600

    def test_little_time_on_a_cpu_turns_3d_into_stacks(self) -> None:
        large = fingerprint(shape=(200, 200, 100))
        assert plan_of(large).model.configuration == "2.5d"
        assert plan_of(large, device="cuda").model.configuration == "3d"
        assert plan_of(large, time_budget=86400.0).model.configuration == "3d"
        assert plan_of(large, config="3d").model.configuration == "3d"

    def test_thick_slices_are_3d_on_a_cpu_where_the_patch_covers_enough(self) -> None:
        thick = fingerprint(shape=(110, 110, 46), spacing=(1.0, 1.0, 3.3))
        assert plan_of(thick).model.configuration == "3d"
        assert plan_of(thick, time_budget=20.0).model.configuration == "2.5d"
        assert plan_of(fingerprint(shape=(256, 256, 36), spacing=(1.25, 1.25, 7.7))).model.configuration == "2.5d"

    def test_coronal_slices(self) -> None:
        plan = plan_of(fingerprint(shape=(200, 30, 180), spacing=(1.0, 6.0, 1.0)), encoder="resnet18", config="2.5d")
        assert plan.data.axes == (1, 2, 0)
        assert plan.data.spacing == (6.0, 1.0, 1.0)
        assert plan.model.patch == (3, 192, 224)

    def test_2d_images(self) -> None:
        plan = plan_of(images_2d())
        assert (plan.model.configuration, plan.model.patch) == ("2d", (1, 128, 128))
        assert plan.model.input_mapping == "encoder_mean_std"

    def test_memory_bounds_what_is_expected(self) -> None:
        large = fingerprint(shape=(300, 300, 200))
        for memory in (3_000_000_000, 8_000_000_000):
            plan = plan_of(large, device="cuda", memory=memory)
            assert plan.expected is not None
            assert plan.expected.memory_bytes <= memory
        assert plan_of(large, device="cuda", memory=3_000_000_000).model.patch < plan.model.patch

    def test_scratch_means_no_weights(self) -> None:
        plan = plan_of(fingerprint(), strategy="scratch")
        assert (plan.recipe.strategy.name, plan.model.weights.source) == ("scratch", "none")

    def test_options_are_kept(self, tmp_path: Path) -> None:
        weights = tmp_path / "own.safetensors"
        weights.touch()
        plan = plan_of(
            fingerprint(), weights=str(weights), strategy="gradual", epochs=7, normalization={"MRI": "minmax"}, seed=3
        )
        assert (plan.model.weights.source, plan.model.weights.path) == ("file", str(weights))
        assert plan.recipe.strategy == gradual(plan.model)
        assert len(plan.recipe.strategy.start) == plan.model.stages
        assert (plan.recipe.epochs, plan.recipe.time_budget, plan.recipe.seed) == (7, None, 3)
        assert plan.data.channels[0].normalization.kind == "minmax"

    def test_auto_weights_ask_the_cache_about_the_chosen_encoder(self) -> None:
        asked: list[str] = []

        def cached(name: str) -> bool:
            asked.append(name)
            return True

        assert (
            plan_of(fingerprint(), encoder="resnet34", resources={"imagenet_cached": cached}).model.weights.source
            == "imagenet"
        )
        assert asked == ["resnet34"]

    def test_an_encoder_that_does_not_convert_to_3d_reads_stacks(self) -> None:
        plan = plan_of(fingerprint(cases=200), encoder="inception_v3")
        assert plan.model.configuration == "2.5d"
        reasons = {reason.field: reason.reason for reason in plan.reasons}
        assert reasons["model.configuration"] == "the encoder does not convert to 3D"

    @pytest.mark.parametrize("config", ["2d", "2.5d", "3d"])
    def test_a_stem_of_stride_4_is_planned_throughout(self, config: str) -> None:
        # A GPU has no time limit.
        changes: dict[str, Any] = {"encoder": "convnext_tiny", "strategy": "finetune", "device": "cuda"}
        plan = plan_of(fingerprint(shape=(90, 90, 60)), config=config, **changes)
        assert plan.model.stages == 3
        assert plan.model.decoder_channels == (96, 128, 192)
        assert all(side % 16 == 0 for side in plan.model.patch[1:])
        assert plan.model.slice_strides == ((2, 2, 2) if config == "3d" else ())
        assert plan.recipe.strategy.batchnorm == "source"

    def test_frozen_stages_are_expected_to_take_less_memory(self) -> None:
        changes: dict[str, Any] = {"config": "2d", "device": "cuda"}
        memory = [
            plan_of(fingerprint(shape=(200, 200, 50)), strategy=strategy, **changes).expected.memory_bytes
            for strategy in ("frozen", "partial", "finetune")
        ]
        assert memory == sorted(memory)
        assert memory[0] < memory[1] < memory[2]

    def test_a_single_case_is_planned_too(self) -> None:
        plan = plan_of(fingerprint(cases=1))
        assert plan.recipe.splits[0].train == plan.recipe.splits[0].validation == ("case_000",)


class TestImpossibleOptions:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"config": "4d"}, "--config: unknown choice '4d'"),
            ({"strategy": "never"}, "--strategy: unknown choice"),
            ({"encoder": "resnet1"}, "resnet1"),
            ({"encoder": "inception_v3", "config": "3d"}, "--config 3d: inception_v3 does not convert to 3D"),
            ({"encoder": "resnet50", "weights": "bundled"}, "no bundled weights for resnet50"),
            ({"weights": "missing.pth"}, "missing.pth: there is no such weights file"),
            ({"strategy": "scratch", "weights": "imagenet"}, "scratch starts from random weights"),
            (
                {"weights": "imagenet", "resources": {"offline": True}},
                "--weights: the ImageNet weights of tf_efficientnet_lite0 are not on this",
            ),
            ({"memory": 10**8}, "100.0 MB are too little"),
            ({"memory": 0}, "--memory"),
            ({"epochs": 0}, "--epochs"),
            ({"time_budget": 0.0}, "--time-budget"),
            ({"epochs": 1, "time_budget": 1.0}, "--epochs and --time-budget exclude each other"),
            ({"normalization": {"CT": "zscore"}}, "no channel 'CT'"),
            ({"normalization": {"MRI": "log"}}, "unknown choice 'log'"),
        ],
        ids=str,
    )
    def test_they_are_refused_with_a_hint(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError) as error:
            plan_of(fingerprint(), **changes)
        assert message in str(error.value)
        assert error.value.hint

    @pytest.mark.parametrize("config", ["2.5d", "3d"])
    def test_2d_images_have_no_depth(self, config: str) -> None:
        with pytest.raises(UserError, match="single slice"):
            plan_of(images_2d(), config=config)

    def test_normalization_needs_figures(self) -> None:
        with pytest.raises(UserError, match="no range to clip"):
            plan_of(fingerprint(channels=(channel(foreground=None),)), normalization={"MRI": "clip_zscore"})
        with pytest.raises(UserError, match="7 everywhere"):
            plan_of(fingerprint(channels=(channel(minimum=7.0, maximum=7.0),)), normalization={"MRI": "minmax"})


class TestDocument:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "plan.json"
        plan_of(fingerprint()).save(path)
        return path

    def edit(self, path: Path, field: str, value: object) -> None:
        content = json.loads(path.read_text())
        target = content
        *way, last = field.split(".")
        for step in way:
            target = target[int(step)] if step.isdecimal() else target[step]
        target[last] = value
        path.write_text(json.dumps(content))

    def test_it_is_read_as_it_was_written(self, path: Path) -> None:
        assert Plan.load(path) == plan_of(fingerprint())
        assert edited_parts(path) == []

    @pytest.mark.parametrize(
        ("field", "value", "part"),
        [
            ("recipe.batch_size", 3, "recipe"),
            ("model.patch", [48, 56, 40], "model"),
            ("data.crop_nonzero", True, "data"),
        ],
    )
    def test_an_edit_by_hand_works_and_changes_the_hash_of_its_part_alone(
        self, path: Path, field: str, value: object, part: str
    ) -> None:
        before = Plan.load(path)
        self.edit(path, field, value)
        after = Plan.load(path)
        assert edited_parts(path) == [part]
        assert before.hash != after.hash
        for name in {"data", "model", "recipe"} - {part}:
            assert part_hash(getattr(before, name)) == part_hash(getattr(after, name))

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("recipe.bacth_size", 3, "recipe.bacth_size: unknown field"),
            ("recipe.batch_size", 0, "recipe.batch_size"),
            ("recipe.augmentation.flip", 1, "recipe.augmentation.flip: unknown field"),
            ("model.patch", [0, 56, 40], "model: patch"),
            ("model.slice_strides", [1, 1], "model: slice_strides has 2 entries instead of 3"),
            ("model.decoder_channels", [16], "model: decoder_channels has 1 entries"),
            ("model.configuration", "2.5d", "model: a 2.5d patch has an odd number"),
            ("data.axes", [0, 0, 1], "data: axes (0, 0, 1) is not a permutation"),
            ("data.labels.1.value", 0, "data: label values [0, 0, 2] are not distinct"),
            ("data.regions", [{"name": "all", "values": [1, 3], "writes": 1}], "data: region all: [3] are not values"),
            ("data.regions", [{"name": "all", "values": [0, 1], "writes": 1}], "data: region all: [0] are not values"),
            ("data.regions", [{"name": "all", "values": [1], "writes": 2}], "data: region all writes 2, which is not"),
            ("data.regions", [{"name": "a", "values": [1], "writes": 1}] * 2, "data: regions ['a', 'a'] are not"),
            ("data.ignore", 2, "data: ignore is 2, which is a label's value"),
            ("data.ignore", 0, "data: ignore is 0"),
            ("data.spacing", [1, 1, -1], "data.spacing.2"),
            ("data.spacing", [1, 1e-30, 1], "data.spacing.1"),
            ("data.channels.0.normalization.mean", 1e300, "data.channels.0.normalization.mean"),
            ("model.patch", [8, 10**5, 10**5], "model: patch (8, 100000, 100000) has 80000000000 voxels"),
            ("model.decoder_channels", [16, 32, 10**30], "model.decoder_channels.2"),
            ("recipe.batch_size", 10**12, "recipe.batch_size"),
            ("recipe.time_budget", 1e30, "recipe.time_budget"),
            ("recipe.steps_per_epoch", 10**12, "recipe.steps_per_epoch"),
            ("recipe.learning_rate", 1e9, "recipe.learning_rate"),
            ("recipe.weight_decay", 1e9, "recipe.weight_decay"),
            ("recipe.gradient_clip", 1e300, "recipe.gradient_clip"),
            ("recipe.augmentation.noise_std", 1e9, "recipe.augmentation.noise_std"),
            ("recipe.augmentation.gamma_range", [1e-9, 1], "recipe.augmentation.gamma_range.0"),
            ("recipe.augmentation.contrast_range", [1, 1e9], "recipe.augmentation.contrast_range.1"),
            (
                "recipe.splits.0.validation",
                ["case_000", "case_001"],
                "recipe.splits.0: trains and validates on case_00",
            ),
            ("recipe.splits.0.train", ["case_001", "case_001"], "recipe.splits.0.train: a case is named twice"),
            ("recipe.epochs", 3, "recipe: give exactly one of epochs and time_budget"),
            ("recipe.splits.0.train", ["stranger"], "recipe.splits.0.train: not in data.cases: stranger"),
            ("recipe.strategy.batchnorm", "magic", "recipe.strategy.batchnorm"),
            ("recipe.strategy.rate", [0.3, 0.3], "recipe.strategy: rate has 2 entries, start has 3"),
            ("recipe.strategy.kind", "frozen", "recipe.strategy.kind: unknown field"),
            ("recipe.tta_axes", [1, 1], "recipe.tta_axes: axes (1, 1) are not distinct"),
            ("recipe.augmentation.mirror_axes", [2, 2], "recipe.augmentation.mirror_axes"),
            ("recipe.augmentation.scale_range", [1.4, 0.7], "recipe.augmentation.scale_range.0"),
            (
                "recipe.augmentation.colour_probability",
                0.2,
                "recipe.augmentation.colour_probability: needs 3 channels with minmax, not zscore",
            ),
            ("recipe.augmentation.lens_amount", 0.5, "recipe.augmentation.lens_amount"),
            ("model.encoder", "inception_v3", "model: inception_v3 does not convert to 3d; these do: resnet18, "),
            ("model.encoder", "resnet99", "model: unknown encoder 'resnet99', not timm/NAME or one of resnet18, "),
            ("model.stages", 6, "model: stages is 6, but tf_efficientnet_lite0 has 5"),
            ("version", 1, "runs of the earlier version need the segtl that trained them"),
            ("version", 3, "a plan of version 3; this segtl reads version 2\n  hint: it was written by a newer segtl"),
        ],
    )
    def test_an_impossible_edit_is_refused_with_its_path(
        self, path: Path, field: str, value: object, message: str
    ) -> None:
        self.edit(path, field, value)
        with pytest.raises(UserError) as error:
            Plan.load(path)
        assert message in str(error.value)
        assert str(path) in str(error.value)

    def test_a_plan_that_lacks_a_newer_field_is_read_with_its_default_and_not_called_edited(self, path: Path) -> None:
        before = Plan.load(path)
        content = json.loads(path.read_text())
        for part, field in (("data", "regions"), ("model", "head"), ("recipe", "gradient_clip")):
            del content[part][field]
            content["checksums"][part] = json_hash(content[part])  # as a segtl without the field wrote it
        path.write_text(json.dumps(content))
        assert edited_parts(path) == []
        assert Plan.load(path) == before and Plan.load(path).hash == before.hash

    @pytest.mark.parametrize("text", ["", "{", "[]", "3"])
    def test_what_is_no_plan_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "plan.json").write_text(text)
        with pytest.raises(UserError, match="plan"):
            Plan.load(tmp_path / "plan.json")
        with pytest.raises(UserError, match="no plan here"):
            Plan.load(tmp_path / "none.json")

    def test_2d_images_cannot_be_edited_into_volumes(self) -> None:
        plan = plan_of(images_2d())
        stacked = plan.model.model_copy(update={"configuration": "2.5d", "patch": (3, 128, 128)})
        with pytest.raises(ValidationError, match=r"2D images need 2d, not 2\.5d"):
            Plan(data=plan.data, model=stacked, recipe=plan.recipe)

    def test_weights_that_no_stage_takes_are_refused(self, path: Path) -> None:
        self.edit(path, "recipe.strategy.pretrained_stages", 0)
        with pytest.raises(
            UserError, match=r"recipe\.strategy\.pretrained_stages: 0, but model\.weights\.source is bundled"
        ):
            Plan.load(path)
        self.edit(path, "model.weights", {"source": "none"})
        assert Plan.load(path).recipe.strategy.pretrained_stages == 0

    def test_a_strategy_needs_an_entry_for_each_stage(self, path: Path) -> None:
        strategy = learns(0.0, 0.0, pretrained=2).model_dump(mode="json")
        self.edit(path, "recipe.strategy", strategy)
        with pytest.raises(UserError, match=r"recipe\.strategy\.start: 2 entries, but model\.stages is 3"):
            Plan.load(path)

    def test_classic_is_planned_from_size_and_similarity(self) -> None:
        few = plan_of(fingerprint(cases=10), strategy="classic")
        assert few.recipe.strategy == partial(few.model) and few.recipe.strategy.pretrained_stages == 2
        reason = next(each.reason for each in few.reasons if each.field == "recipe.strategy")
        assert reason.startswith("classic was requested; small: 5 training cases with ")
        assert "different: volumes of 1 channel(s)" in reason
        many = plan_of(fingerprint(cases=200), strategy="classic")
        assert many.recipe.strategy == finetune(many.model)
        none = plan_of(fingerprint(cases=200), strategy="classic", weights="none")
        assert none.recipe.strategy == scratch(none.model)

    def test_a_strategy_does_not_touch_the_hash_of_the_data(self) -> None:
        made = fingerprint()
        one = plan_of(made)
        other = plan_of(made, strategy="frozen", encoder="resnet34")
        assert part_hash(one.data) == part_hash(other.data)
        assert part_hash(one.model) != part_hash(other.model)
        assert part_hash(one.recipe) != part_hash(other.recipe)


def test_an_unknown_encoder_is_refused_before_the_data_set_is_measured() -> None:
    with pytest.raises(UserError, match="unknown encoder 'resnet99'"):
        check_before_measuring(
            PlanOptions(dataset="data", encoder="resnet99"),
            dataset="data",
            dimension=3,
            channels=["MRI"],
            resources=Resources(Machine("cpu")),
        )
