"""`segtl probe` from a plan to its table, file and plot; and what it says where it cannot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_stripes import make_stripes

import seg_transfer
import seg_transfer as api
from seg_transfer.cli.app import main
from seg_transfer.evidence import probe
from seg_transfer.evidence.labelled_voxels import choose_cases
from seg_transfer.evidence.probe import run_probe
from seg_transfer.planning.evidence_record import Evidence, ProbedFeatures, ProbeEvidence
from seg_transfer.planning.plan import Plan, Weights
from seg_transfer.preprocessing.store import Store
from seg_transfer.workflow import probe as probing
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.usefixtures("one_thread")
LOCAL = {"device": "cpu", "workers": 0}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    data = make_stripes(folder / "stripes", cases=5)
    seg_transfer.plan(
        data,
        work=folder / "work",
        config="2d",
        encoder="tf_efficientnet_lite0",
        weights="bundled",
        time_budget=60.0,
        folds=2,
        memory=10**9,
        **LOCAL,
    )
    return folder / "work"


@pytest.fixture(scope="module", autouse=True)
def fewer_voxels() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "MOST_VOXELS", 1200)
        yield


@pytest.fixture(scope="module")
def probed(planned: Path) -> ProbeEvidence:
    return seg_transfer.probe(work=planned, cases=4, **LOCAL)


def entry(found: ProbeEvidence, source: str, stage: int | None = None) -> ProbedFeatures:
    (one,) = [one for one in found.features if one.source == source and one.stage == stage]
    return one


def accuracy(one: ProbedFeatures) -> float:
    return one.scores["softmax"].balanced_accuracy.mean


def test_pretrained_features_find_what_intensities_do_not(probed: ProbeEvidence) -> None:
    assert accuracy(entry(probed, "raw")) == pytest.approx(0.5, abs=0.06)
    assert accuracy(entry(probed, "filters")) < 0.75
    assert accuracy(entry(probed, "pretrained", 0)) > 0.7
    dice = {source: entry(probed, source).mean_dice for source in ("raw", "pretrained")}
    assert dice["pretrained"] > dice["raw"] + 0.3
    assert all(entry(probed, "pretrained", 0).scores[name].balanced_accuracy.mean > 0.7 for name in ("svm", "softmax"))


def test_everything_stands_beside_its_controls(probed: ProbeEvidence) -> None:
    stages = [0, 1, 2, 3, 4, None]  # every stage of the encoder, and all together
    expected = [
        ("raw", None),
        ("filters", None),
        *(("pretrained", k) for k in stages),
        *(("random", k) for k in stages),
    ]
    assert [(one.source, one.stage) for one in probed.features] == expected
    assert [one.features for one in probed.features if one.source == "pretrained"] == [16, 24, 40, 112, 320, 512]
    assert (probed.cases, probed.folds, probed.held_out, probed.draws) == (4, 2, 2, 3)
    assert probed.weights == {"tf_efficientnet_lite0": "bundled"}
    for stage in stages:
        pretrained, random = entry(probed, "pretrained", stage), entry(probed, "random", stage)
        assert pretrained.gain is not None and random.gain is None and random.draw_std > 0
        assert pretrained.gain.mean == pytest.approx(accuracy(pretrained) - accuracy(random))
    assert all(one.scores["svm"].log_loss is None and one.scores["bayes"].log_loss for one in probed.features)


def test_what_it_leaves_in_the_work_folder(planned: Path, probed: ProbeEvidence) -> None:
    work = WorkFolder(planned)
    assert Evidence.load(work.evidence).probe == probed
    assert json.loads(work.evidence.read_text()).keys() >= {"version", "probe"}
    assert work.probe_plot.read_bytes().startswith(b"\x89PNG")
    plan = Plan.load(work.plan)
    assert Store.open(work.store_folder(plan), plan.data).cases() == choose_cases(plan, 4, 0)  # and not the fifth


def test_cases_come_from_all_folds(planned: Path) -> None:
    plan = Plan.load(WorkFolder(planned).plan)
    for count in (2, 4):
        for seed in range(4):
            chosen = choose_cases(plan, count, seed)
            assert [len(set(chosen) & set(split.validation)) for split in plan.recipe.splits] == [count // 2] * 2
    assert choose_cases(plan, 20, 0) == sorted(plan.data.cases)


@pytest.mark.slow
def test_several_encoders_are_also_tried_together(
    planned: Path, probed: ProbeEvidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "DRAWS", 2)
    plan = Plan.load(WorkFolder(planned).plan)
    store, others = Store.open(WorkFolder(planned).store_folder(plan), plan.data), {"alexnet": Weights(source="none")}
    found = run_probe(plan, store, store.cases(), others=others, context=True, seed=0, device="cpu")
    joint, random = [one for one in found.features if one.encoder == "tf_efficientnet_lite0+alexnet"]
    assert joint.features == 2 * (512 + 64 + 192 + 256 + 256) == random.features and joint.mean_dice > 0
    assert (joint.source, random.source) == ("pretrained", "random") and random.draw_std > 0
    assert joint.gain.mean == pytest.approx(accuracy(joint) - accuracy(random))
    assert entry(probed, "raw") == entry(found, "raw")  # the same voxels, folds and held-out cases


def test_the_command_shows_a_table(
    planned: Path, probed: ProbeEvidence, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(api, "probe", lambda _: probed)
    assert main(["probe", "-w", str(planned)]) == 0
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    rows = {cells[0]: cells[1:] for cells in lines if cells}
    assert len(rows) == 14
    one = entry(probed, "pretrained", 1)
    softmax, gain = one.scores["softmax"].balanced_accuracy, one.gain
    shown = rows["pretrained stage 1"]
    assert shown[0] == f"{softmax.mean:.3f} ± {softmax.error:.3f}" and shown[-1].startswith(f"{gain.mean:+.3f}")
    assert shown[-2] == f"{one.mean_dice:.3f}" and rows["raw"][-1] == ""
    assert main(["probe", "-w", str(planned), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["features"]) == 14


class TestMistakes:
    def said(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
        assert main(["probe", *map(str, arguments), "--device", "cpu", "--workers", "0"]) == 2
        out, err = capsys.readouterr()
        assert out == "" and "Traceback" not in err
        return " ".join(err.split())

    def test_no_plan(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "run `segtl plan DATASET` first" in self.said(capsys, "-w", tmp_path / "nowhere")

    def test_one_case(self, planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "--cases" in self.said(capsys, "-w", planned, "--cases", 1)

    def test_encoders_without_weights_here(
        self, planned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(probing, "imagenet_cached", lambda _: False)
        assert "segtl encoders fetch vgg16_bn" in self.said(capsys, "-w", planned, "--with", "vgg16_bn")
        assert "unknown encoder 'lenet'" in self.said(capsys, "-w", planned, "--with", "lenet")
        said = self.said(capsys, "-w", planned, "--with", "timm/resnet10t")
        assert "no pretrained weights of timm/resnet10t on this machine" in said

    def test_a_plan_from_scratch(self, planned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        content = json.loads((planned / "plan.json").read_text())
        content["model"]["weights"] = {"source": "none"}
        content["recipe"]["strategy"]["pretrained_stages"] = 0
        (tmp_path / "plan.json").write_text(json.dumps(content))
        assert "nothing to probe" in self.said(capsys, "-w", tmp_path)

    def test_folds_that_cannot_be_held_out(
        self, planned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("plan.json", "dataset.json"):
            content = json.loads((planned / name).read_text())
            if name == "plan.json":
                cases = content["data"]["cases"]
                content["recipe"]["splits"] = [{"train": cases, "validation": cases}]
            (tmp_path / name).write_text(json.dumps(content))
        assert "held out by different folds" in self.said(capsys, "-w", tmp_path)
        assert not (tmp_path / "evidence.json").exists()

    def test_evidence_edited_into_something_else(
        self, planned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "plan.json").write_text((planned / "plan.json").read_text())
        (tmp_path / "evidence.json").write_text('{"version": 1, "probe": {"cases": 3}}')
        assert "evidence.json" in self.said(capsys, "-w", tmp_path)


def test_evidence_without_a_probe_or_a_file(tmp_path: Path) -> None:
    assert Evidence.load(tmp_path / "evidence.json").probe is None
    (tmp_path / "evidence.json").write_text('{"version": 1}')
    assert Evidence.load(tmp_path / "evidence.json") == Evidence()
