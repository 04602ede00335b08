"""Folders of patients and BIDS: images and label maps by their names, patients as groups; a choice is never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_balls import make_dataset

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.data.case_folders import FileNames
from seg_transfer.data.dataset import Case, find_dataset
from seg_transfer.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")
LOCAL = {"device": "cpu", "workers": 0, "memory": 10**9, "time_budget": 60}


def put(path: Path, *, label: bool = False) -> Path:
    """A tiny image, or a label map with the values 0, 1 and 3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".nii.gz"):
        array = np.resize([0, 1, 3] if label else np.arange(60), (4, 4, 3)).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    else:
        path.write_bytes(b"anything")
    return path


def folders(root: Path, *names: str, patients: int = 3) -> Path:
    """The same files in the folder of each patient; {} stands for the patient."""
    for number in range(patients):
        for name in names:
            patient = f"patient{number:02}"
            file = name.format(patient)
            put(root / patient / file, label="seg" in file or "liver" in file or "mask" in file)
    return root


@pytest.mark.parametrize(
    ("names", "images", "label", "channels"),
    [
        (("ct.nii.gz", "seg.nii.gz"), ("ct.nii.gz",), "seg.nii.gz", ("ct",)),
        (("t1.nii.gz", "flair.nii.gz", "mask.nii.gz"), ("flair.nii.gz", "t1.nii.gz"), "mask.nii.gz", ("flair", "t1")),
        (("{}.nii.gz", "{}_seg.nii.gz"), ("{}.nii.gz",), "{}_seg.nii.gz", ("channel_0",)),
        (("{}-t1c.nii.gz", "{}-seg.nii.gz"), ("{}-t1c.nii.gz",), "{}-seg.nii.gz", ("t1c",)),
        (("ct_{}.nii.gz", "ct-segmentation_{}.nii.gz"), ("ct_{}.nii.gz",), "ct-segmentation_{}.nii.gz", ("ct",)),
        (("notes.txt", "ct.nii.gz", "seg.nii.gz"), ("ct.nii.gz",), "seg.nii.gz", ("ct",)),
    ],
)
def test_files_are_told_apart_by_their_names(
    tmp_path: Path, names: tuple[str, ...], images: tuple[str, ...], label: str, channels: tuple[str, ...]
) -> None:
    found = find_dataset(folders(tmp_path, *names))
    assert (found.layout, found.channel_names, found.groups) == ("patients", channels, None)
    assert found.labels == (("background", 0), ("label_1", 1), ("label_2", 3))
    place = tmp_path / "patient01"
    files = tuple(place / name.format("patient01") for name in images)
    assert found.cases[1] == Case("patient01", files, place / label.format("patient01"))


def test_one_image_and_one_label_map_in_each_folder_may_have_any_name(tmp_path: Path) -> None:
    for number, (image, label) in enumerate((("a_0301", "a_0301_mask"), ("z", "seg_of_z"), ("scan", "liver_label"))):
        put(tmp_path / f"p{number}" / f"{image}.nii.gz")
        put(tmp_path / f"p{number}" / f"{label}.nii.gz", label=True)
    found = find_dataset(tmp_path)
    assert [case.images[0].name for case in found.cases] == ["a_0301.nii.gz", "z.nii.gz", "scan.nii.gz"]
    assert found.channel_names == ("channel_0",)


def test_visits_of_a_patient_share_a_fold(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "balls", cases=6)
    root = tmp_path / "patients"
    for number in range(6):
        place = root / f"P{number // 2}" / f"visit_{number % 2}"
        place.mkdir(parents=True)
        (data / f"imagesTr/case_{number}_0000.nii.gz").rename(place / "t2.nii.gz")
        (data / f"labelsTr/case_{number}.nii.gz").rename(place / "ball_label.nii.gz")
    plan = seg_transfer.plan(root, work=tmp_path / "work", folds=3, **LOCAL)
    assert plan.data.cases[:2] == ("P0_visit_0", "P0_visit_1")
    assert [channel.name for channel in plan.data.channels] == ["t2"]
    for split in plan.recipe.splits:
        assert len({case[:2] for case in split.validation}) == 1 and len(split.validation) == 2
    assert main(["preprocess", "-w", str(tmp_path / "work"), "--workers", "0", "-q"]) == 0


