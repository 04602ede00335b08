"""Labels that keep to a side, told by where they lie."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_fingerprints import CENTRE, fingerprint
from PIL import Image as Raster

import seg_transfer
from seg_transfer.data.dataset import find_dataset
from seg_transfer.errors import UserError
from seg_transfer.options.plan_options import PlanOptions
from seg_transfer.planning.case_fingerprint import CaseFingerprint, LabelPosition
from seg_transfer.planning.examine import examine
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.rules.augmentation import mirror_axes
from seg_transfer.planning.sides import Sides, keeps_sides, named_against_place

LOW = LabelPosition(lower=0.2, upper=0.3, low_half=1)
HIGH = LabelPosition(lower=0.7, upper=0.8, low_half=0)
WIDE = LabelPosition(lower=0.3, upper=0.6, low_half=0.77)
"""As the posterior hippocampus in its image."""
VOLUME = (2, 1, 0)


def cases(*positions: Sequence[LabelPosition | None]) -> tuple[CaseFingerprint, ...]:
    """A case per sequence, which has a label's position along x in each item; centred along y and z."""
    made = fingerprint(cases=len(positions), labels=tuple("ab"[: len(positions[0])]))
    return tuple(
        case.model_copy(
            update={
                "labels": tuple(
                    label.model_copy(update={"positions": None if x is None else (x, CENTRE, CENTRE)})
                    for label, x in zip(case.labels, each, strict=True)
                )
            }
        )
        for case, each in zip(made.cases, positions, strict=True)
    )


@pytest.mark.parametrize(
    ("positions", "said"),
    [
        ([(LOW, HIGH)] * 6, "a and b lie on opposite sides in 6 of 6 cases"),
        ([(HIGH, LOW)] * 2, "a and b lie on opposite sides in 2 of 2 cases"),
        ([(LOW, HIGH)] * 9 + [(HIGH, LOW)], "a and b lie on opposite sides in 9 of 10 cases"),
        ([(LOW, HIGH)] * 3 + [(LOW, None)] * 4, "a and b lie on opposite sides in 3 of 3 cases"),
        ([(CENTRE, HIGH)] * 4, "a and b lie on opposite sides in 4 of 4 cases"),
        ([(LOW, HIGH), (HIGH, LOW)] * 5, ""),  # either way round: a mirrored image is another such case
        ([(LOW, HIGH)], ""),
        ([(WIDE, CENTRE)] * 20, ""),
        ([(LOW,)] * 10, "a lies in the same half of 10 of 10 images (100% of it)"),
        ([(HIGH,)] * 5, "a lies in the same half of 5 of 5 images"),
        ([(LOW,)] * 4, ""),
        ([(LOW,), (HIGH,)] * 5, ""),
        ([(WIDE,)] * 20, ""),
        ([(CENTRE,)] * 20, ""),
        ([(None,)] * 20, ""),
    ],
)
def test_a_label_keeps_to_a_side(positions: list, said: str) -> None:
    reason = keeps_sides(Sides.of(cases(*positions), 0), "ab"[: len(positions[0])])
    assert reason.startswith(said) and bool(reason) == bool(said)
    assert keeps_sides(Sides.of(cases(*positions), 1), "ab"[: len(positions[0])]) == ""


def test_a_reason_names_three_and_counts_the_others() -> None:
    made = [case.model_copy(update={"labels": case.labels * 2}) for case in cases(*[(LOW, HIGH)] * 6)]
    assert keeps_sides(Sides.of(made, 0), "abcd").endswith("; and 5 more")


NAMES = [
    ("hip_1", "hip_2"),
    ("links", "rechts"),
    ("gauche", "droite"),
    ("Lkidney", "Rkidney"),
    ("label_1", "label_2"),
    ("1", "2"),
]


def write_volumes(root: Path, *, axis: int, names: tuple[str, str] | None, count: int = 4) -> Fingerprint:
    """Volumes with two alike balls apart along a canonical axis; their place varies and no file is in RAS."""
    rng = np.random.default_rng(0)
    folders = ("imagesTr", "labelsTr") if names else ("images", "labels")
    for folder in folders:
        (root / folder).mkdir(parents=True)
    for index in range(count):
        centre = np.array([20, 22, 18]) + rng.integers(-3, 4, 3)
        step = np.eye(3)[axis] * 9
        at = np.stack(np.meshgrid(*map(np.arange, (40, 44, 36)), indexing="ij"), -1)
        label = np.zeros((40, 44, 36), np.uint8)
        for value, place in ((1, centre - step), (2, centre + step)):
            label[np.linalg.norm(at - place, axis=-1) < 5] = value
        image = rng.normal(100, 10, label.shape) + 200 * (label > 0)
        affine = np.diag([1.0, 1, 1, 1])
        for folder, array in zip(folders, (image.astype(np.float32), label), strict=True):
            name = f"c{index}_0000.nii.gz" if names and folder == "imagesTr" else f"c{index}.nii.gz"
            turned = nibabel.Nifti1Image(array, affine).as_reoriented([[2, -1], [0, -1], [1, 1]])
            nibabel.save(turned, root / folder / name)
    if names:
        labels = {"background": 0, names[0]: 1, names[1]: 2}
        description = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": count, "file_ending": ".nii.gz"}
        (root / "dataset.json").write_text(json.dumps(description))
    return examine(find_dataset(root), workers=0).fingerprint()


