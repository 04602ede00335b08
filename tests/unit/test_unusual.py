"""Cases that are unlike the other cases of their data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from made_fingerprints import colours, fingerprint
from scipy import stats

from seg_transfer.data.fragments import Fragments
from seg_transfer.planning.case_fingerprint import CaseFingerprint, LabelPosition
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.unusual import unusual

PLANS = Path(__file__).resolve().parents[2] / "plans"
ABOVE = "standard deviations above the image's mean"
LOW = LabelPosition(lower=0.1, upper=0.3, low_half=1.0)
HIGH = LabelPosition(lower=0.7, upper=0.9, low_half=0.0)


def changed(made: Fingerprint, changes: Mapping[int, Mapping[str, object]]) -> Fingerprint:
    cases = [case.model_copy(update=dict(changes.get(index, {}))) for index, case in enumerate(made.cases)]
    return made.model_copy(update={"cases": tuple(cases)})


def with_labels(case: CaseFingerprint, **update: object) -> dict[str, object]:
    return {"labels": tuple(label.model_copy(update=update) for label in case.labels)}


def whole(made: Fingerprint, count: int = 1) -> dict[str, Sequence[Fragments]]:
    return {case.id: [Fragments(count, 1.0)] * len(made.labels) for case in made.cases}


def test_like_cases_are_not_unusual() -> None:
    made = fingerprint()
    assert unusual(made, whole(made)) == {}


@pytest.mark.parametrize("cases", [5, 10, 150])
@pytest.mark.parametrize("spacing", [(0.1, 0.1, 0.1), (1.0, 1.0, 10.0), (1000.0, 1000.0, 1000.0)])
def test_another_spacing_is_found(cases: int, spacing: tuple[float, float, float]) -> None:
    made = changed(fingerprint(cases=cases), {3: {"spacing": spacing}})
    found = unusual(made, whole(made))
    assert list(found) == ["case_003"]
    assert any(text.startswith("spacing in mm") for text in found["case_003"])


def test_two_cases_of_twenty_do_not_hide_each_other() -> None:
    made = changed(fingerprint(cases=20), {index: {"spacing": (0.001, 0.001, 0.001)} for index in (2, 9)})
    assert list(unusual(made, whole(made))) == ["case_002", "case_009"]


def test_a_second_scanner_is_a_group_of_its_own_and_not_unusual() -> None:
    made = changed(fingerprint(cases=20), {index: {"spacing": (3.0, 3.0, 3.0)} for index in range(0, 20, 3)})
    assert unusual(made, whole(made)) == {}


def test_another_size_and_orientation_are_found() -> None:
    made = changed(fingerprint(), {1: {"shape": (35, 50, 300)}, 2: {"orientation": "LPS"}})
    found = unusual(made, whole(made))
    assert found["case_001"] == ("size in mm: along z 300, expected 19.8 to 65.5",)
    assert found["case_002"] == ("orientation: its axes run LPS, expected RAS; is its header right?",)


def test_other_intensities_and_a_constant_image_are_found() -> None:
    made = fingerprint()
    channel = made.cases[0].channels[0]
    bright = channel.model_copy(update={"mean": 5000.0, "std": 2000.0, "maximum": 1e5})
    flat = channel.model_copy(update={"mean": 7.0, "std": 0.0, "minimum": 7.0, "maximum": 7.0})
    found = unusual(changed(made, {4: {"channels": (bright,)}, 5: {"channels": (flat,)}}), whole(made))
    assert list(found) == ["case_004", "case_005"]
    assert found["case_004"][0].startswith("MRI: mean")
    assert "MRI: every voxel has the value 7" in found["case_005"]


def test_exchanged_channels_are_found() -> None:
    made = fingerprint(channels=colours()[:2])
    one, two = (
        made.cases[0].channels[0].model_copy(update={"mean": mean, "std": std, "minimum": low, "maximum": high})
        for mean, std, low, high in ((-500.0, 400.0, -1024.0, 3000.0), (1.0, 2.0, 0.0, 40.0))
    )
    made = changed(made, {index: {"channels": (one, two) if index != 6 else (two, one)} for index in range(10)})
    found = unusual(made, whole(made))
    assert found == {"case_006": ("channels in the wrong order? R looks like G, G looks like R of the other images",)}


@pytest.mark.parametrize(
    ("voxels", "said"), [(3, "a: volume in voxels"), (10**8, "a: volume in voxels"), (0, "a is missing")]
)
def test_another_volume_or_a_missing_label_is_found(voxels: int, said: str) -> None:
    made = fingerprint()
    made = changed(made, {7: with_labels(made.cases[7], voxels=voxels)})
    found = unusual(made, whole(made))
    assert list(found) == ["case_007"]
    assert found["case_007"][0].startswith(said)


def with_means(case: CaseFingerprint, *means: float | None) -> dict[str, object]:
    """A case whose background and labels have these means in each channel."""
    return {"channels": tuple(channel.model_copy(update={"label_means": means}) for channel in case.channels)}


@pytest.mark.parametrize("cases", [6, 20, 150])
def test_a_label_darker_or_brighter_than_elsewhere_is_found(cases: int) -> None:
    made = fingerprint(cases=cases)  # the image has 50 +- 20, both labels 60
    made = changed(made, {2: with_means(made.cases[2], 40.0, 60.0, -10.0), 5: with_means(made.cases[5], 40, 180, 60)})
    assert unusual(made, whole(made)) == {
        f"case_00{index}": (text,)
        for index, text in (
            (2, f"b is unusually dark or bright: MRI -3, expected {limits(made, 2, 2)} {ABOVE}"),
            (5, f"a is unusually dark or bright: MRI 6.5, expected {limits(made, 5, 1)} {ABOVE}"),
        )
    }


def limits(made: Fingerprint, case: int, label: int) -> str:
    """Limits by Student's t for two labels: the prior of 0.25 weighs as much as four cases."""
    found = [(one.channels[0].label_means[label] - 50) / 20 for one in made.cases]
    similar = len(found) // 10
    own = found.pop(case)
    others = np.array(sorted(found, key=lambda value: abs(value - own))[similar:])
    count = len(others)
    variance = (((others - others.mean()) ** 2).sum() + 4 * 0.25**2) / (count + 3)
    reach = stats.t.ppf(1 - 1e-3 / 4, count + 3) * max(0.25, np.sqrt(variance * (1 + 1 / count)))
    return f"{others.mean() - reach:.3g} to {others.mean() + reach:.3g}"


