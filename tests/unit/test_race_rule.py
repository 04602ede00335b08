"""Rules of the race: candidates, held-out cases, budget and winner; and plans derived from a plan."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from made_fingerprints import fingerprint, plan_of
from made_plans import data_plan, learns, model_plan, plan

from seg_transfer.data.splits import Split
from seg_transfer.errors import UserError
from seg_transfer.planning.evidence_record import CandidateResult, RaceEvidence
from seg_transfer.planning.plan import ModelPlan, Plan, Weights
from seg_transfer.planning.rules import race
from seg_transfer.planning.strategy import Race
from seg_transfer.planning.variants import scratch_control, shortened, with_strategy

LABELS: dict[str, list[str]] = {}
BUNDLED = Weights(source="bundled")


def held_out(trained: list[str], *, groups: dict[str, str] | None = None) -> tuple[str, ...]:
    """What a fold that trains on these cases holds out for its race."""
    fold = Split(train=tuple(trained), validation=("outside",))
    cases = [*trained, "outside"]
    groups = None if groups is None else groups | {"outside": "outside"}
    return race.held_out([fold], cases, groups=groups, labels=LABELS, seed=0)[0]


def network(stages: int, weights: Weights) -> ModelPlan:
    return model_plan("2d", (1, 16, 16), stages=stages, decoder_channels=(8,) * stages, weights=weights)


class TestChallengers:
    def test_nothing_everything_and_the_lowest_stages_are_taken(self) -> None:
        chosen = race.challengers(network(4, BUNDLED))
        assert [each.name for each in chosen] == ["scratch", "frozen", "partial"]
        assert [each.pretrained_stages for each in chosen] == [0, 4, 2]
        assert race.challengers(network(2, BUNDLED))[2].pretrained_stages == 1

    def test_where_no_stage_can_be_left_out_two_remain(self) -> None:
        earlier = Weights(source="model", path="m.segtl", sha256="0", carry="all")
        for stages, weights in ((1, BUNDLED), (4, earlier)):
            assert [each.name for each in race.challengers(network(stages, weights))] == ["scratch", "frozen"]


class TestHeldOut:
    @pytest.mark.parametrize(
        ("cases", "sizes"), [(2, {1}), (3, {1, 2}), (4, {2}), (10, {2, 3}), (16, {4}), (80, {20}), (400, {20})]
    )
    def test_a_quarter_at_least_two_and_at_most_twenty(self, cases: int, sizes: set[int]) -> None:
        names = [f"case_{index:03}" for index in range(cases)]
        assert len(set(held_out(names)) & set(names)) in sizes

    def test_a_group_is_on_one_side(self) -> None:
        groups = {f"{patient}{eye}": patient for patient in "abcdef" for eye in "LR"}
        chosen = set(held_out(list(groups), groups=groups))
        assert chosen
        assert all(chosen >= {f"{case[0]}L", f"{case[0]}R"} for case in chosen)

    @pytest.mark.parametrize("groups", [None, {"a": "x", "b": "x", "c": "x"}])
    def test_a_single_case_or_group_is_refused(self, groups: dict[str, str] | None) -> None:
        with pytest.raises(UserError, match=r"fold 0 trains on a single case \(or group\)"):
            held_out(["a"] if groups is None else list(groups), groups=groups)

    def test_full_comes_last(self) -> None:
        folds = [Split(train=("a", "b"), validation=("c", "d")), Split(train=("c", "d"), validation=("a", "b"))]
        chosen = race.held_out(folds, ["a", "b", "c", "d"], groups=None, labels=LABELS, seed=0)
        assert [len(cases) for cases in chosen] == [1, 1, 2]
        assert set(chosen[0]) < {"a", "b"} and set(chosen[1]) < {"c", "d"}


class TestSpend:
    @pytest.mark.parametrize(("epochs", "expected"), [(150, 15), (10, 1), (4, 1), (2, 1)], ids=str)
    def test_whole_epochs_remain(self, epochs: int, expected: float) -> None:
        assert race.spend(0.1, epochs=epochs, time_budget=None) == expected

    def test_race_and_training_keep_to_the_seconds(self) -> None:
        assert race.spend(0.25, epochs=None, time_budget=1200.0) == 300
        assert [race.time_left(1200, taken) for taken in (200, 340, 600, 1100)] == [1000, 860, 600, 600]

    def test_one_epoch_is_refused(self) -> None:
        with pytest.raises(UserError, match="1 epoch"):
            race.spend(0.1, epochs=1, time_budget=None)


class TestChoose:
    names = ("gradual", "scratch")

    def test_the_plans_own_strategy_where_it_is_best(self) -> None:
        winner, reason = race.choose(self.names, [[0.8, 0.7], [0.7, 0.6]])
        assert winner == 0
        assert reason.startswith("gradual: mean Dice over 2 held-out training case(s): gradual 0.750, scratch 0.650")

    def test_another_where_it_is_better_in_every_case(self) -> None:
        winner, reason = race.choose(self.names, [[0.5, 0.6, 0.7, 0.7], [0.58, 0.7, 0.79, 0.8]])
        assert winner == 1 and "significantly better than gradual (95 %" in reason

    def test_better_in_the_only_two_cases_is_chance(self) -> None:
        winner, reason = race.choose(self.names, [[0.5, 0.6], [0.55, 0.7]])
        assert winner == 0 and "not significantly better (95 %" in reason

    def test_a_tie_within_chance_goes_to_the_plans_own(self) -> None:
        winner, reason = race.choose(self.names, [[0.5, 0.6, 0.7], [0.9, 0.59, 0.69]])
        assert winner == 0 and reason.startswith("gradual:") and "not significantly better (95 %" in reason

    def test_a_single_case_says_nothing_about_chance(self) -> None:
        winner, reason = race.choose(self.names, [[0.1], [0.9]])
        assert winner == 0 and "(a single case)" in reason

    def test_cases_without_a_label_do_not_count(self) -> None:
        assert race.choose(self.names, [[0.5, math.nan, 0.5, 0.5], [0.6, 0.0, 0.61, 0.6]])[0] == 1
        assert race.choose(self.names, [[math.nan], [0.5]])[1] == (
            "gradual: no held-out case has a label, so that candidates cannot be compared"
        )


def a_plan(**recipe: Any) -> Plan:
    settings: dict[str, Any] = {
        "strategy": learns(0.3, 0.1, rate=0.3, batchnorm="source", pretrained=2, name="gradual"),
        "splits": (Split(train=("a", "b", "c"), validation=("d",)),),
    }
    model = model_plan("2d", (1, 16, 16), weights=Weights(source="bundled"))
    return plan(data_plan(cases=("a", "b", "c", "d")), model, **(settings | recipe))


SCRATCH = learns(0.0, 0.0, name="scratch")
LOWER = learns(None, 0.0, pretrained=1, name="partial")


class TestVariants:
    def test_the_control_differs_in_nothing_but_weights_and_strategy(self) -> None:
        made = plan_of(fingerprint(), strategy="race")
        assert made.recipe.race is not None
        control = scratch_control(made)
        mine, theirs = (each.model_dump(exclude={"reasons"}) for each in (made, control))
        assert (
            theirs["model"].pop("weights")["source"] == "none" and mine["model"].pop("weights")["source"] == "bundled"
        )
        assert theirs["recipe"].pop("strategy")["name"] == "scratch" and mine["recipe"].pop("strategy")
        assert theirs["recipe"].pop("race") is None and mine["recipe"].pop("race")
        assert mine == theirs
        changed = {one.field for one, other in zip(made.reasons, control.reasons, strict=True) if one != other}
        assert changed == {"model.weights", "recipe.strategy", "recipe.race"}
        assert Plan.model_validate(control.model_dump()) == control and scratch_control(control).hash == control.hash

    def test_only_scratch_takes_the_weights_away(self) -> None:
        made = a_plan(race=Race(share=0.1, challengers=(SCRATCH,), held_out=(("a",), ("a", "d"))))
        kept = with_strategy(made, made.recipe.strategy, "won")
        assert kept.model == made.model and kept.recipe == made.recipe.model_copy(update={"race": None})
        assert with_strategy(made, SCRATCH, "won").model.weights == Weights(source="none")

    def test_lower_only_names_the_weights_and_says_how_many_stages_take_them(self) -> None:
        lower = with_strategy(a_plan(), LOWER, "won")
        assert lower.model == a_plan().model and lower.recipe.strategy == LOWER
        assert Plan.model_validate(lower.model_dump()) == lower

    def test_a_short_training_has_its_own_length(self) -> None:
        split = Split(train=("a",), validation=("b",))
        short = shortened(a_plan(epochs=None, time_budget=60.0, ema_decay=0.999), split, 40).recipe
        assert (short.splits, short.epochs, short.steps_per_epoch, short.time_budget) == ((split,), 1, 40, None)
        assert (short.warmup, short.ema_decay) == (0.2, 0.9)
        assert shortened(a_plan(ema_decay=0), split, 40).recipe.ema_decay == 0


class TestPlan:
    @pytest.mark.parametrize(
        ("kept", "said"),
        [
            ((("d",), ("a",)), "held_out.0: not a proper subset"),
            ((("a", "b", "c"), ("a",)), "held_out.0: not a proper subset"),
            ((("a",), ("a", "b", "c", "d")), "held_out.1: not a proper subset"),
            ((("a",),), "1 entries for 1 fold"),
            (((), ("a",)), "held_out.0"),
        ],
    )
    def test_a_race_reads_what_its_fold_trains_on(self, kept: tuple[tuple[str, ...], ...], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            a_plan(race=Race(share=0.1, challengers=(SCRATCH,), held_out=kept))

    def test_challengers_fit_the_network(self) -> None:
        wrong = learns(None, None, None, batchnorm="source")
        with pytest.raises(ValueError, match=r"recipe\.race\.challengers\.1\.start: 3 entries, but model\.stages is 2"):
            a_plan(race=Race(share=0.1, challengers=(SCRATCH, wrong), held_out=(("a",), ("a",))))

    def test_without_weights_no_challenger_starts_pretrained(self) -> None:
        kept = Race(share=0.1, challengers=(SCRATCH, LOWER), held_out=(("a",), ("a",)))
        made = a_plan(race=kept).model_dump()
        made["model"]["weights"]["source"] = "none"
        made["recipe"]["strategy"]["pretrained_stages"] = 0
        said = r"recipe\.race\.challengers\.1\.pretrained_stages: 1, but model\.weights\.source is none"
        with pytest.raises(ValueError, match=said):
            Plan.model_validate(made)

    @pytest.mark.parametrize(("taken", "refused"), [(0, False), (1, True), (2, False)])
    def test_an_earlier_model_is_taken_as_a_whole(self, taken: int, refused: bool) -> None:
        earlier = Weights(source="model", path="m.segtl", sha256="0", carry="all")
        challenger = learns(0.0, 0.0, pretrained=taken)
        made = a_plan(race=Race(share=0.1, challengers=(challenger,), held_out=(("a",), ("a",)))).model_dump()
        made["model"]["weights"] = earlier.model_dump()
        if refused:
            with pytest.raises(
                ValueError, match=r"challengers\.0\.pretrained_stages: 1, but an earlier model starts all"
            ):
                Plan.model_validate(made)
        else:
            assert Plan.model_validate(made).recipe.candidates[1] == challenger

    def test_planning_says_what_races(self) -> None:
        made = plan_of(fingerprint(), strategy="race", race_share=0.2, time_budget=600)
        assert made.recipe.race is not None and made.recipe.strategy_name == "race"
        assert [each.name for each in made.recipe.candidates] == ["gradual", "scratch", "frozen", "partial"]
        why = {reason.field: reason for reason in made.reasons}
        assert why["recipe.race"].choice == "20% of the budget, against scratch, frozen, partial"
        assert "2 min of each fold's budget" in why["recipe.race"].reason
        frozen = plan_of(fingerprint(), strategy="frozen")
        assert made.expected is not None and frozen.expected is not None
        assert made.expected.memory_bytes > frozen.expected.memory_bytes  # a challenger trains the encoder

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"race_share": 0.2}, "--race-share: needs --strategy race"),
            ({"strategy": "race", "race_share": 1.0}, "--race-share: 1.0 is out of range"),
            ({"strategy": "race", "weights": "none"}, "--weights none: a race compares pretrained strategies"),
            ({"strategy": "race", "encoder": "resnet50"}, "no pretrained weights"),
            ({"strategy": "race", "epochs": 1}, "--epochs: 1 epoch"),
        ],
    )
    def test_what_cannot_race_is_refused(self, changes: dict[str, Any], said: str) -> None:
        with pytest.raises(UserError, match=said):
            plan_of(fingerprint(), **changes)


def test_evidence_is_kept_to_the_bit_and_its_gaps_are_undefined(tmp_path: Path) -> None:
    result = CandidateResult(
        strategy=SCRATCH, seconds=0.1, dice={"a": {"x": 1 / 3, "y": None}, "b": {"x": None, "y": None}}
    )
    kept = RaceEvidence(
        fold="full",
        seed=1,
        epochs=None,
        time_budget=0.7,
        steps=3,
        train=("c",),
        held_out=("a",),
        results=(result,),
    )
    kept.save(tmp_path / "race.json")
    assert RaceEvidence.load(tmp_path / "race.json") == kept
    assert result.case_dice() == {"a": 1 / 3, "b": pytest.approx(math.nan, nan_ok=True)}
    (tmp_path / "race.json").write_text('{"version": 2}')
    with pytest.raises(UserError, match=r"race\.json: seed: Field required; epochs: .*; fold: Field required; "):
        RaceEvidence.load(tmp_path / "race.json")
    (tmp_path / "race.json").write_text('{"racers": []}')
    with pytest.raises(UserError, match=r"a race of version 1; .*\n.*hint: train again with --restart"):
        RaceEvidence.load(tmp_path / "race.json")
    with pytest.raises(UserError, match="there is no race here"):
        RaceEvidence.load(tmp_path / "other.json")
