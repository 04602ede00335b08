"""nnU-Net's plans become segtl's: the same arrays, patch and folds; what cannot be taken over ends in one error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from made_nnunet import CELLS, MIDDLE, TRANSPOSED, WRITTEN, make_tree

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.network.build import blank_network
from seg_transfer.planning.plan import Plan

pytestmark = pytest.mark.usefixtures("one_thread")
LOCAL = {"device": "cpu", "workers": 0, "memory": 2 * 10**9, "time_budget": 1200}


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nnunet")
    for name in (TRANSPOSED, MIDDLE, CELLS):
        make_tree(folder, name)
    return folder


@pytest.fixture
def tree(trees: Path, tmp_path: Path) -> Path:
    """A copy of the trees of one data set, to damage; its plans' folder."""
    for kind in ("nnUNet_raw", "nnUNet_preprocessed"):
        shutil.copytree(trees / kind / TRANSPOSED, tmp_path / kind / TRANSPOSED)
    return tmp_path / "nnUNet_preprocessed" / TRANSPOSED


def imported(trees: Path, name: str, work: Path, **options: Any) -> Plan:
    return seg_transfer.import_nnunet(trees / "nnUNet_preprocessed" / name, work=work, **{**LOCAL, **options})


def reasons(plan: Plan) -> dict[str, str]:
    return {reason.field: reason.reason for reason in plan.reasons}


@pytest.mark.parametrize("name", [TRANSPOSED, MIDDLE, CELLS])
def test_preprocessed_arrays_are_those_of_nnunet(trees: Path, tmp_path: Path, name: str) -> None:
    imported(trees, name, tmp_path)
    assert main(["preprocess", "-w", str(tmp_path), "--workers", "0", "-q"]) == 0
    theirs = json.loads((WRITTEN / name / "profiles.json").read_text())
    (file,) = tmp_path.glob(f"preprocessed/*/{theirs['case']}/image.b2nd")
    ours = np.asarray(blosc2.open(str(file))[:])
    assert list(ours.shape) == theirs["shape"]
    for axis, profile in enumerate(theirs["profiles"]):
        mine = ours[0].mean(axis=tuple({0, 1, 2} - {axis}), dtype=float)
        # segtl turns images to RAS, nnU-Net leaves their directions.
        assert np.allclose(mine, profile, atol=2e-4) or np.allclose(mine[::-1], profile, atol=2e-4)


def test_a_transposed_data_set_keeps_patch_and_spacing_in_nnunets_order(trees: Path, tmp_path: Path) -> None:
    plan = imported(trees, TRANSPOSED, tmp_path)
    theirs = json.loads((WRITTEN / TRANSPOSED / "nnUNetPlans.json").read_text())
    assert theirs["transpose_forward"] == [2, 0, 1]
    chosen = theirs["configurations"]["3d_fullres"]
    assert plan.model.configuration == "3d"
    assert list(plan.model.patch) == chosen["patch_size"] == [16, 64, 48]
    assert plan.data.spacing == pytest.approx(chosen["spacing"], rel=1e-6)
    assert plan.data.axes == (2, 0, 1)  # slices along z, then x and y
    ct, mri = (channel.normalization for channel in plan.data.channels)
    figures = theirs["foreground_intensity_properties_per_channel"]["0"]
    assert (ct.kind, ct.lower, ct.mean) == ("clip_zscore", figures["percentile_00_5"], figures["mean"])
    assert (mri.kind, mri.mask) == ("zscore", False)
    assert [region.name for region in plan.data.regions] == ["outer", "inner"]
    assert plan.model.weights.source == "bundled"
    for field in ("data.axes", "data.spacing", "model.configuration", "model.patch", "data.channels.0.normalization"):
        assert reasons(plan)[field].startswith("from nnU-Net's plans")


def test_folds_are_those_that_nnunet_would_draw(trees: Path, tmp_path: Path) -> None:
    plan = imported(trees, TRANSPOSED, tmp_path)
    # generate_crossval_split(sorted names, seed=12345, n_splits=5) of nnU-Net 2.8.1
    drawn = [["case_3", "case_5"], ["case_4"], ["case_0"], ["case_1"], ["case_2"]]
    assert [list(split.validation) for split in plan.recipe.splits] == drawn
    assert reasons(plan)["recipe.splits"].startswith("those that nnU-Net draws")


def test_folds_of_the_file_are_taken(tree: Path, tmp_path: Path) -> None:
    folds = [{"train": ["case_1", "case_2"], "val": ["case_0"]}, {"train": ["case_0"], "val": ["case_1", "case_2"]}]
    (tree / "splits_final.json").write_text(json.dumps(folds))
    plan = seg_transfer.import_nnunet(tree, work=tmp_path / "work", **LOCAL)
    assert [list(split.train) for split in plan.recipe.splits] == [fold["train"] for fold in folds]
    assert reasons(plan)["recipe.splits"].startswith("from nnU-Net's splits_final.json")