def test_brightness_is_compared_where_there_is_some() -> None:
    made = fingerprint(channels=colours()[:2])
    flat = made.cases[0].channels[0].model_copy(update={"std": 0.0, "label_means": (40.0, 1e6, 60.0)})
    made = changed(made, {0: {"channels": (flat, flat)}, 1: with_means(made.cases[1], 40.0, None, 60.0)})
    found = unusual(made, whole(made))
    assert not any("dark or bright" in text for texts in found.values() for text in texts)


def test_the_dark_spleen_and_kidneys_of_a_real_data_set_are_found() -> None:
    """The two cases on which networks trained on other cases lost most (docs/log.md, 2026-11-30)."""
    found = unusual(Fingerprint.load(PLANS / "abdomen_mr.fingerprint.json"), {})
    assert {case: [text.split(" is")[0] for text in texts] for case, texts in found.items()} == {
        "abdomen_15": ["spleen"],
        "abdomen_36": ["right_kidney", "left_kidney"],
    }


def test_many_fragments_are_found() -> None:
    made = fingerprint()
    fragments = whole(made) | {"case_002": [Fragments(4, 0.75), Fragments(1, 1.0)]}
    assert unusual(made, fragments) == {
        "case_002": ("a is in 4 fragments (the largest has 75.0% of it), in 9 of 9 other cases in one",)
    }


def test_a_label_of_many_fragments_everywhere_is_not_unusual_unless_there_are_very_many() -> None:
    made = fingerprint()
    fragments = whole(made, 40) | {"case_002": [Fragments(60, 0.2), Fragments(4000, 0.1)]}
    (text,) = unusual(made, fragments)["case_002"]
    assert text.startswith("b: number of fragments 4e+03, expected")


def test_labels_the_other_way_round_are_found() -> None:
    made = fingerprint(labels=("left", "right"))
    sides = [
        made.cases[0].labels[index].model_copy(update={"positions": (one,) * 3})
        for index, one in enumerate((LOW, HIGH))
    ]
    made = changed(made, {index: {"labels": tuple(sides if index != 4 else sides[::-1])} for index in range(10)})
    found = unusual(made, whole(made))
    assert list(found) == ["case_004"]
    assert [text.split(" than")[0] for text in found["case_004"]] == [
        "lie the other way round left-right",
        "lie the other way round back-front",
        "lie the other way round feet-head",
    ]
    assert "left and right (9 of 9)" in found["case_004"][0]


def test_one_label_in_the_other_half_is_found() -> None:
    made = fingerprint(cases=6, labels=("liver",))
    side = made.cases[0].labels[0]
    there, here = (side.model_copy(update={"positions": (x, one, one)}) for x, one in ((LOW, HIGH), (HIGH, HIGH)))
    made = changed(made, {index: {"labels": (there if index != 4 else here,)} for index in range(6)})
    assert unusual(made, whole(made)) == {
        "case_004": (
            "liver lies in the other half of the image, left-right, than in 5 of 5 other cases; is the image mirrored?",
        )
    }


def test_labels_on_either_side_are_not_unusual() -> None:
    made = fingerprint(labels=("tumour",))
    side = made.cases[0].labels[0]
    made = changed(
        made,
        {
            index: {"labels": (side.model_copy(update={"positions": (LOW if index % 2 else HIGH,) * 3}),)}
            for index in range(10)
        },
    )
    assert unusual(made, whole(made)) == {}


def test_few_cases_are_not_compared() -> None:
    made = changed(fingerprint(cases=4), {0: {"spacing": (100.0, 100.0, 100.0)}})
    assert unusual(made, whole(made)) == {}
