"""What a voxel is: the best label, or regions painted over each other."""

from __future__ import annotations

import numpy as np
import torch
from made_plans import data_plan

from seg_transfer.data.description import Region
from seg_transfer.inference.classes import activate, decide
from seg_transfer.planning.data_plan import Label

NESTED = data_plan(
    labels=tuple(Label(name=str(value), value=value) for value in (0, 3, 5, 8)),
    regions=(
        Region(name="whole", values=(3, 5, 8), writes=3),
        Region(name="core", values=(5, 8), writes=8),
        Region(name="rim", values=(5,), writes=5),
    ),
)


def test_the_best_label_wins_and_the_first_of_equals() -> None:
    probabilities = np.array([[0.5, 0.2, 0.4, 0.4], [0.3, 0.3, 0.4, 0.2], [0.2, 0.5, 0.2, 0.4]])
    found = decide(probabilities[:, :, None, None], data_plan())
    assert found.dtype == np.uint8
    assert found[:, 0, 0].tolist() == [0, 2, 0, 0]


def test_regions_are_painted_in_order_where_they_are_more_probable_than_not() -> None:
    whole, core, rim = [0.5, 0.6, 0.9, 0.9, 0.1, 0.9], [0.5, 0.5, 0.51, 0.9, 0.9, 0.2], [0.1, 0.2, 0.5, 0.8, 0.1, 0.7]
    found = decide(np.array([whole, core, rim]), NESTED)
    # class indices of the values 3, 5 and 8 are 1, 2 and 3; a core outside the whole counts as both
    assert found.tolist() == [0, 1, 3, 2, 3, 2]


def test_any_part_of_a_volume_is_decided_as_it_is_in_the_whole() -> None:
    probabilities = np.random.default_rng(0).random((3, 6, 5, 4)).astype(np.float32)
    for data in (data_plan(), NESTED):
        slabs = [decide(probabilities[:, index], data) for index in range(6)]
        np.testing.assert_array_equal(np.stack(slabs), decide(probabilities, data))


def test_probabilities_of_labels_add_up_and_those_of_regions_stand_alone() -> None:
    logits = torch.tensor([0.0, 2.0, -1.0]).view(1, 3, 1, 1, 1)
    torch.testing.assert_close(activate(logits, data_plan()).sum(dim=1), torch.ones(1, 1, 1, 1))
    torch.testing.assert_close(activate(logits, NESTED).flatten(), torch.tensor([0.5, 0.880797, 0.268941]))
    assert (len(data_plan().outputs), len(NESTED.outputs)) == (3, 3)