def test_2d_of_volumes_keeps_the_slices(trees: Path, tmp_path: Path) -> None:
    plan = imported(trees, MIDDLE, tmp_path, config="2d")
    assert (plan.model.configuration, plan.model.patch, plan.data.axes) == ("2d", (1, 64, 56), (1, 2, 0))
    assert plan.data.spacing == pytest.approx((3.5, 0.9, 0.8))
    assert plan.data.ignore == 3


def test_2d_images_and_raw_folder_as_start(trees: Path, tmp_path: Path) -> None:
    plan = seg_transfer.import_nnunet(trees / "nnUNet_raw" / CELLS, work=tmp_path, **LOCAL)
    assert (plan.model.patch, plan.data.spacing) == ((1, 96, 144), (1.0, 1.0, 1.0))
    assert [channel.normalization.kind for channel in plan.data.channels] == ["zscore"] * 3


def test_plans_of_another_name_and_raw_elsewhere(trees: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(trees / "nnUNet_preprocessed" / MIDDLE, alone)
    raw = trees / "nnUNet_raw" / MIDDLE
    plan = seg_transfer.import_nnunet(alone, raw=raw, plans="nnUNetResEncUNetMPlans", work=tmp_path / "work", **LOCAL)
    assert plan.model.patch == (14, 64, 56)


def edit(tree: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = tree / "nnUNetPlans.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(("name", "patch"), [("3d_fullres", (13, 45, 37)), ("2d", (45, 37))])
def test_an_odd_patch_is_kept_and_trains(tree: Path, tmp_path: Path, name: str, patch: tuple[int, ...]) -> None:
    edit(tree, lambda plans: plans["configurations"][name].update(patch_size=patch))
    work = tmp_path / "work"
    plan = seg_transfer.import_nnunet(tree, config=name, work=work, **{**LOCAL, "time_budget": 2})
    assert plan.model.patch == (*(1,) * (3 - len(patch)), *patch)
    assert "maps are padded inside the network" in reasons(plan)["model.patch"]
    network = blank_network(plan.model.model_copy(update={"position": False}), channels=2, classes=2)
    assert network(torch.zeros(1, 2, *plan.model.patch)).shape == (1, 2, *plan.model.patch)
    if name == "2d":
        seg_transfer.train("0", work=work, device="cpu", workers=0)
        assert seg_transfer.status(work=work).runs


@pytest.mark.parametrize(
    ("scheme", "mask", "kind", "said"),
    [
        ("ZScoreNormalization", True, "zscore", "from nnU-Net's plans: ZScoreNormalization inside the nonzero mask"),
        ("RGBTo01Normalization", False, "minmax", "from nnU-Net's plans: RGBTo01Normalization"),
        ("NoNormalization", False, "none", "from nnU-Net's plans: NoNormalization"),
        ("RescaleTo01Normalization", False, "zscore", "not from nnU-Net's plans: RescaleTo01Normalization"),
        ("MyOwn", False, "zscore", "not from nnU-Net's plans: MyOwn, segtl has no such normalization; 'MRI' names"),
    ],
)
def test_normalization_says_what_is_taken_over(
    tree: Path, tmp_path: Path, scheme: str, mask: bool, kind: str, said: str
) -> None:
    changes = {"normalization_schemes": ["CTNormalization", scheme], "use_mask_for_norm": [False, mask]}
    edit(tree, lambda plans: plans["configurations"]["3d_fullres"].update(changes))
    plan = seg_transfer.import_nnunet(tree, work=tmp_path / "work", **LOCAL)
    rule = plan.data.channels[1].normalization
    assert (rule.kind, rule.mask) == (kind, mask)
    assert reasons(plan)["data.channels.1.normalization"].startswith(said)


def test_images_of_another_spacing_are_warned_of(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(tree, lambda plans: plans.update(original_median_spacing_after_transp=[4.0, 1.6, 0.9]))
    arguments = ["import-nnunet", str(tree), "-w", str(tmp_path / "work"), "--workers", "0", "--device", "cpu"]
    assert main([*arguments, "--time-budget", "20m", "--memory", "2GB", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["data"]["cases"]
    assert "the images' median spacing is 4 x 0.8 x 0.9, in nnU-Net's plans 4 x 1.6 x 0.9" in err


Edit = Callable[[dict[str, Any]], object]


def config(**changes: Any) -> Edit:
    return lambda plans: plans["configurations"]["3d_fullres"].update(changes)


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        (
            lambda plans: plans.pop("transpose_forward"),
            [],
            "not plans of nnU-Net v2: transpose_forward: Field required",
        ),
        (lambda plans: plans.update(transpose_forward=[0, 0, 1]), [], "which is no order of three axes"),
        (lambda plans: plans.update(image_reader_writer="Mine"), [], "'Mine', whose order of axes is not known"),
        (lambda plans: plans.update(configurations={}), [], "not plans of nnU-Net v2: configurations"),
        (lambda plans: plans.update(configurations={"x": {}}), [], "there is no 3d_fullres or 2d"),
        (config(patch_size=[0, 1, 2]), [], "configurations.3d_fullres.patch_size.0"),
        (config(patch_size=[64, 64]), [], "3 spacings for a patch of 2 axes"),
        (config(patch_size=[4000, 4000, 4000]), [], "2 patches of 4000 x 4000 x 4000"),
        (config(spacing=[1, -1, 1]), [], "configurations.3d_fullres.spacing.1"),
        (config(spacing="fine"), [], "configurations.3d_fullres.spacing"),
        (config(normalization_schemes=["CTNormalization"]), [], "the images have 2: CT, MRI"),
        (config(inherits_from="3d_fullres"), [], "inherits from '3d_fullres', which is itself"),
        (config(inherits_from=["2d"]), [], "which is missing"),
        (
            lambda plans: plans["configurations"].update(
                cascade={"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
            ),
            ["--config", "cascade"],
            "cascade is the second stage of a cascade",
        ),
        (lambda plans: None, ["--config", "3d_lowres"], "there is no configuration '3d_lowres'"),
        (lambda plans: None, ["--plans", "Other"], "there is no Other.json, but nnUNetPlans"),
        (lambda plans: None, ["--plans", "../x"], "cannot be the name of a file"),
        (lambda plans: None, ["--raw", "."], "there is no imagesTr"),
    ],
)
def test_what_cannot_be_taken_over_is_one_error(
    tree: Path,
    change: Edit,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit(tree, change)
    refused(tree, arguments, said, monkeypatch, capsys)


def refused(
    folder: Path,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command ends in one error with a hint, and writes nothing."""
    monkeypatch.chdir(folder.parent)
    before = sorted(folder.parent.rglob("*"))
    assert main(["import-nnunet", str(folder), "-w", "work", "--workers", "0", "--device", "cpu", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("hint: ") == 1 and "Traceback" not in err
    assert sorted(folder.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("nnUNetPlans.json", b"", "not a plans file of nnU-Net v2, or damaged"),
        ("nnUNetPlans.json", b"[1]", "no JSON object"),
        ("nnUNetPlans.json", b'{"plans_per_stage": {}}', "not plans of nnU-Net v2"),
        ("nnUNetPlans.json", b"\xff\xff", "not a plans file of nnU-Net v2, or damaged: not a text file"),
        ("splits_final.json", b"{}", "not a list of folds"),
        ("splits_final.json", b'[{"train": ["case_9"], "val": []}]', "not among the cases: case_9"),
        ("splits_final.json", b'[{"train": ["case_1"], "val": ["case_1"]}]', "trains and validates on case_1"),
        ("dataset.json", b"{", "not a dataset.json, or damaged"),
    ],
)
def test_damaged_files_are_one_error(
    tree: Path,
    file: str,
    content: bytes,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tree / file).write_bytes(content)
    refused(tree, [], said, monkeypatch, capsys)


def test_a_folder_without_plans_or_images_says_where_they_were_looked_for(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (monkeypatch, capsys)
    refused(trees / "nnUNet_preprocessed", [], f"this is the folder of 3 data set(s): {TRANSPOSED}", *given)
    raw = tmp_path / "nnUNet_raw" / MIDDLE
    shutil.copytree(trees / "nnUNet_raw" / MIDDLE, raw)
    refused(raw, [], f"neither here nor in {tmp_path / 'nnUNet_preprocessed' / MIDDLE}", *given)
    (raw / "nnUNetPlansv2.1_plans_3D.pkl").touch()
    refused(raw, [], "written by nnU-Net v1", *given)
    planned = tmp_path / "elsewhere" / "planned" / MIDDLE
    shutil.copytree(trees / "nnUNet_preprocessed" / MIDDLE, planned)
    refused(planned, [], "are the images that nnU-Net's plans are for", *given)
    refused(tmp_path / "elsewhere" / "lost", [], "there is no such folder", *given)


def test_too_few_cases_for_five_folds(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tree.parents[1] / "nnUNet_raw" / TRANSPOSED
    for file in [*raw.rglob("case_[3-5]*"), raw / "labelsTr" / "case_2.nii.gz", *raw.glob("imagesTr/case_2*")]:
        file.unlink()
    refused(tree, [], "2 cases are too few for nnU-Net's 5 folds", monkeypatch, capsys)
