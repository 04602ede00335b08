"""Evidence that `segtl plan` gathers: what it decides, where it stands, and when it is gathered anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_stripes import make_stripes
from safetensors.torch import load_file, save_file

import seg_transfer
from seg_transfer.catalogue.encoders import entry
from seg_transfer.evidence import transfer_evidence as gather
from seg_transfer.planning.evidence_record import Evidence
from seg_transfer.planning.plan import Plan
from seg_transfer.transfer.encoder import Encoder
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS: dict[str, Any] = {"config": "2d", "time_budget": 60.0, "folds": 2, "memory": 10**9}
SETTINGS |= {"device": "cpu", "workers": 0}
ASKED: dict[str, Any] = SETTINGS | {"evidence": True}


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_stripes(tmp_path_factory.mktemp("gather") / "stripes", cases=4)


@pytest.fixture(scope="module")
def work(stripes: Path) -> WorkFolder:
    place = WorkFolder(stripes.parent / "work")
    seg_transfer.plan(stripes, work=place.path, **ASKED)
    return place


def reason(plan: Plan, field: str) -> str:
    return next(each.reason for each in plan.reasons if each.field == field)


def test_an_encoder_that_knows_textures_is_taken(work: WorkFolder) -> None:
    plan = Plan.load(work.plan)
    found = plan.evidence
    assert found is not None and found == Evidence.load(work.evidence).transfer
    assert (found.cases, found.voxels) == (4, 4 * 2 * gather.PER_LABEL)
    assert len(found.gain) == len(found.pretrained) == len(found.random) == plan.model.stages
    best = max(range(len(found.gain)), key=lambda stage: found.gain[stage].mean)
    assert found.gain[best].mean > 0.02
    for gain, pretrained, random in zip(found.gain, found.pretrained, found.random, strict=True):
        assert gain.mean == pytest.approx(pretrained.mean - random.mean)
    assert (plan.model.weights.source, plan.recipe.strategy.name) == ("bundled", "gradual")
    figures = f"{found.pretrained[best].mean:.3f}, those of random weights {found.random[best].mean:.3f}"
    assert figures in reason(plan, "recipe.strategy")


def test_planning_again_takes_what_is_known_until_the_data_change(
    stripes: Path, work: WorkFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Plan.load(work.plan)
    calls: list[int] = []
    first = gather.gather
    monkeypatch.setattr(gather, "gather", lambda *args, **named: calls.append(1) or first(*args, **named))
    assert seg_transfer.plan(stripes, work=work.path, **ASKED).evidence == before.evidence
    assert not calls
    again = seg_transfer.plan(stripes, work=work.path, **ASKED | {"seed": 1})
    assert len(calls) == 1 and again.evidence is not None
    held = [split.validation for split in before.recipe.splits]
    together = tmp_path / "groups.json"  # one case of each fold, which classifiers must no longer tear apart
    together.write_text(json.dumps({case: str(index) for pair in held for index, case in enumerate(pair)}))
    seg_transfer.plan(stripes, work=work.path, groups=together, **ASKED)
    assert len(calls) == 2
    again = seg_transfer.plan(stripes, work=work.path, **SETTINGS)  # bundled weights, and not asked for
    assert len(calls) == 2 and again.evidence is None
    assert again.hash == before.hash  # evidence is a reason, not a choice
    assert "not measured on this data" in reason(again, "recipe.strategy")


def test_damaged_evidence_is_measured_again(stripes: Path, work: WorkFolder, caplog: pytest.LogCaptureFixture) -> None:
    whole = seg_transfer.plan(stripes, work=work.path, **ASKED).evidence
    assert whole is not None
    work.evidence.write_text(work.evidence.read_text().replace("0.", "0.5", 1))
    again = seg_transfer.plan(stripes, work=work.path, **ASKED).evidence
    assert again is not None and again.gain == whole.gain and f"{work.evidence} is not used" in caplog.text
    assert Evidence.load(work.evidence).transfer == again


def test_weights_that_know_nothing_are_not_taken(stripes: Path, tmp_path: Path) -> None:
    encoder = Encoder("resnet18", channels=3)
    state = {key.split(".", 2)[2]: tensor.contiguous() for key, tensor in encoder.state_dict().items()}
    assert state["conv1.weight"].shape == (64, 3, 7, 7)
    save_file(state | {"conv1.weight": state["conv1.weight"] * 0}, tmp_path / "blind.safetensors")
    assert load_file(tmp_path / "blind.safetensors").keys() == state.keys()
    plan = seg_transfer.plan(
        stripes, work=tmp_path / "work", encoder="resnet18", weights=str(tmp_path / "blind.safetensors"), **SETTINGS
    )
    assert entry(plan.model.encoder).name == "resnet18"
    assert plan.evidence is not None
    assert [each.mean for each in plan.evidence.pretrained] == pytest.approx([0.5] * plan.model.stages, abs=0.02)
    assert (plan.model.weights.source, plan.recipe.strategy.name) == ("none", "scratch")
    assert "scratch uses none" in reason(plan, "model.weights")
    assert reason(plan, "recipe.strategy").startswith("random weights know more of this data than the pretrained ones")


@pytest.mark.parametrize("asked", [{"strategy": "frozen"}, {"strategy": "race"}, {"weights": "none"}, {"head": "svm"}])
def test_nothing_is_gathered_where_it_decides_nothing(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, str]
) -> None:
    monkeypatch.setattr(gather, "gather", lambda *_, **__: pytest.fail("gathered"))
    settings = ASKED | asked | ({"time_budget": None} if "head" in asked else {})
    assert seg_transfer.plan(stripes, work=tmp_path, **settings).evidence is None
    assert not WorkFolder(tmp_path).evidence.exists()


def test_a_single_case_is_planned_without(stripes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = seg_transfer.plan(stripes, work=tmp_path, cases=["s0"], **ASKED)
    assert plan.evidence is None and plan.recipe.strategy.name == "gradual"
