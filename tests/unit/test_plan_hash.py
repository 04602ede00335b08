"""The hash of a plan's parts: a new field with a default changes none, a changed value does."""

from __future__ import annotations

from typing import Any

import pytest
from made_plans import data_plan, model_plan, plan
from pydantic import Field, create_model

from seg_transfer.data.splits import Split
from seg_transfer.planning.fields import part_hash
from seg_transfer.planning.plan import Augmentation, Plan, RecipePlan
from seg_transfer.planning.strategy import Race
from seg_transfer.util.records import Record


def grown(record: type[Record], **fields: Any) -> type[Record]:
    """The record as a later segtl might declare it: with one more field, and with other fields of other types."""
    return create_model(record.__name__, __base__=record, new_share=(float, 0.0), **fields)  # type: ignore[no-any-return]


def recipe() -> RecipePlan:
    made = plan(
        data_plan(cases=("a", "b")), model_plan("2d", (1, 32, 32)), splits=(Split(train=("a",), validation=("b",)),)
    )
    return made.recipe


class Leaf(Record):
    share: float = 0.1


class Tree(Record):
    name: str
    leaf: Leaf = Leaf()
    other: Leaf | None = None
    leaves: tuple[Leaf, ...] = ()
    named: dict[str, Leaf] = Field(default={})


def later_tree() -> type[Record]:
    leaf: Any = grown(Leaf)
    return create_model(
        "Tree",
        __base__=grown(Tree),
        leaf=(leaf, leaf()),
        other=(leaf | None, None),
        leaves=(tuple[leaf, ...], ()),
        named=(dict[str, leaf], {}),
    )


CONTENTS: list[dict[str, Any]] = [
    {"name": "x"},
    {"name": "x", "leaf": {"share": 0.2}},
    {"name": "x", "other": {}},
    {"name": "x", "other": {"share": 0.2}},
    {"name": "x", "leaves": [{}, {"share": 0.3}]},
    {"name": "x", "named": {"a": {}, "b": {"share": 0.4}}},
]


@pytest.mark.parametrize("content", CONTENTS, ids=str)
def test_a_new_field_with_a_default_changes_no_hash(content: dict[str, Any]) -> None:
    before, later = Tree.model_validate(content), later_tree().model_validate(content)
    assert "new_share" in later.model_dump()
    assert part_hash(later) == part_hash(before)


def test_every_changed_value_changes_the_hash() -> None:
    hashes = {part_hash(Tree.model_validate(content)) for content in CONTENTS}
    assert len(hashes) == len(CONTENTS)
    later = later_tree()
    changed: list[dict[str, Any]] = [
        {"name": "x", "new_share": 0.5},
        {"name": "x", "leaf": {"new_share": 0.5}},
        {"name": "x", "other": {"new_share": 0.5}},
        {"name": "x", "leaves": [{}, {"share": 0.3, "new_share": 0.5}]},
        {"name": "x", "named": {"a": {}, "b": {"share": 0.4, "new_share": 0.5}}},
    ]
    assert len(hashes | {part_hash(later.model_validate(content)) for content in changed}) == 11


def test_an_augmentation_that_is_added_changes_no_recipe_and_no_plan() -> None:
    later_augmentation: Any = grown(Augmentation)
    later: Any = grown(RecipePlan, augmentation=(later_augmentation, later_augmentation()))
    for made in (recipe(), recipe().model_copy(update={"augmentation": Augmentation(blur_probability=0.9)})):
        content = made.model_dump(mode="json")
        assert part_hash(later.model_validate(content)) == part_hash(made)
        content["augmentation"]["new_share"] = 0.5
        assert part_hash(later.model_validate(content)) != part_hash(made)


def test_a_race_is_part_of_the_hash() -> None:
    made = recipe()
    race = Race(share=0.1, challengers=tuple(each for each in made.candidates), held_out=(("a",), ("b",)))
    assert part_hash(made.model_copy(update={"race": race})) != part_hash(made)


def test_the_same_value_given_or_left_to_the_default_is_the_same_plan() -> None:
    data, model = data_plan(cases=("a", "b")), model_plan("2d", (1, 32, 32))
    one, other = plan(data, model), plan(data, model, gradient_clip=12.0, augmentation=Augmentation())
    assert one.hash == other.hash and one.differs_in(other) == []
    changed = plan(data, model, gradient_clip=11.0)
    assert one.hash != changed.hash and one.differs_in(changed) == ["recipe"]
    assert Plan.from_json(one.to_json(), where="text").hash == one.hash
