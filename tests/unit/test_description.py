"""Label schemes of dataset.json: labels that exclude each other, regions, and the ignore label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_dataset import nnunet

from seg_transfer.data.dataset import Dataset, find_dataset
from seg_transfer.data.description import LabelScheme, Region, label_scheme
from seg_transfer.data.image import Image, image_from_array
from seg_transfer.errors import UserError

WHERE = Path("dataset.json")
TUMOUR = {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": 3}


def scheme(labels: dict[str, Any], **more: Any) -> LabelScheme:
    return label_scheme({"labels": labels, **more}, WHERE)


def test_regions_are_read_with_their_order_and_the_values_that_they_are_made_of() -> None:
    found = scheme(TUMOUR, regions_class_order=[1, 2, 3])
    assert found.labels == (("background", 0), ("label_1", 1), ("label_2", 2), ("enhancing", 3))
    assert found.regions == (
        Region(name="whole tumour", values=(1, 2, 3), writes=1),
        Region(name="core", values=(2, 3), writes=2),
        Region(name="enhancing", values=(3,), writes=3),
    )
    assert found.ignore is None


def test_regions_may_overlap_without_one_lying_in_the_other_and_write_any_of_their_values() -> None:
    found = scheme({"background": [0], "a": [5, 1], "b": [5, 9]}, regions_class_order=[1, 5])
    assert found.labels == (("background", 0), ("label_1", 1), ("label_5", 5), ("label_9", 9))
    assert found.regions == (Region(name="a", values=(1, 5), writes=1), Region(name="b", values=(5, 9), writes=5))


def test_a_list_of_one_value_is_a_label_and_needs_no_order() -> None:
    labels = {"background": 0, "liver": [2], "spleen": 1}
    expected = LabelScheme((("background", 0), ("spleen", 1), ("liver", 2)))
    assert scheme(labels) == scheme(labels, regions_class_order=[1, 2]) == expected


@pytest.mark.parametrize("value", [4, [4], "4"])
def test_the_ignore_label_is_no_label(value: object) -> None:
    assert scheme({"background": 0, "liver": 1, "ignore": value}) == LabelScheme(
        (("background", 0), ("liver", 1)), (), 4
    )
    assert scheme({**TUMOUR, "ignore": value}, regions_class_order=[1, 2, 3]).ignore == 4
    assert scheme({"0": "background", "1": "liver", "4": "Ignore"}).ignore == 4


@pytest.mark.parametrize(
    ("labels", "order", "message"),
    [
        (TUMOUR, None, "made of regions, but there is no regions_class_order\n.*each of whole tumour, core, enhancing"),
        (TUMOUR, [1, 2], "regions_class_order has 2 entries for 3 labels"),
        (TUMOUR, [4, 2, 3], r"writes 4 for whole tumour, whose values are \[1, 2, 3\]"),
        (TUMOUR, [1, True, 3], "writes True for core"),
        (TUMOUR, [1, 3, 3], "writes core and enhancing with the same value 3"),
        ({"background": 0, "core": 2, "whole": [1, 2]}, [2, 1], "core lies in whole, which overwrites it"),
        ({"background": 0, "whole": [0, 1], "core": 2}, [1, 2], r"label whole has the values \[0, 1\]"),
        ({"background": 0, "whole": [], "core": 2}, [1, 2], r"label whole has the value \[\]"),
        ({"background": 0, "whole": [1, 1.5]}, [1], r"label whole has the value \[1, 1\.5\]"),
        ({"whole": [1, 2]}, [1], "no label has the value 0"),
        ({"background": 0, "air": 0, "whole": [1, 2]}, [1], "2 labels have the value 0"),
        ({"background": 0, "a": 1, "ignore": [2, 3]}, None, 'the ignore label has 2 values: 2, 3\n.*"ignore": 2'),
        ({"background": 0, "a": 1, "ignore": 1}, None, "the ignore label has the value 1, which another label has"),
        ({"background": 0, "a": [1, 2], "ignore": 2}, [1], "the ignore label has the value 2"),
        ({"background": 0, "ignore": 1}, None, "no label besides the background"),
    ],
)
def test_contradictions_are_reported_with_their_hint(labels: dict, order: list | None, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        scheme(labels, **({} if order is None else {"regions_class_order": order}))
    assert error.value.hint and error.value.where == WHERE


def test_the_data_set_knows_them(tmp_path: Path) -> None:
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {**TUMOUR, "ignore": 4},
        "regions_class_order": [1, 2, 3],
        "file_ending": ".nii.gz",
    }
    found = find_dataset(nnunet(tmp_path / "d", description))
    assert [region.name for region in found.regions] == ["whole tumour", "core", "enhancing"]
    assert (found.ignore, found.declared) == (4, (0, 1, 2, 3, 4))
    image = image_from_array(np.zeros((5, 1, 1)), (1, 1, 1))
    label = Image(np.array([0, 4, 2, 3, 1]).reshape(1, 5, 1, 1), image.affine, image.native)
    assert found.classes(label).flatten().tolist() == [0, 4, 2, 3, 1]
    found.save(tmp_path / "saved.json")
    assert Dataset.load(tmp_path / "saved.json") == found
    assert json.loads((tmp_path / "saved.json").read_text())["regions"][1] == {
        "name": "core",
        "values": [2, 3],
        "writes": 2,
        "numbered": False,
    }
