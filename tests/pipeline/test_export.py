"""Models that travel: exported, stripped, used without a work folder, and as ONNX."""

from __future__ import annotations

import logging
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import made_plans
import nibabel
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from made_balls import make_dataset
from made_work import add_run, ball_plan, make_work, tiny_labels
from safetensors import safe_open

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import UserError
from seg_transfer.evaluation.scores import LabelScore, Scores
from seg_transfer.exporting.card import write_card
from seg_transfer.exporting.load import load_model_file
from seg_transfer.planning.model_file import Member, ModelHeader, Postprocessing, read_model_file
from seg_transfer.planning.plan import Plan, Reason, Weights
from seg_transfer.planning.rules.strategy import finetune
from seg_transfer.util.records import HEADER_KEY
from seg_transfer.util.statistics import mean_interval
from seg_transfer.workflow.choice import Choice, ChosenRun
from seg_transfer.workflow.output_files import ONNX, check_output
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("Miller_1950_left", "Smith_1962_right", "Jones_1941_left", "Brown_1970_both")
CPU = {"device": "cpu"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cases and data set are named as in a hospital, and the files' headers hold a remark."""
    folder = make_dataset(tmp_path_factory.mktemp("private") / "clinic_of_dr_white")
    for number, name in enumerate(NAMES):
        for kind, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
            file = folder / kind / f"case_{number}{ending}"
            image = nibabel.load(file)
            image.header["descrip"] = b"scanned by Dr White"
            nibabel.save(image, folder / kind / f"{name}{ending}")
            file.unlink()
    return folder


@pytest.fixture(scope="module")
def work(data: Path, tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    made = make_work(tmp_path_factory.mktemp("made") / "work", data)
    dataset = Dataset.load(made.dataset)
    for configuration in ("2d", "2.5d"):
        plan = ball_plan(dataset, configuration)
        reason = Reason(field="model.weights", choice="file", reason=f"asked for {data}/weights.pth")
        weights = Weights(source="file", path=f"{data}/weights.pth")
        model = plan.model.model_copy(update={"weights": weights})
        recipe = plan.recipe.model_copy(update={"strategy": finetune(model)})
        add_run(made, plan.model_copy(update={"model": model, "recipe": recipe, "reasons": (reason,)}))
    return made


@pytest.fixture(scope="module")
def model(work: WorkFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("post") / "model.segtl"
    assert main(["export", "-o", str(file), "-w", str(work.path), "--name", "balls", "--licence", "cc-by-4.0"]) == 0
    return file


def test_nothing_of_the_user_is_in_it(model: Path, data: Path, work: WorkFolder) -> None:
    content = model.read_bytes()
    for private in (*NAMES, data.name, "Dr White", "weights.pth", str(data.parent), str(work.path), "/tmp"):
        assert private.encode() not in content, private
    assert b"core" in content and b"MRI" in content
    plan = read_model_file(model).header.plan
    assert plan.data.cases == ("anonymous-1", "anonymous-2", "anonymous-3", "anonymous-4")
    assert [len(split.validation) for split in plan.recipe.splits] == [2, 2]
    assert plan.data.dataset == "balls" and plan.reasons == () and plan.model.weights.path == "removed"


def test_a_plan_of_a_planner_is_stripped_too(data: Path, tmp_path: Path) -> None:
    options = {"config": "2d", "weights": "none", "time_budget": 2.0, "folds": 2, "memory": 10**9, "workers": 0}
    work = make_work(tmp_path / "work", data)
    add_run(work, seg_transfer.plan(data, work=work.path, **options, **CPU), folds=(0,))
    seg_transfer.export(tmp_path / "model.segtl", work=work.path)
    content = (tmp_path / "model.segtl").read_bytes()
    for private in (*NAMES, data.name, str(data.parent), str(tmp_path)):
        assert private.encode() not in content, private


def test_the_card_says_what_it_is(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", str(model)]) == 0
    card = capsys.readouterr().out
    assert "\n---\n# balls: a model of segtl\n" in card
    for line in (
        "Reads: volumes of 1 channel(s), in this order: MRI (scaled by zscore)",
        "Predicts: ball 1, core 4",
        "Resamples to z 2.5, x 1, y 1 (mm)",
        "Trained on: 4 labelled volumes",
        "2.5d U-Net on resnet18 (2 stages), patch 3 x 24 x 24, finetune; mean of 2 fold(s)",
        "Dice by cross-validation over 4 volumes: ball 1.000 (1.000 to 1.000), core 1.000 (1.000 to 1.000); in brack",
        "Known failures: lowest Dice of a case: ball 1.000, core 1.000",
        "Licence of this model: cc-by-4.0",
        "Intended use: research",
        "licence: unknown, a local file",
        "segtl predict -m model.segtl",
    ):
        assert line in card


def test_a_hub_reads_its_card(model: Path) -> None:
    data = ModelCard(seg_transfer.card(model)).data
    assert data.license == "cc-by-4.0" and data.library_name == "segtl" and data.metrics == ["dice"]
    assert data.pipeline_tag == "image-segmentation" and "medical-imaging" in data.tags
    data = ModelCard(card_of_failures()).data
    assert data.license == "other" and data.license_name == "not-stated"


def test_safetensors_reads_it_as_it_is(model: Path) -> None:
    with safe_open(model, framework="np") as file:
        names = set(file.keys())
        assert {name.split("/")[1] for name in names} == {"0", "1"}
        assert all(np.isfinite(file.get_tensor(name)).all() for name in names)


def card_of_failures() -> str:
    """The card of a model that does not find one label in one case, and finds it where it is not in another."""
    dice = {"a": [0.9, 0.7, math.nan], "b": [0.0, 0.0, 0.8]}
    voxels = {"a": [(9, 9), (9, 9), (0, 0)], "b": [(0, 9), (9, 0), (9, 9)]}
    cases = {
        f"secret-{case}": {
            label: LabelScore(
                metrics={"dice": dice[label][case]},
                prediction_voxels=voxels[label][case][0],
                reference_voxels=voxels[label][case][1],
            )
            for label in dice
        }
        for case in range(3)
    }
    scores = Scores(unit="mm", tolerance=1.0, labels={"a": 1, "b": 2}, cases=cases)
    plan = made_plans.plan(made_plans.data_plan(), made_plans.model_plan("2d", (1, 16, 16)))
    members = [Member(plan=plan, folds=("0",))]
    given = {"name": "x", "chosen": False, "postprocessing": Postprocessing(), "validated": 3}
    return write_card(members, dice=scores.label_dice, scores=scores, **given)


def test_the_card_tells_intervals_and_failures() -> None:
    card = card_of_failures()
    low, high = mean_interval([0.9, 0.7])
    assert low < 0 and high > 1
    assert "over 3 volumes: a 0.800 (0.000 to 1.000), b 0.267 (0.000 to 1.000); in brackets the 95 %" in card
    assert "- Known failures: b is not found, in 1 case(s)\n" in card
    assert "- Known failures: b is predicted where there is none, in 1 case(s)\n" in card
    assert "lowest Dice of a case: a 0.700, b 0.000" in card
    assert "Licence of this model: not stated" in card and "secret" not in card


def test_it_predicts_without_the_work_folder(model: Path, work: WorkFolder, data: Path, tmp_path: Path) -> None:
    shutil.copy(model, tmp_path / "model.segtl")
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(data / "imagesTr" / f"{NAMES[0]}_0000.nii.gz", images)
    arguments = ["-i", str(images), "-o", str(tmp_path / "out"), "--device", "cpu", "--workers", "0"]
    assert main(["predict", "-m", str(tmp_path / "model.segtl"), *arguments]) == 0
    expected = seg_transfer.predict(images, tmp_path / "expected", work=work.path, workers=0, **CPU)
    found, wanted = (nibabel.load(folder / f"{NAMES[0]}.nii.gz") for folder in (tmp_path / "out", expected))
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(wanted.dataobj))
    np.testing.assert_allclose(found.affine, wanted.affine)
    assert len(np.unique(np.asarray(found.dataobj))) > 1


def test_arrays_and_folds(model: Path, work: WorkFolder, tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(20, 24, 8)).astype(np.float32)
    found = seg_transfer.predict(array, spacing=(1.0, 1.0, 2.5), model=model, **CPU)
    np.testing.assert_array_equal(found, seg_transfer.predict(array, spacing=(1, 1, 2.5), work=work.path, **CPU))
    assert set(np.unique(found)) <= {0, 1, 4}
    (one,) = seg_transfer.export(tmp_path / "one.segtl", work=work.path, folds=["1"])
    assert read_model_file(one).header.members[0].folds == ("1",)
    assert one.stat().st_size < 0.6 * model.stat().st_size
    alone = seg_transfer.predict(array, spacing=(1, 1, 2.5), work=work.path, folds=[1], **CPU)
    np.testing.assert_array_equal(seg_transfer.predict(array, spacing=(1, 1, 2.5), model=one, **CPU), alone)


def test_options_that_make_no_sense_are_refused(model: Path, work: WorkFolder, tmp_path: Path) -> None:
    array = np.zeros((9, 9, 9), np.float32)
    with pytest.raises(UserError, match="excludes --folds"):
        seg_transfer.predict(array, spacing=(1, 1, 1), model=model, folds=[0])
    with pytest.raises(UserError, match="excludes --folds and --work"):
        seg_transfer.predict(array, spacing=(1, 1, 1), model=model, work=work.path)
    with pytest.raises(UserError, match="is no licence"):
        seg_transfer.export(tmp_path / "model.segtl", work=work.path, licence="free for all\n---")
    with pytest.raises(UserError, match="no output file is given"):
        seg_transfer.export(work=work.path)
    with pytest.raises(UserError, match="not trained: full"):
        seg_transfer.export(tmp_path / "full.segtl", work=work.path, folds=["full"])
    assert not list(tmp_path.iterdir())


def test_writing_is_all_or_nothing(work: WorkFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seg_transfer.training import checkpoint

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "model.segtl")

    (tmp_path / "model.segtl").write_text("the former one")
    monkeypatch.setattr(checkpoint, "save_file", fail)
    assert main(["export", "-o", str(tmp_path / "model.segtl"), "-w", str(work.path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["model.segtl"]
    assert (tmp_path / "model.segtl").read_text() == "the former one"


def test_the_choice_is_what_predict_and_export_use(
    work: WorkFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An ensemble of both configurations with postprocessing: chosen, exported, loaded, predicted alike."""
    shutil.copytree(work.path, tmp_path / "work")
    place = WorkFolder(tmp_path / "work")
    runs = tuple(
        ChosenRun(
            run=folder.name, folds=tuple(run.fold for run in folder.runs if run.model.is_file() and run.fold != "full")
        )
        for folder in place.plan_folders()
    )
    cleaning = Postprocessing(foreground=True, labels=(4,))
    choice = Choice(runs=runs, postprocessing=cleaning, dice={"ball": 0.5, "core": None}, cases=2)
    choice.save(place.choice)
    array = np.random.default_rng(0).normal(size=(20, 24, 8)).astype(np.float32)
    options = {"spacing": (1.0, 1.0, 2.5), **CPU}
    caplog.set_level(logging.INFO)
    by_choice = seg_transfer.predict(array, work=place.path, **options)
    assert f"as chosen in {place.choice}" in caplog.text
    seg_transfer.export(tmp_path / "both.segtl", work=place.path)
    found = load_model_file(tmp_path / "both.segtl")
    assert found.postprocessing == cleaning
    card = seg_transfer.card(tmp_path / "both.segtl")
    assert "ball 0.500, core undefined; slightly optimistic, since the models were chosen by" in card
    np.testing.assert_array_equal(found.array(array, (1.0, 1.0, 2.5)), by_choice)
    folds = [seg_transfer.predict(array, work=place.path, folds=[0], **options), by_choice]
    assert (folds[0] != folds[1]).any()
    with pytest.raises(UserError, match="ONNX holds one configuration"):
        seg_transfer.export(onnx=tmp_path / "both.onnx", work=place.path)

    shutil.rmtree(place.runs / runs[0].run / "fold_0")
    with pytest.raises(UserError, match="does not exist any more"):
        seg_transfer.predict(array, work=place.path, **options)


def probabilities(plan: Plan, networks: list[torch.nn.Module], image: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return np.mean([network(torch.from_numpy(image)).softmax(1).numpy() for network in networks], axis=0)


@pytest.fixture(scope="module", params=["2.5d", pytest.param("3d", marks=pytest.mark.slow)])
def onnx(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    """A work folder beside ``m.segtl`` and ``m.onnx``, which hold its models."""
    pytest.importorskip("onnxscript", reason="the extra [onnx] is not installed")
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    folder = tmp_path_factory.mktemp("onnx")
    work = make_work(folder / "work", data)
    changes = {"slice_strides": (1, 2)} if request.param == "3d" else {}
    dataset = Dataset.load(work.dataset)
    plan = tiny_labels(ball_plan(dataset, request.param, **changes), dataset)
    recipe = plan.recipe.model_copy(update={"tta_axes": (1,)})
    add_run(work, plan.model_copy(update={"recipe": recipe}), folds=(1,) if request.param == "3d" else (0, 1))
    files = seg_transfer.export(folder / "m.segtl", onnx=folder / "m.onnx", work=work.path, name="balls")
    assert files == [folder / "m.segtl", folder / "m.onnx"]
    return work


def test_onnx_computes_what_torch_does(onnx: WorkFolder, data: Path) -> None:
    import onnxruntime

    folder, plan = onnx.path.parent, onnx.load_plan()
    check_output(folder / "m.onnx", ONNX)  # an earlier one may be replaced
    content = (folder / "m.onnx").read_bytes()
    source = Path(seg_transfer.__file__).parent
    for private in (*NAMES, data.name, str(source), str(folder), "anonymous-5"):
        assert private.encode() not in content, private

    session = onnxruntime.InferenceSession(folder / "m.onnx")
    assert [given.shape for given in session.get_inputs()] == [["batch", 1, *plan.model.patch]]
    header = ModelHeader.model_validate_json(session.get_modelmeta().custom_metadata_map[HEADER_KEY])
    exported = read_model_file(folder / "m.segtl").header
    assert header == exported.model_copy(update={"weights": None})
    networks = load_model_file(folder / "m.segtl").networks
    for batch in (1, 2, 3):
        image = np.random.default_rng(batch).normal(size=(batch, 1, *plan.model.patch)).astype(np.float32)
        (found,) = session.run(None, {"image": image})
        wanted = probabilities(plan, networks, image)  # type: ignore[arg-type]
        assert found.shape == wanted.shape
        assert np.abs(wanted - 1 / 3).max() > 0.1
        np.testing.assert_allclose(found, wanted, atol=1e-5)


NEEDED = {"isal", "nibabel", "numpy", "onnxruntime", "PIL", "psutil", "pydantic", "safetensors", "scipy"}
"""What `segtl-infer` needs, as the guide installs it."""
THEIRS = {"annotated_types", "flatbuffers", "google", "packaging", "pydantic_core"} | {
    *("importlib_resources", "typing_extensions", "typing_inspection")
}
WITHOUT_TORCH = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        known = {{"seg_transfer", *sys.stdlib_module_names, *{sorted(NEEDED | THEIRS)}}}
        if top not in known and not top.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"no {{name}} here", name=name)

sys.meta_path.insert(0, Refuse())
from seg_transfer.portable.__main__ import main

sys.exit(main())
"""


def test_onnx_predicts_whole_images_without_torch(onnx: WorkFolder, data: Path, tmp_path: Path) -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "guide.md").read_text(encoding="utf-8")
    (installed,) = re.findall(r"^pip install (isal .+)$", guide, flags=re.MULTILINE)
    assert {"PIL" if name == "pillow" else name for name in installed.split()} == NEEDED
    images = data / "imagesTr"
    line = ["-m", str(onnx.path.parent / "m.onnx"), "-i", str(images), "-o", str(tmp_path / "out"), "--threads", "1"]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *line], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"4/4 {tmp_path / 'out'}" in done.stdout
    for name in NAMES:  # the plan finds its own labels far too large
        assert len(re.findall(f"{name} is unlike the training images: (?:ball|core)", done.stderr)) == 2
    expected = seg_transfer.predict(images, tmp_path / "expected", work=onnx.path, workers=0, **CPU)
    for name in NAMES:
        found, wanted = (nibabel.load(folder / f"{name}.nii.gz") for folder in (tmp_path / "out", expected))
        values, right = np.asarray(found.dataobj), np.asarray(wanted.dataobj)
        assert values.dtype == right.dtype and len(np.unique(right)) > 1
        assert (values != right).mean() <= 1e-4  # rounding where two labels are equally probable
        np.testing.assert_array_equal(found.affine, wanted.affine)


def test_without_its_packages_onnx_is_refused(
    work: WorkFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"segtl\[onnx\]"):
        seg_transfer.export(tmp_path / "m.segtl", onnx=tmp_path / "m.onnx", work=work.path)
    assert not list(tmp_path.iterdir())
