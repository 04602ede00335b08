"""Fetching, recording and checking ImageNet weights, with a stand-in for the hub; no test opens a connection."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import save_file

from seg_transfer import encoders, fetch_encoders
from seg_transfer.catalogue import encoders as catalogue
from seg_transfer.catalogue.encoders import entry, imagenet_cached
from seg_transfer.errors import UserError
from seg_transfer.planning.plan import Weights
from seg_transfer.transfer.encoder import Encoder
from seg_transfer.transfer.fetch import OFFLINE, RECORD, weights_file
from seg_transfer.transfer.weights import load_weights

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
IMAGENET = Weights(source="imagenet")


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Empty caches of the hub and of torch."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv(OFFLINE, raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    """A file of ResNet-18's weights, without its upper stages."""
    path = tmp_path_factory.mktemp("server") / "model.safetensors"
    torch.manual_seed(0)
    state = timm.create_model("resnet18", pretrained=False, num_classes=2).state_dict()
    save_file({name: tensor for name, tensor in state.items() if not name.startswith(("layer3", "layer4"))}, path)
    return path


class Hub:
    """Serves one file for every repository, into the cache's own layout, and records requests."""

    def __init__(self, file: Path) -> None:
        self.file, self.requests = file, []
        self.etag = sha256(file)

    def get_hf_file_metadata(self, url, *, timeout):
        self.requests.append((url, timeout))
        return SimpleNamespace(etag=self.etag, commit_hash=COMMIT)

    def hf_hub_download(self, repository, filename, *, revision, force_download):
        self.requests.append((repository, filename, revision, force_download))
        return str(put(repository, revision, self.file.read_bytes()))


def put(repository: str, revision: str, content: bytes) -> Path:
    """Lay a file into the hub's cache."""
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    commit = COMMIT if revision == "main" else revision
    path = folder / "snapshots" / commit / "model.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if revision == "main":
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def record(folder: Path) -> dict:
    return json.loads((folder / RECORD).read_text())


@pytest.fixture
def hub(resnet18, monkeypatch):
    hub = Hub(resnet18)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", hub.get_hf_file_metadata)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub.hf_hub_download)
    return hub


@pytest.fixture
def no_hub(monkeypatch):
    def fail(*arguments, **options):
        pytest.fail("connected to the hub")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", fail)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)


def status(name: str) -> tuple[str, ...]:
    return next(one.weights for one in encoders() if one.entry.name == name)


def test_a_fetched_file_is_in_the_cache_on_record_and_loads_without_the_hub(hub, caches, resnet18):
    assert status("resnet18") == ()
    known = entry("resnet18")
    (fetched,) = fetch_encoders(["resnet18"])
    assert (fetched.encoder, fetched.sha256) == ("resnet18", sha256(resnet18))
    assert fetched.path == caches / f"hub/models--timm--resnet18.a1_in1k/snapshots/{known.revision}/model.safetensors"
    assert hub.requests == [
        (f"{constants.ENDPOINT}/timm/resnet18.a1_in1k/resolve/{known.revision}/model.safetensors", 5.0),
        ("timm/resnet18.a1_in1k", "model.safetensors", known.revision, False),
    ]
    assert record(caches / "assets" / "segtl") == {
        f"timm/resnet18.a1_in1k@{known.revision}": {"sha256": sha256(resnet18), "commit": known.revision}
    }
    assert status("resnet18") == ("fetched",)
    assert imagenet_cached("resnet18")

    hub.requests.clear()
    assert load_weights(Encoder("resnet18", channels=3, stages=2), IMAGENET, "resnet18").share == 1.0
    assert fetch_encoders(["resnet18"]) == [fetched]
    assert hub.requests == []


def test_of_a_branch_the_commit_is_recorded(hub, caches):
    weights_file("me/mine", "main", "resnet18")
    assert record(caches / "assets" / "segtl")["me/mine@main"]["commit"] == COMMIT


def test_loading_takes_the_plans_repository_and_revision_and_records_too(hub, caches):
    weights = Weights(source="imagenet", repository="me/mine", revision="abc")
    load_weights(Encoder("resnet18", channels=3, stages=2), weights, "resnet18")
    assert hub.requests[-1] == ("me/mine", "model.safetensors", "abc", False)
    assert list(record(caches / "assets" / "segtl")) == ["me/mine@abc"]


def test_a_changed_file_is_refused_until_it_is_fetched_anew(hub, resnet18):
    (fetched,) = fetch_encoders(["resnet18"])
    fetched.path.write_bytes(resnet18.read_bytes() + b"x")
    changed = sha256(fetched.path)
    with pytest.raises(UserError, match="has changed since it was fetched") as raised:
        load_weights(Encoder("resnet18", channels=3, stages=2), IMAGENET, "resnet18")
    assert changed in raised.value.what and fetched.sha256 in raised.value.what
    assert "segtl encoders fetch resnet18" in raised.value.hint
    assert fetch_encoders(["resnet18"]) == [fetched]
    assert hub.requests[-1][-1] is True
    assert sha256(fetched.path) == fetched.sha256


def test_a_damaged_download_is_refused_by_what_the_hub_says(hub):
    hub.etag = "0" * 64
    with pytest.raises(UserError, match=f"on record is {'0' * 64}"):
        fetch_encoders(["resnet18"])


