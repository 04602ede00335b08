"""Two sites plan together, each with a file of the other that names no case."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.planning.plan import Plan
from seg_transfer.workflow.work_folder import WorkFolder

SITES = {"north": range(3), "south": range(3, 8), "both": range(8)}
OPTIONS: dict[str, Any] = {"encoder": "resnet18", "weights": "none", "workers": 0, "device": "cpu", "memory": 4 * 10**9}


def write_cases(root: Path, cases: range) -> Path:
    """CT of different sizes, spacings, borders and intensities; the second label is in some cases only."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for case in cases:
        rng = np.random.default_rng(case)
        shape = (34 + case, 36 + case % 3, 10 + case)
        image = rng.normal(-200 + 20 * case, 100, shape).astype(np.float32 if case == 4 else np.int16)
        image[: 2 + case % 4] = 0
        label = np.zeros(shape, np.uint8)
        label[10:20, 10 : 18 + case, 3:7] = 1
        label[22:26, 12:20, 4:6] = 2 * (case % 2)
        image[label > 0] += 300
        affine = np.diag([0.8 + 0.02 * case, 0.8 + 0.02 * case, 4.0 + case % 3, 1.0])
        nibabel.save(nibabel.Nifti1Image(image, affine), root / "imagesTr" / f"secret{case}_0000.nii.gz")
        nibabel.save(nibabel.Nifti1Image(label, affine), root / "labelsTr" / f"secret{case}.nii.gz")
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1, "tumour": 2}}
    description |= {"numTraining": len(cases), "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(description))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sites' data, and what each plans for itself."""
    root = tmp_path_factory.mktemp("sites")
    for site, cases in SITES.items():
        seg_transfer.plan(write_cases(root / site, cases), work=root / f"work-{site}", **OPTIONS)
    return root


def site_file(root: Path, site: str) -> Path:
    return WorkFolder(root / f"work-{site}").site


def without_site(plan: Plan) -> dict[str, Any]:
    """What is not about the cases at hand: all but names, folds, reasons and space on disk."""
    content = json.loads(plan.model_dump_json(exclude={"reasons", "expected"}))
    for name in ("dataset", "cases"):
        del content["data"][name]
    del content["recipe"]["splits"]
    return content


def test_each_site_plans_as_if_it_had_the_cases_of_both(root: Path, tmp_path: Path) -> None:
    expected = without_site(Plan.load(root / "work-both" / "plan.json"))
    found = {}
    for here, there in (("north", "south"), ("south", "north")):
        alone = Plan.load(root / f"work-{here}" / "plan.json")
        work = WorkFolder(tmp_path / here)
        plan = seg_transfer.plan(root / here, work=work.path, with_sites=[site_file(root, there)], **OPTIONS)
        assert plan.data.cases == alone.data.cases and plan.recipe.splits == alone.recipe.splits
        assert plan.data.spacing != alone.data.spacing
        for name in ("fingerprint.json", "site.json"):  # of this site's own cases
            assert (work.path / name).read_bytes() == (root / f"work-{here}" / name).read_bytes()
        found[here] = without_site(plan)
    assert found["north"] == found["south"]
    assert_close(found["north"], expected)


def assert_close(found: Any, expected: Any) -> None:
    """Equal; real numbers but for the last of their seven digits."""
    if isinstance(expected, dict | list):
        assert len(found) == len(expected)
        pairs = (
            ((found[key], expected[key]) for key in expected)
            if isinstance(expected, dict)
            else zip(found, expected, strict=True)
        )
        for one, other in pairs:
            assert_close(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-6)
    else:
        assert found == expected


def test_measurements_that_are_used_again_add_up_to_the_same(root: Path, tmp_path: Path) -> None:
    first, again = (
        seg_transfer.plan(root / "north", work=tmp_path, with_sites=[site_file(root, "south")], **OPTIONS)
        for _ in range(2)
    )
    assert first == again


def test_the_file_names_no_case_and_no_place(root: Path) -> None:
    text = site_file(root, "north").read_text()
    assert "secret" not in text and "north" not in text and str(root) not in text and ".nii" not in text
    assert "secret" in (root / "work-north" / "fingerprint.json").read_text()


def edit(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        *parents, last = path
        inside: Any = content
        for step in parents:
            inside = inside[step]
        inside[last] = to

    return change


WRONG = {
    "negative count": edit("shape", 0, "counts", 0, to=-1),
    "other count": edit("shape", 0, "counts", 0, to=7),
    "huge count": edit("cases", to=10**30),
    "count as text": edit("cases", to="5"),
    "number as text": edit("images", "spacing", 0, "rows", 0, 0, to="0.9"),
    "spacing of 0": edit("images", "spacing", 0, "rows", 0, 0, to=0.0),
    "huge spacing": edit("images", "spacing", 0, "rows", 0, 0, to=1e12),
    "list for a part": edit("channels", 0, "label_means", to=[]),
    "no channel": edit("channels", to=[]),
    "missing": lambda content: content.pop("sides"),
    "unknown": edit("cases_of_mine", to=["secret"]),
    "share above 1": edit("labelled", "rows", 0, 0, to=3.0),
    "mean outside": edit("channels", 0, "foreground", "mean", to=1e9),
    "huge intensity": edit("channels", 0, "maximum", to=1e20),
    "negative weight": edit("channels", 0, "foreground", "weights", 0, to=-1.0),
    "bins that jump": edit("channels", 0, "foreground", "bins", 0, to=2**50),
    "bin width": edit("channels", 0, "foreground", "exponent", to=5000),
    "sides": edit("sides", 0, "pairs", 0, to=[1, 5, 5]),
    "version": edit("version", to=2),
    "other labels": edit("labels", 1, "name", to="cyst"),
    "other channel": edit("channels", 0, "name", to="MR"),
    "other unit": edit("unit", to="pixel"),
    "2D": edit("dimension", to=2),
    "other ignore label": edit("ignore", to=9),
}


def refused(root: Path, work: Path, capsys: pytest.CaptureFixture[str], *files: Path) -> str:
    """What planning says, which ends with an error and writes no plan."""
    capsys.readouterr()
    given = [text for file in files for text in ("--with-site", str(file))]
    options = ["--weights", "none", "--workers", "0", "--device", "cpu"]
    assert main(["plan", str(root / "north"), "-w", str(work), *options, *given]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown and shown.count("Error") <= 1
    assert not (work / "plan.json").exists()
    return " ".join(shown.split())


@pytest.mark.parametrize("how", WRONG)
def test_a_file_that_no_site_wrote_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    content = json.loads(site_file(root, "south").read_text())
    del content["digest"]
    WRONG[how](content)
    (tmp_path / "made.json").write_text(json.dumps(content))
    shown = refused(root, tmp_path / "work", capsys, tmp_path / "made.json")
    assert "made.json" in shown
    if how == "other labels":
        assert "other labels than the data set" in shown and "cyst" in shown


@pytest.mark.parametrize("how", ["truncated", "changed", "empty", "nan", "too large", "nested", "folder", "gone"])
def test_a_damaged_file_is_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str) -> None:
    text, file = site_file(root, "south").read_text(), tmp_path / "made.json"
    if how == "folder":
        file.mkdir()
    elif how != "gone":
        cases = '"cases": 5'
        assert cases in text
        changed = {"nan": "NaN", "too large": "1e999", "changed": "4"}
        made = {"truncated": text[: len(text) // 2], "empty": "", "nested": "[" * 10**5}
        file.write_text(made[how] if how in made else text.replace(cases, f'"cases": {changed[how]}'))
    assert "made.json" in refused(root, tmp_path / "work", capsys, file)


def test_no_case_is_counted_twice(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, other = site_file(root, "north"), site_file(root, "south")
    assert "own fingerprint" in refused(root, tmp_path / "work", capsys, own)
    (tmp_path / "copy.json").write_bytes(other.read_bytes())
    assert "given twice" in refused(root, tmp_path / "work", capsys, other, tmp_path / "copy.json")
