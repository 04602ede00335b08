"""A list of cases in place of a folder: files anywhere, channels by column, groups in one fold; bad ones refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_balls import make_dataset

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.data.dataset import Dataset, find_dataset

pytestmark = pytest.mark.usefixtures("one_thread")
LOCAL = {"device": "cpu", "workers": 0}


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of patients with two visits each; every visit has an image and a label of the same names."""
    folder = tmp_path_factory.mktemp("list")
    data = make_dataset(folder / "balls", cases=6)
    for number in range(6):
        place = folder / f"patient_{number // 2}" / f"visit_{number % 2}"
        place.mkdir(parents=True)
        (data / f"imagesTr/case_{number}_0000.nii.gz").rename(place / "t2.nii.gz")
        (data / f"labelsTr/case_{number}.nii.gz").rename(place / "ball.nii.gz")
    return folder


def rows(image: str = "image") -> list[dict[str, str]]:
    places = [f"patient_{number // 2}/visit_{number % 2}" for number in range(6)]
    return [
        {
            "case": f"case_{number}",
            image: f"{place}/t2.nii.gz",
            "label": f"{place}/ball.nii.gz",
            "group": place.partition("/")[0],
        }
        for number, place in enumerate(places)
    ]


def write(path: Path, content: list[dict[str, str]]) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(content))
    else:
        lines = [",".join(content[0]), *(",".join(row.values()) for row in content)]
        path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("name", ["cases.csv", "cases.json"])
def test_a_list_is_planned_with_its_groups_in_one_fold(patients: Path, tmp_path: Path, name: str) -> None:
    made = write(patients / name, rows())
    plan = seg_transfer.plan(made, work=tmp_path, folds=3, time_budget=60, memory=10**9, **LOCAL)
    assert plan.data.dataset == "cases" and len(plan.data.cases) == 6
    assert [label.value for label in plan.data.labels] == [0, 1, 4]
    for split in plan.recipe.splits:
        assert len({int(case[-1]) // 2 for case in split.validation}) == 1 and len(split.validation) == 2
    known = Dataset.load(tmp_path / "dataset.json")
    assert known.layout == "list" and known.groups == {f"case_{n}": f"patient_{n // 2}" for n in range(6)}
    assert main(["preprocess", "-w", str(tmp_path), "--workers", "0", "-q"]) == 0


def test_image_columns_are_channels(patients: Path) -> None:
    content = [{**row, "image_again": row["image_t2"]} for row in rows("image_t2")]
    found = find_dataset(write(patients / "two.csv", content))
    assert found.channel_names == ("t2", "again")
    assert all(len(case.images) == 2 for case in found.cases)


def test_checking_a_list_reports_what_is_missing_and_copies_nothing(
    patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = rows()
    content[2]["image"] = "patient_1/visit_0/lost.nii.gz"
    made = write(patients / "lost.csv", content)
    assert main(["check", str(made), "--workers", "0"]) == 3
    assert "lost.nii.gz" in capsys.readouterr().out
    assert main(["check", str(made), "--workers", "0", "--fix", str(tmp_path / "fixed")]) == 2
    assert "a list of cases cannot be copied" in capsys.readouterr().err and not (tmp_path / "fixed").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it lists no case"),
        ("case,image,label\n", "it lists no case"),
        ("a,b,c\n1,2,3\n", "has a column 'a'"),
        ("case,label\nx,y.nii\n", "names the images not"),
        ("case,image,label\nx,,y.nii\n", "line 2 has no image"),
        ("case,image,label\nx,a.nii,y.nii\nx,b.nii,z.nii\n", "line 3: case x is listed twice"),
        ("case,image,label\n../x,a.nii,y.nii\n", "cannot be the name of a case"),
        ("case,image,label\nx,a.nii,y.nii,z,z\n", "does not have the columns"),
        ("case,image,image_t1,label\nx,a.nii,b.nii,y.nii\n", "names the images image, image_t1"),
        ('case,image,label\nx,"a.nii,y.nii\n', "not readable as CSV"),
        ("case,image,label,group\nx,a.nii,y.nii,p\nz,a.nii,y.nii,\n", "no group for z"),
        ("case,image,label\nx,a.nii.gz,y.nii.gz\n", "no case has all of its files"),
        ("{}", "not a list of cases"),
        ("[3]", "entry 1 does not have the columns"),
        ('[{"case": "x", "image": 3, "label": "y"}]', "entry 1: image is no text"),
        ("[", "JSON"),
    ],
)
def test_a_bad_list_is_refused(tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / ("cases.json" if text[:1] in ("{", "[") else "cases.csv")
    made.write_text(text)
    assert main(["plan", str(made), "-w", str(tmp_path / "work")]) == 2
    err = capsys.readouterr().err
    assert said in err and "hint: " in err and "Traceback" not in err
    assert not (tmp_path / "work").exists()