def test_what_another_tool_cached_is_recorded_without_the_hub(no_hub, resnet18):
    known = entry("resnet34")
    put(known.repository, known.revision, resnet18.read_bytes())
    assert status("resnet34") == ("cached",)
    assert fetch_encoders(["resnet34"])[0].sha256 == sha256(resnet18)
    assert status("resnet34") == ("fetched",)


def test_a_cached_branch_is_loaded_without_asking_whether_it_moved(no_hub, resnet18):
    path = put("me/mine", "main", resnet18.read_bytes())
    assert weights_file("me/mine", "main", "resnet18") == path


def test_to_a_folder_a_file_per_encoder_with_a_record_that_loading_checks(hub, caches, resnet18):
    folder = caches / "stick"
    first, second = fetch_encoders(["resnet18", "resnet34"], to=folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["resnet18.safetensors", "resnet34.safetensors", RECORD]
    )
    assert (first.path, second.path) == (folder / "resnet18.safetensors", folder / "resnet34.safetensors")
    assert first.sha256 == second.sha256 == sha256(resnet18)
    known = entry("resnet34")
    assert record(folder)["resnet34.safetensors"] == {
        "sha256": sha256(resnet18),
        "commit": COMMIT if known.revision == "main" else known.revision,
        "source": f"{known.repository}@{known.revision}",
    }
    weights = Weights(source="file", path=str(first.path))
    assert load_weights(Encoder("resnet18", channels=3, stages=2), weights, "resnet18").share == 1.0
    first.path.write_bytes(b"damaged on the way")
    with pytest.raises(UserError, match=r"resnet18\.safetensors: this file has changed since it was fetched"):
        load_weights(Encoder("resnet18", channels=3, stages=2), weights, "resnet18")


def test_an_unknown_name_is_refused_before_anything_is_fetched(hub):
    with pytest.raises(UserError, match="resnet19"):
        fetch_encoders(["resnet18", "resnet19"])
    assert hub.requests == []


def test_without_a_network_the_message_says_so_and_how_to_go_on(monkeypatch):
    def fail(url, *, timeout):
        raise OSError("no route to the hub")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", fail)
    with pytest.raises(UserError, match="could not be fetched: no route to the hub") as raised:
        load_weights(Encoder("resnet18", channels=3, stages=1), IMAGENET, "resnet18")
    assert "whose weights come with the package (tf_efficientnet_lite0, " in str(raised.value)
    assert "segtl encoders fetch resnet18 --to FOLDER" in str(raised.value)


def test_a_server_that_is_not_there_costs_seconds():
    """The hub's client itself, its address turned to a port where nobody listens, in a process of its own."""
    program = (
        "import time; from seg_transfer.errors import UserError; from seg_transfer.transfer.fetch import weights_file\n"
        "import huggingface_hub; start = time.monotonic()\n"
        "try: weights_file('me/mine', 'main', 'resnet18')\n"
        "except UserError as error: print('could not be fetched' in str(error), time.monotonic() - start)"
    )
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": "/nonexistent", "PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    refused, seconds = done.stdout.split()
    assert refused == "True"
    assert float(seconds) < 10


def test_offline_never_asks_and_takes_what_is_here(no_hub, resnet18, monkeypatch):
    monkeypatch.setenv(OFFLINE, "1")
    start = time.monotonic()
    with pytest.raises(UserError, match="are not on this machine, and connections are forbidden") as raised:
        load_weights(Encoder("resnet18", channels=3, stages=2), IMAGENET, "resnet18")
    assert time.monotonic() - start < 5
    assert "segtl encoders fetch resnet18" in raised.value.hint
    known = entry("resnet18")
    put(known.repository, known.revision, resnet18.read_bytes())
    assert load_weights(Encoder("resnet18", channels=3, stages=2), IMAGENET, "resnet18").share == 1.0


@pytest.fixture
def of_torchvision(monkeypatch):
    """A catalogue whose resnet18 is torchvision's, and the name of its file."""
    served = b"content"
    file = f"little-{hashlib.sha256(served).hexdigest()[:8]}.pth"
    changed = catalogue.ENCODERS | {
        "resnet18": catalogue.EncoderEntry(**{**vars(entry("resnet18")), "repository": "", "file": file})
    }
    monkeypatch.setattr(catalogue, "ENCODERS", changed)
    monkeypatch.setattr("torchvision.models.get_weight", lambda name: SimpleNamespace(url=f"https://server/{file}"))
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: io.BytesIO(served))
    return file


def test_a_file_of_torchvision_goes_into_torchs_cache(of_torchvision, caches):
    (fetched,) = fetch_encoders(["resnet18"])
    assert fetched.path == caches / "torch/hub/checkpoints" / of_torchvision
    assert fetched.path.read_bytes() == b"content"
    assert fetched.sha256 == hashlib.sha256(b"content").hexdigest()
    assert imagenet_cached("resnet18")
    assert torch.hub.get_dir() == str(caches / "torch" / "hub")
    assert fetch_encoders(["resnet18"], to=caches / "stick")[0].path == caches / "stick" / "resnet18.pth"


def test_a_file_of_torchvision_must_have_the_sha256_of_its_name(of_torchvision, caches, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: io.BytesIO(b"other"))
    with pytest.raises(UserError, match="its name says"):
        fetch_encoders(["resnet18"])
    assert not list((caches / "torch").rglob("*.pth"))


def test_torchvision_knows_the_file_of_alexnet():
    known = entry("alexnet")
    assert torchvision.models.get_weight(known.revision).url.endswith(f"/{known.file}")