def test_a_folder_without_its_label_is_a_problem_of_that_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folders(tmp_path / "data", "ct.nii.gz", "seg.nii.gz", patients=4)
    (root / "patient02/seg.nii.gz").unlink()
    put(root / "patient03/ct.nii.gz").rename(root / "patient03/ct.nrrd")
    put(root / "patient03/ct.nii.gz")
    assert main(["check", str(root), "--workers", "0"]) == 3
    out = " ".join(capsys.readouterr().out.split())
    assert "patient02" in out and "seg.nii.gz" in out
    assert "ct.nrrd" in out and "the same kind of file of the same case" in out


def test_a_fixed_copy_has_the_same_folders(tmp_path: Path) -> None:
    root = folders(tmp_path / "data", "ct.nii.gz", "seg.nii.gz")
    assert main(["check", str(root), "--workers", "0", "--fix", str(tmp_path / "fixed")]) == 0
    assert find_dataset(tmp_path / "fixed").cases[0].images == (tmp_path / "fixed/patient00/ct.nii.gz",)


def test_given_names_settle_a_choice(tmp_path: Path) -> None:
    root = folders(tmp_path, "ct.nii.gz", "pet.nii.gz", "liver.nii.gz", "tumour_seg.nii.gz", "body_mask.nii.gz")
    found = find_dataset(root, names=FileNames(("pet", "ct"), "liver"))
    assert found.channel_names == ("pet", "ct")
    assert found.cases[0].label == root / "patient00/liver.nii.gz"
    found = find_dataset(root, names=FileNames(("ct",), "body_mask"))
    assert [len(case.images) for case in found.cases] == [1, 1, 1]


