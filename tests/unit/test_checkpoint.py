"""Checkpoints: to the bit there and back, whole or not at all, and refused with one clear message."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from seg_transfer.errors import UserError
from seg_transfer.training import checkpoint
from seg_transfer.training.checkpoint import (
    load_header,
    load_optimizer,
    load_state,
    optimizer_tensors,
    save_state,
    under_prefix,
    with_prefix,
)
from seg_transfer.training.checkpoint_header import model_digests


def test_tensors_and_header_come_back_to_the_bit(tmp_path: Path) -> None:
    weight = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    tensors = {"a/weight": weight, "a/same": weight, "b/step": torch.tensor(7.0), "c/half": weight.bfloat16()}
    header = {"seconds": 0.1 + 0.2, "step": 12, "history": [{"loss": 1 / 3}]}
    save_state(tmp_path / "x.safetensors", "resume", tensors, header)
    loaded, read = load_state(tmp_path / "x.safetensors", "resume")
    assert loaded.keys() == tensors.keys()
    assert all(
        torch.equal(loaded[name], tensors[name]) and loaded[name].dtype == tensors[name].dtype for name in tensors
    )
    assert {name: read[name] for name in header} == header
    assert load_header(tmp_path / "x.safetensors", "resume") == read
    (tmp_path / "usual").touch()
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_failing_write_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    save_state(path, "model", {"w": torch.ones(3)}, {"step": 1})

    def half(tensors: object, file: Path, metadata: object) -> None:
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", half)
    with pytest.raises(OSError, match="disk full"):
        save_state(path, "model", {"w": torch.zeros(3)}, {"step": 2})
    tensors, header = load_state(path, "model")
    assert header["step"] == 1 and torch.equal(tensors["w"], torch.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("kind", ["model", "resume"])
def test_a_changed_byte_is_refused_or_changes_nothing(tmp_path: Path, kind: checkpoint.CheckpointKind) -> None:
    """Digits of the header included: another spacing of the plan is as wrong as another weight."""
    path = tmp_path / f"{kind}.safetensors"
    tensors = {"a": torch.randn(50), "b": torch.randn(2, 3).bfloat16(), "step": torch.ones(())}
    save_state(path, kind, tensors, {"plan": {"spacing": [1.5, 2.25, 3.0]}, "loss": float("nan"), "steps": {1: "ä"}})
    before = path.read_bytes()
    whole, header = load_state(path, kind)
    noticed = 0
    for place in range(len(before)):
        changed = bytearray(before)
        changed[place] ^= 1 << place % 7
        path.write_bytes(changed)
        try:
            found, read = load_state(path, kind)
        except UserError as error:
            noticed += 1
            assert str(path) in str(error) and "train" in str(error)
        else:
            assert str(read) == str(header) and found.keys() == whole.keys()
            assert all(torch.equal(found[name], whole[name]) for name in whole)
    assert noticed > 0.9 * len(before)


def test_tensors_of_another_checkpoint_do_not_fit(tmp_path: Path) -> None:
    """The header is whole and so are the tensors, but they are not of one file."""
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    for path, value in ((one, 1.0), (two, 2.0)):
        save_state(path, "model", {"w": torch.full((3,), value)}, {})
    assert model_digests([one]) != model_digests([two])
    one.write_bytes(one.read_bytes()[:-12] + two.read_bytes()[-12:])
    with pytest.raises(UserError, match="the digest of its tensors differs"):
        load_state(one, "model")


@pytest.mark.parametrize("keep", [0, 5, 40, 300])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x.safetensors"
    save_state(path, "resume", {"w": torch.ones(100)}, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"x\.safetensors: no checkpoint of segtl, or cut off.*\n.*--restart"):
        load_state(path, "resume")


def test_foreign_missing_and_wrong_kinds_are_refused(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="no checkpoint of segtl"):
        load_state(tmp_path / "foreign.safetensors", "model")
    with pytest.raises(UserError, match="no checkpoint here"):
        load_header(tmp_path / "none.safetensors", "model")
    save_state(tmp_path / "resume.safetensors", "resume", {"w": torch.ones(2)}, {})
    with pytest.raises(UserError, match=r"holds a resume state, a model state is needed\n.*model\.safetensors"):
        load_state(tmp_path / "resume.safetensors", "model")


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version, hint in ((99, "update segtl"), (1, "train again with --restart")):
        monkeypatch.setattr(checkpoint, "CHECKPOINT_VERSION", version)
        save_state(tmp_path / "x.safetensors", "model", {"w": torch.ones(2)}, {})
        monkeypatch.undo()
        with pytest.raises(UserError, match=f"version {version};.*\n.*{hint}"):
            load_state(tmp_path / "x.safetensors", "model")


def test_prefixes_keep_states_apart() -> None:
    both = with_prefix("ema", {"w": torch.ones(1)}) | with_prefix("network", {"w": torch.zeros(1)})
    assert torch.equal(under_prefix("ema", both)["w"], torch.ones(1))
    assert list(under_prefix("network", both)) == ["w"]


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_an_optimizer_goes_on_to_the_bit(kind: str) -> None:
    def run(model: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
        for seed in seeds:
            x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            # the second layer joins late, so that some parameters have no state yet
            model[1].requires_grad_(seed >= 2)
            model(x).square().mean().backward()
            optimizer.step()

    def make() -> tuple[nn.Module, torch.optim.Optimizer, dict[int, str]]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)).to(memory_format=torch.channels_last)
        groups = [{"params": list(model[0].parameters())}, {"params": list(model[1].parameters()), "lr": 0.01}]
        if kind == "adamw":
            optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=0.1, fused=True)
        else:
            optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.99, nesterov=True, fused=True)
        return model, optimizer, {id(parameter): name for name, parameter in model.named_parameters()}

    whole, optimizer, _ = make()
    run(whole, optimizer, range(5))

    first, optimizer, names = make()
    run(first, optimizer, range(2))
    flat = optimizer_tensors(optimizer, names)
    assert {name.split("/")[0] for name in flat} == {"0.weight", "0.bias"}
    second, optimizer, names = make()
    second.load_state_dict(first.state_dict())
    load_optimizer(
        optimizer, names, {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in flat.items()}
    )
    assert optimizer.param_groups[1]["lr"] == 0.01
    run(second, optimizer, range(2, 5))
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)
