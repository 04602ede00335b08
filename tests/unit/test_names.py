"""Names from files that become paths stay inside their folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from made_balls import make_dataset
from made_plans import data_plan
from pydantic import ValidationError

from seg_transfer.catalogue.encoders import ENCODERS
from seg_transfer.data.dataset import Dataset, find_dataset
from seg_transfer.data.naming import ChannelFiles
from seg_transfer.errors import UserError
from seg_transfer.planning.plan import Weights
from seg_transfer.workflow.choice import ChosenRun

OUTSIDE = ["..", ".", "", "../x", "/etc/x", "a/../../x", "a/b", "a\\b", "..\\x", "a\0b"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_cases_and_runs_are_names_of_one_folder(name: str) -> None:
    for make in (lambda: data_plan(cases=(name,)), lambda: ChosenRun(run=name, folds=(0,))):
        with pytest.raises(ValidationError, match="cannot be the name of a file or folder"):
            make()


@pytest.mark.parametrize("name", ["case 1", "a..b", "x.y", "äöü", "a:b", "-x", "...", "liver_001"])
def test_ordinary_names_pass(name: str) -> None:
    assert data_plan(cases=(name,)).cases == (name,)


@pytest.mark.parametrize(
    "name", [*OUTSIDE, "torchvision/../../x.pth", "a/b/c", "timm/..", "a--b", "x" * 100, "-x", "a b"]
)
def test_repositories_and_revisions_are_names_of_a_hub(name: str) -> None:
    if name == "a/b":
        return
    for field in ("repository", "revision"):
        with pytest.raises(ValidationError, match="cannot be the name of a repository or revision"):
            Weights(source="imagenet", **{field: name})


def test_those_of_the_catalogue_pass() -> None:
    for entry in ENCODERS.values():
        if entry.source:
            weights = Weights(source="imagenet", repository=entry.source, revision=entry.revision)
            assert weights.repository == entry.source


def test_a_data_set_with_such_a_name_is_refused(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", cases=2)
    dataset = find_dataset(data)
    changed = dataset.to_json().replace('"id": "case_0"', '"id": "../case_0"')
    with pytest.raises(UserError, match=r"cases.0.id: '../case_0' cannot be the name"):
        Dataset.from_json(changed, where="dataset.json")
    for folder, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
        file = data / folder / f"case_0{suffix}.nii.gz"
        shutil.move(file, file.with_name(file.name.replace("case_0", "case\\0")))
    with pytest.raises(UserError, match="cannot be the name of a case"):
        find_dataset(data)


def test_the_files_of_a_case_are_found_without_comparing_all_others() -> None:
    """With 10,000 cases all pairs took minutes."""
    compared = 0

    class Counted(type(Path())):
        def __lt__(self, other: Path) -> bool:
            nonlocal compared
            compared += 1
            return super().__lt__(other)

    files = {f"case_{number}": {0: Counted(f"case_{number}_0000.nii.gz")} for number in range(100)}
    named = ChannelFiles(files, Path())
    assert [len(named.of(case, 2)) for case in files] == [2] * 100
    assert named.of("case_7", 2)[1] == Path("case_7_0001.nii.gz")
    assert compared < 200
