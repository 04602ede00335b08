"""Label maps as a folder of masks, one for each structure, as whole-body data sets have them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
import pytest

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.data.dataset import Case, find_dataset, find_images
from seg_transfer.data.formats import is_there, read_header, stored_in
from seg_transfer.data.image import read_image, read_label
from seg_transfer.errors import UserError
from seg_transfer.preprocessing.store import Store
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE = (12, 10, 8)
LIVER, SPLEEN = (slice(2, 6), slice(2, 6), slice(1, 5)), (slice(7, 10), slice(3, 7), slice(2, 6))
BOTH = {"liver": LIVER, "spleen": SPLEEN}


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine), path)


def mask(box: tuple[slice, ...], value: float = 1) -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[box] = value
    return array


def patient(folder: Path, structures: Mapping[str, tuple[slice, ...]], *, value: int = 1) -> Path:
    """An image, and a mask of each structure; {} in a structure's name stands for the patient."""
    draw = np.random.default_rng(list(folder.name.encode()))
    save(folder / "ct.nii.gz", draw.normal(100, 10, SHAPE).astype(np.float32))
    for name, box in structures.items():
        save(folder / "segmentations" / f"{name.format(folder.name)}.nii.gz", mask(box, value))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(3):
        patient(tmp_path / "data" / f"s{number:04}", BOTH)
    return tmp_path / "data"


def test_structures_are_labels_of_their_names(root: Path) -> None:
    found = find_dataset(root)
    assert (found.layout, found.channel_names) == ("patients", ("ct",))
    assert found.labels == (("background", 0), ("liver", 1), ("spleen", 2))
    case = found.cases[1]
    assert case == Case("s0001", (root / "s0001/ct.nii.gz",), root / "s0001/segmentations/*.nii.gz")
    assert stored_in(root / "s0001/segmentations/*.nii.gz") == tuple(
        root / f"s0001/segmentations/{name}.nii.gz" for name in BOTH
    )
    label = read_label(root / "s0001/segmentations/*.nii.gz", grid=read_image(case.images).native, names=found.names)
    assert np.array_equal(label.array[0], mask(LIVER) + 2 * mask(SPLEEN))


def test_a_structure_that_a_patient_lacks_keeps_the_others_values(root: Path) -> None:
    (root / "s0001/segmentations/liver.nii.gz").unlink()
    found = find_dataset(root)
    assert found.labels == (("background", 0), ("liver", 1), ("spleen", 2))
    path = root / "s0001/segmentations/*.nii.gz"
    assert np.array_equal(read_label(path, names=found.names).array[0], 2 * mask(SPLEEN))


@pytest.mark.parametrize("name", ["{}_liver", "liver-{}", "{} liver"])
def test_names_of_patients_are_left_out(tmp_path: Path, name: str) -> None:
    for number in range(2):
        patient(tmp_path / f"s{number:04}", {name: LIVER, "spleen": SPLEEN}, value=255)
    assert find_dataset(tmp_path).labels == (("background", 0), ("liver", 1), ("spleen", 2))


def test_a_name_that_only_begins_as_the_patients_stays(tmp_path: Path) -> None:
    for name in ("s", "l"):
        patient(tmp_path / name, BOTH)
    assert find_dataset(tmp_path).labels == (("background", 0), ("liver", 1), ("spleen", 2))


def test_masks_are_no_image_to_predict(root: Path) -> None:
    with pytest.raises(UserError, match=r"\*\.nii\.gz: "):
        find_images(root / "s0001/segmentations/*.nii.gz", 1)


def test_one_file_in_a_folder_of_labels_is_a_label_map(tmp_path: Path) -> None:
    for number in range(2):
        folder = patient(tmp_path / f"s{number:04}", {})
        save(folder / "masks" / "all.nii.gz", mask(LIVER) + 2 * mask(SPLEEN))
    found = find_dataset(tmp_path)
    assert found.labels == (("background", 0), ("label_1", 1), ("label_2", 2))
    assert found.cases[0].label == tmp_path / "s0000/masks/all.nii.gz"


@pytest.mark.parametrize(
    ("image", "structure"),
    [("{}/images/ct.nii.gz", "{}/masks/{}.nii.gz"), ("images/{}/ct.nii.gz", "labels/{}/{}.nii.gz")],
)
def test_images_and_masks_in_folders_of_their_own(tmp_path: Path, image: str, structure: str) -> None:
    for number in range(3):
        patient = f"s{number:04}"
        save(tmp_path / image.format(patient), np.random.default_rng(number).normal(0, 1, SHAPE).astype(np.float32))
        for name, box in BOTH.items():
            save(tmp_path / structure.format(patient, name), mask(box))
    found = find_dataset(tmp_path)
    assert (found.layout, found.channel_names) == ("patients", ("ct",))
    assert found.labels == (("background", 0), ("liver", 1), ("spleen", 2))
    assert [case.id for case in found.cases] == ["s0000", "s0001", "s0002"]
    assert found.cases[1].images == (tmp_path / image.format("s0001"),)
    assert found.cases[1].label == tmp_path / structure.format("s0001", "*")