@pytest.mark.parametrize(
    ("names", "arguments", "said"),
    [
        (("ct.nii.gz", "liver.nii.gz"), [], "no file is named as a label map; in 3 folders are ct (3), liver (3)"),
        (("ct.nii.gz", "a_seg.nii.gz", "b_seg.nii.gz"), [], "these look like label maps: a_seg, b_seg"),
        (("seg.nii.gz", "mask.nii.gz"), ["--label-name", "seg"], "cannot tell which files are the images"),
        (("ct.nii.gz", "seg.nii.gz"), ["--label-name", "x"], "--label-name: no file is named 'x'; in 3 folders"),
        (("ct.nii.gz", "seg.nii.gz"), ["--image-name", "x"], "--image-name: no file is named 'x'; in 3 folders"),
        (("ct.nii.gz", "seg.nii.gz"), ["--image-name", ""], "--image-name: is empty"),
    ],
)
def test_a_choice_is_left_to_the_user(
    tmp_path: Path, names: tuple[str, ...], arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(folders(tmp_path / "data", *names), arguments, said, capsys)


def refused(root: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Planning ends in one error with a hint, and writes nothing."""
    before = sorted(root.parent.rglob("*"))
    assert main(["plan", str(root), "-w", str(root.parent / "work"), "--workers", "0", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("hint: ") == 1 and "Traceback" not in err
    assert sorted(root.parent.rglob("*")) == before


def test_frames_of_a_film_are_cases_of_their_patient(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number, last in enumerate((12, 10, 9, 14)):
        patient = f"patient{number:03}"
        put(root / patient / f"{patient}_4d.nii.gz")
        for frame in (1, last):
            put(root / patient / f"{patient}_frame{frame:02}.nii.gz")
            put(root / patient / f"{patient}_frame{frame:02}_gt.nii.gz", label=True)
    put(root / "patient002/patient002_frame05.nii.gz")
    found = find_dataset(root)
    assert [case.id for case in found.cases[:3]] == [
        "patient000_frame01",
        "patient000_frame12",
        "patient001_frame01",
    ]
    assert found.cases[1] == Case(
        "patient000_frame12",
        (root / "patient000/patient000_frame12.nii.gz",),
        root / "patient000/patient000_frame12_gt.nii.gz",
    )
    assert found.groups is not None and found.groups["patient000_frame12"] == "patient000"
    assert [unused.file.name for unused in found.unused] == ["patient002_frame05.nii.gz"], "the films need none"


def test_label_maps_of_several_modalities_are_not_guessed_to_be_cases(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folders(tmp_path / "data", "t1.nii.gz", "t2.nii.gz", "t1_seg.nii.gz", "t2_seg.nii.gz", patients=4)
    refused(root, [], "these look like label maps: t1_seg, t2_seg", capsys)
    (root / "patient01/t2_seg.nii.gz").unlink()
    refused(root, [], "these look like label maps: t1_seg, t2_seg", capsys)


def test_a_kind_in_few_folders_is_not_guessed_to_be_a_channel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folders(tmp_path / "data", "t1.nii.gz", "seg.nii.gz", patients=4)
    put(root / "patient01/t2.nii.gz")
    refused(root, [], "in 4 folders are seg (4), t1 (4), t2 (1)", capsys)
    assert find_dataset(root, names=FileNames(("t1",))).channel_names == ("t1",)


def test_a_description_leaves_nothing_to_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    put(root / "imagesTr/a_0000.nii.gz"), put(root / "labelsTr/a.nii.gz", label=True)
    (root / "dataset.json").write_text('{"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}}')
    refused(root, ["--label-name", "labelsTr"], "is for folders without dataset.json only", capsys)


def test_odd_folders_end_in_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    (root / "patient00").mkdir(parents=True)
    refused(root, [], "cannot identify the folder of images", capsys)
    for number in range(3):
        (root / f"patient{number:02}").mkdir(exist_ok=True)
        for name in ("ct.nii.gz", "seg.nii.gz"):
            (root / f"patient{number:02}" / name).symlink_to("nowhere")
    refused(root, [], "no case has an image that is there", capsys)
    for file in root.rglob("*.nii.gz"):
        file.unlink()
        file.touch()
    refused(root, [], "cut off within its header", capsys)


TSV = "index\tname\tcolor\n0\tBackground\t#000\n1\tleft liver\t#fff\n2\tspleen\t#fff\n3\tkidney\t#fff\n"


def bids(root: Path, files: Mapping[str, bool], *, tsv: str | None = TSV, subjects: int = 3) -> Path:
    """Files of each subject ({}), with whether they are label maps."""
    put(root / "dataset_description.json")
    (root / "participants.tsv").write_text("participant_id\n")
    for number in range(1, subjects + 1):
        for name, label in files.items():
            put(root / name.replace("{}", f"sub-{number:02}"), label=label)
    if tsv is not None:
        (root / "derivatives/manual").mkdir(parents=True, exist_ok=True)
        (root / "derivatives/manual/dseg.tsv").write_text(tsv)
    return root


T1, DSEG = "{}/anat/{}_T1w.nii.gz", "derivatives/manual/{}/anat/{}_dseg.nii.gz"


def test_bids_takes_label_maps_and_names_from_derivatives(tmp_path: Path) -> None:
    found = find_dataset(bids(tmp_path, {T1: False, DSEG: True, "{}/anat/{}_defacemask.nii.gz": True}))
    assert (found.layout, found.channel_names, found.groups) == ("bids", ("T1w",), None)
    assert found.labels == (("background", 0), ("left liver", 1), ("kidney", 3))
    label = tmp_path / "derivatives/manual/sub-02/anat/sub-02_dseg.nii.gz"
    assert found.cases[1] == Case("sub-02", (tmp_path / "sub-02/anat/sub-02_T1w.nii.gz",), label)


def test_a_subject_without_its_label_map_is_a_problem_of_that_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = bids(tmp_path / "data", {T1: False, DSEG: True})
    lost = root / "derivatives/manual/sub-02/anat/sub-02_dseg.nii.gz"
    lost.rename(put(root / "derivatives/manual/sub-09/anat/sub-09_dseg.nii.gz"))
    assert find_dataset(root).cases[1].label == lost
    assert main(["check", str(root), "--workers", "0"]) == 3
    out = " ".join(capsys.readouterr().out.split())
    assert "sub-02_dseg.nii.gz" in out and "no image belongs to this label map" in out


def test_sessions_of_a_subject_are_its_group(tmp_path: Path) -> None:
    files = {}
    for session in ("ses-1", "ses-2"):
        for kind in ("T1w", "FLAIR"):
            files[f"{{}}/{session}/anat/{{}}_{session}_{kind}.nii.gz"] = False
        files[f"derivatives/manual/{{}}/{session}/anat/{{}}_{session}_label-lesion_mask.nii.gz"] = True
    found = find_dataset(bids(tmp_path, files, tsv=None))
    assert found.channel_names == ("FLAIR", "T1w")
    assert [case.id for case in found.cases[:2]] == ["sub-01_ses-1", "sub-01_ses-2"]
    assert found.groups is not None and found.groups["sub-03_ses-2"] == "sub-03"
    assert found.labels[1] == ("lesion", 1)


def test_bids_plans_and_preprocesses(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "balls", cases=4)
    root = tmp_path / "study"
    for number in range(4):
        name = f"sub-{number}"
        for place, file, source in (
            (root / name / "anat", f"{name}_T2w.nii.gz", f"imagesTr/case_{number}_0000.nii.gz"),
            (
                root / "derivatives/manual" / name / "anat",
                f"{name}_desc-ball_dseg.nii.gz",
                f"labelsTr/case_{number}.nii.gz",
            ),
        ):
            place.mkdir(parents=True)
            (data / source).rename(place / file)
    (root / "derivatives/manual/desc-ball_dseg.tsv").write_text("index\tname\n1\tball\n4\tcore\n")
    plan = seg_transfer.plan(root, work=tmp_path / "work", folds=2, **LOCAL)
    assert [(label.name, label.value) for label in plan.data.labels] == [("background", 0), ("ball", 1), ("core", 4)]
    assert main(["preprocess", "-w", str(tmp_path / "work"), "--workers", "0", "-q"]) == 0


OTHER = "derivatives/fast/{}/anat/{}_desc-brain_dseg.nii.gz"


@pytest.mark.parametrize(
    ("files", "arguments", "said"),
    [
        ({DSEG: True}, [], "no subject has an image, such as sub-01/anat/sub-01_T1w.nii.gz"),
        ({T1: False}, [], "no label map is in derivatives/*/sub-*"),
        ({T1: False, DSEG: True, OTHER: True}, [], "several kinds of label map: fast/desc-brain_dseg (3), manual/dseg"),
        ({T1: False, DSEG: True, OTHER: True}, ["--label-name", "x"], "no label map fit 'x'"),
        ({T1: False, DSEG: True}, ["--image-name", "T2w"], "--image-name: no file is named 'T2w'"),
    ],
)
def test_what_is_missing_or_open_in_bids_is_named(
    tmp_path: Path, files: dict[str, bool], arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = bids(tmp_path / "data", files)
    (root / "sub-01").mkdir(exist_ok=True)
    refused(root, arguments, said, capsys)


@pytest.mark.parametrize("name", ["fast", "desc-brain_dseg", "fast/desc-brain_dseg"])
def test_a_pipeline_is_chosen_by_name(tmp_path: Path, name: str) -> None:
    root = bids(tmp_path, {T1: False, DSEG: True, OTHER: True})
    label = find_dataset(root, names=FileNames(label=name)).cases[0].label
    assert label is not None and "fast" in label.parts


@pytest.mark.parametrize(
    ("tsv", "said"),
    [
        ("1\tliver\n", "line 2 has the index '' and the name ''"),
        ("index\tname\nx\tliver\n", "line 2 has the index 'x'"),
        ("index\tname\n1\t\n", "the name ''"),
        ('index\tname\n1\t"liver\n', "not readable as a table"),
        ("index\tname\n1\tliver\n3\tliver\n", "two labels are named liver"),
        ("index\tname\n1\tbackground\n", "two labels are named background"),
        ("\0", "not a text file"),
    ],
)
def test_a_bad_table_of_labels_is_refused(
    tmp_path: Path, tsv: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if tsv.startswith("1"):
        tsv += "2\tspleen\n"
    refused(bids(tmp_path / "data", {T1: False, DSEG: True}, tsv=tsv), [], said, capsys)


def test_tables_beside_label_maps_have_to_agree(tmp_path: Path) -> None:
    root = bids(tmp_path, {T1: False, DSEG: True}, tsv=None)
    places = [root / f"derivatives/manual/sub-0{number}/anat/sub-0{number}_dseg.tsv" for number in (1, 2)]
    for place in places:
        place.write_text("index\tname\n1\tliver\n")
    assert find_dataset(root).labels[1] == ("liver", 1)
    places[1].write_text("index\tname\n1\tspleen\n")
    with pytest.raises(UserError, match="label 1 is spleen here and liver elsewhere"):
        find_dataset(root)
