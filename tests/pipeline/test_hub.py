"""Models in repositories of a model hub: pushed and pulled through huggingface_hub and real sockets."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import COMMIT, Hub, running_hub
from huggingface_hub import ModelCard, constants
from made_plans import data_plan, model_plan, plan

from seg_transfer.cli.app import main
from seg_transfer.exporting.save import make_header, save_model_file
from seg_transfer.network.build import build_network
from seg_transfer.training.checkpoint import save_state
from seg_transfer.training.run_folder import PlanFolder, TrainedRuns

pytestmark = pytest.mark.usefixtures("one_thread")

TOKEN = "hf_this_is_a_secret"
REPOSITORY = "clinic/abdomen"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    made = plan(data_plan(), model_plan("2d", (1, 16, 16)))
    network, _ = build_network(made.model, channels=1, classes=3, seed=0, pretrained_stages=0)
    trained = TrainedRuns(PlanFolder(folder, made), (0,))
    save_state(trained.models[0], "model", network.state_dict(), {"plan": made.model_dump(mode="json")})
    save_model_file(folder / "model.segtl", make_header([trained], licence="cc-by-4.0"), [trained])
    return folder / "model.segtl"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the server speaks LFS
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with running_hub() as made:
        yield made


def pull(hub: Hub, file: Path, *more: str, repository: str = REPOSITORY) -> int:
    return main(["pull", repository, "-o", str(file), "--endpoint", hub.address, *more])


def test_what_is_pulled_is_what_was_pushed(
    hub: Hub, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert main(["push", REPOSITORY, "-m", str(model), "--endpoint", hub.address, "-v"]) == 0
    assert hub.private == {REPOSITORY: True}
    assert set(hub.files[REPOSITORY]) == {"README.md", "model.safetensors"}
    assert hub.files[REPOSITORY]["model.safetensors"] == model.read_bytes()
    card = ModelCard(hub.files[REPOSITORY]["README.md"].decode())
    assert card.data.license == "cc-by-4.0" and card.data.library_name == "segtl"
    assert main(["push", REPOSITORY, "-m", str(model), "--endpoint", hub.address]) == 0  # again: it is there already

    assert pull(hub, tmp_path / "models" / "mödel.segtl") == 0
    assert (tmp_path / "models" / "mödel.segtl").read_bytes() == model.read_bytes()
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["mödel.segtl"]
    assert hub.tokens == {f"Bearer {TOKEN}"}
    out, err = capfd.readouterr()
    assert f"{REPOSITORY}/commit/{COMMIT}" in out
    assert TOKEN not in out + err + caplog.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no model", "model.safetensors: no model file of segtl"),
        (b"cut off here", "its sha256 is not that of the hub"),
        (None, "HF_TOKEN gives access"),
    ],
    ids=["foreign", "cut off", "missing"],
)
def test_nothing_appears_that_is_no_model(
    content: bytes | None, said: str, hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        hub.files[REPOSITORY] = {"model.safetensors": content}
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.segtl").write_text("the former one")
    assert pull(hub, tmp_path / "models" / "model.segtl") == 2
    err = capfd.readouterr().err
    assert said in err and TOKEN not in err
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["model.segtl"]
    assert (tmp_path / "models" / "model.segtl").read_text() == "the former one"


def test_refusals_are_told(hub: Hub, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hub.refuses = 403
    assert main(["push", REPOSITORY, "-m", str(model), "--endpoint", hub.address]) == 2
    err = capfd.readouterr().err
    assert f"{REPOSITORY}: {hub.address} says: " in err and "you may not do this" in err
    assert not hub.files
    (tmp_path / "text.segtl").write_text("no model")
    hub.tokens.clear()
    assert main(["push", REPOSITORY, "-m", str(tmp_path / "text.segtl"), "--endpoint", hub.address]) == 2
    assert hub.tokens == set()
    for repository, endpoint in (("a/b/c/d", hub.address), ("clinic/abdomen", "ftp://hub")):
        line = ["pull", repository, "-o", str(tmp_path / "new.segtl"), "--endpoint", endpoint]
        assert main(line) == 2
    assert "'ftp://hub' is no address" in capfd.readouterr().err
    assert not (tmp_path / "new.segtl").exists()


def test_a_hub_that_cannot_be_reached_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with running_hub() as gone:
        pass
    assert pull(gone, tmp_path / "model.segtl") == 2
    err = capfd.readouterr().err
    assert f"{gone.address} says: " in err and "check the address and the network" in err
    assert not list(tmp_path.iterdir())