@pytest.mark.parametrize("names", [*NAMES, None])
def test_two_alike_structures_are_never_mirrored_onto_each_other(tmp_path: Path, names: tuple[str, str] | None) -> None:
    across = write_volumes(tmp_path / "across", axis=0, names=names)
    mirrored, reason = mirror_axes(across.site(), [], VOLUME, "3d", "auto")
    assert mirrored == () and "opposite sides in 4 of 4 cases" in reason
    along = write_volumes(tmp_path / "along", axis=1, names=("front", "back"))
    assert mirror_axes(along.site(), [], VOLUME, "3d", "auto")[0] == (2,)


def test_layers_of_an_image_forbid_mirroring_across_them_alone(tmp_path: Path) -> None:
    """As in an image of the retina's layers: upside down it would be wrong, left to right not."""
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for index in range(4):
        label = np.zeros((60, 80), np.uint8)
        top = int(rng.integers(10, 20))
        label[top : top + 10], label[top + 10 : top + 20] = 1, 2
        image = rng.integers(0, 255, (60, 80), dtype=np.uint8)
        Raster.fromarray(image).save(tmp_path / "images" / f"c{index}.png")
        Raster.fromarray(label).save(tmp_path / "labels" / f"c{index}.png")
    plan = seg_transfer.plan(tmp_path, work=tmp_path / "work", weights="none", workers=0)
    assert plan.data.axes == (2, 1, 0)
    assert plan.recipe.augmentation.mirror_axes == plan.recipe.tta_axes == (2,)
    assert plan.recipe.augmentation.rotate_degrees == 30
    [why] = [one.reason for one in plan.reasons if one.field == "recipe.augmentation.mirror_axes"]
    assert "; not along y: " in why and why.startswith("no label keeps to a side along x; ")


class TestMirrorOption:
    made = fingerprint().site()

    @pytest.mark.parametrize(
        ("text", "configuration", "expected"),
        [("none", "3d", ()), ("x", "3d", (2,)), ("ZX", "3d", (0, 2)), ("y,x", "2d", (1, 2)), ("z", "2.5d", (0,))],
    )
    def test_axes_by_hand(self, text: str, configuration: str, expected: tuple[int, ...]) -> None:
        requested = PlanOptions(dataset=Path(), mirror=text).mirror
        assert mirror_axes(self.made, ["left", "right"], VOLUME, configuration, requested)[0] == expected

    def test_2d_sees_one_slice(self) -> None:
        with pytest.raises(UserError, match="single slice across z"):
            mirror_axes(self.made, [], VOLUME, "2d", "z")

    @pytest.mark.parametrize("text", ["", "w", "xx", "left", "x y"])
    def test_unknown_axes(self, text: str) -> None:
        with pytest.raises(UserError, match="--mirror"):
            PlanOptions(dataset=Path(), mirror=text)


@pytest.mark.parametrize(
    "names",
    [
        ("left_kidney", "right_kidney"),
        ("KidneyLeft", "KidneyRight"),
        ("kidney_l", "kidney_r"),
        ("Niere links", "Niere rechts"),
        ("rein gauche", "rein droit"),
        ("hippocampus.lh", "hippocampus.rh"),
    ],
)
def test_names_against_their_place_are_found(names: tuple[str, str]) -> None:
    right_way, wrong_way = [(LOW, HIGH)] * 9, [(HIGH, LOW)] * 9
    assert named_against_place(cases(*right_way, wrong_way[0]), names) == []
    found = named_against_place(cases(*wrong_way, right_way[0]), names)
    assert found == [f"{names[0]} lies to the right of {names[1]} in 9 of 10 cases"]
    assert len(named_against_place(cases(*right_way), names[::-1])) == 1


@pytest.mark.parametrize("names", [("left_kidney", "right_lung"), ("a", "b"), ("left", "liver")])
def test_names_of_no_pair_are_not_compared(names: tuple[str, str]) -> None:
    assert named_against_place(cases(*[(HIGH, LOW)] * 9), names) == []