def test_a_label_map_of_each_visit_in_a_tree_of_its_own(tmp_path: Path) -> None:
    for number in range(4):
        visit = f"p{number // 2}/visit{number % 2}"
        for modality in ("t1", "t2"):
            save(tmp_path / "scans" / visit / f"{modality}.nii.gz", mask(LIVER, number + 2))
        save(tmp_path / "annotations" / visit / "tumour.nii.gz", mask(SPLEEN))
    found = find_dataset(tmp_path)
    assert (found.channel_names, found.labels) == (("t1", "t2"), (("background", 0), ("label_1", 1)))
    assert found.cases[2].id == "p1_visit0" and found.groups is not None and found.groups["p1_visit0"] == "p1"
    assert found.cases[2].label == tmp_path / "annotations/p1/visit0/tumour.nii.gz"


def test_a_label_map_beside_the_image_comes_first(root: Path) -> None:
    for folder in root.iterdir():
        save(folder / "seg.nii.gz", mask(LIVER))
    assert find_dataset(root).cases[0].label == root / "s0000/seg.nii.gz"


def shifted() -> np.ndarray:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[0, 3] = 30
    return affine


@pytest.mark.parametrize(
    ("array", "affine", "said"),
    [
        (mask(LIVER), None, "64 of its voxels are also in masks such as liver.nii.gz"),
        (mask(SPLEEN) + mask((slice(0, 1),) * 3, 3), None, "this is no mask of one structure"),
        (mask(SPLEEN), shifted(), "does not lie on the grid of liver.nii.gz"),
    ],
)
def test_what_is_no_set_of_masks_is_a_problem_of_its_case(
    root: Path, capsys: pytest.CaptureFixture[str], array: np.ndarray, affine: np.ndarray | None, said: str
) -> None:
    save(root / "s0001/segmentations/spleen.nii.gz", array, affine)
    assert main(["plan", str(root), "-w", str(root.parent / "work"), "--workers", "0"]) == 2
    err = capsys.readouterr().err
    assert said in err and "spleen.nii.gz" in err and "Traceback" not in err


def test_a_damaged_mask_is_named(root: Path) -> None:
    path = root / "s0001/segmentations/spleen.nii.gz"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"spleen\.nii\.gz"):
        read_label(path.with_name("*.nii.gz"), names={"background": 0, "liver": 1, "spleen": 2})


def test_an_empty_folder_is_none(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    assert not is_there(tmp_path / "masks/*.nii.gz") and not is_there(tmp_path / "nowhere/*.nii.gz")
    with pytest.raises(UserError, match="there is no such file"):
        read_header(tmp_path / "masks/*.nii.gz")


def test_planned_preprocessed_and_made_again_after_a_change(root: Path, tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "work")
    plan = seg_transfer.plan(root, work=work.path, epochs=1, device="cpu", workers=0)
    (folder,) = {path.parent for path in seg_transfer.preprocess(work=work.path, workers=0).glob("s0000")}
    before = Store(folder, plan.data).case("s0001")
    assert [label.name for label in plan.data.labels] == ["background", "liver", "spleen"]
    assert before.voxels[1] > before.voxels[2] > 0
    save(root / "s0001/segmentations/spleen.nii.gz", mask((slice(8, 10), *SPLEEN[1:])))
    seg_transfer.preprocess(work=work.path, workers=0)
    after = Store(folder, plan.data).case("s0001")
    assert after.voxels[1] == before.voxels[1] and after.voxels[2] < before.voxels[2]


@pytest.mark.parametrize("axes", [[[0, -1], [1, 1], [2, 1]], [[2, 1], [0, -1], [1, -1]]])
def test_masks_whose_axes_run_otherwise_are_turned(root: Path, axes: list[list[int]]) -> None:
    spleen = root / "s0001/segmentations/spleen.nii.gz"
    nibabel.save(nibabel.load(spleen).as_reoriented(np.array(axes)), spleen)
    label = read_label(spleen.with_name("*.nii.gz"), names={"background": 0, "liver": 1, "spleen": 2})
    assert np.array_equal(label.array[0], mask(LIVER) + 2 * mask(SPLEEN))


def test_an_empty_mask_in_every_case_is_a_label_that_cannot_be_learned(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in root.iterdir():
        save(folder / "segmentations/ghost.nii.gz", np.zeros(SHAPE, np.float32))
    assert find_dataset(root).labels == (("background", 0), ("ghost", 1), ("liver", 2), ("spleen", 3))
    assert main(["plan", str(root), "-w", str(tmp_path / "work"), "--workers", "0", "--epochs", "1"]) == 0
    assert "declared, but in no case, so that they cannot be learned: ghost" in capsys.readouterr().err


def test_a_fixed_copy_has_all_masks(root: Path, tmp_path: Path) -> None:
    assert main(["check", str(root), "--fix", str(tmp_path / "copy"), "--workers", "0"]) == 0
    assert find_dataset(tmp_path / "copy").labels == find_dataset(root).labels
    assert len(list((tmp_path / "copy").rglob("*.nii.gz"))) == 9


def test_a_list_of_cases_names_them_by_a_star(root: Path, tmp_path: Path) -> None:
    lines = [
        "case,image,label",
        *(f"{path.name},{path}/ct.nii.gz,{path}/segmentations/*.nii.gz" for path in root.iterdir()),
    ]
    (tmp_path / "cases.csv").write_text("\n".join(lines) + "\n")
    assert find_dataset(tmp_path / "cases.csv").labels == (("background", 0), ("liver", 1), ("spleen", 2))
