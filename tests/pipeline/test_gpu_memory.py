"""The message about a GPU whose memory ran out in a training step; on a GPU itself, tests/gpu."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from made_balls import LOCAL, QUICK, make_dataset

import seg_transfer
from seg_transfer.errors import UserError
from seg_transfer.training.trainer import Trainer


def test_it_names_a_memory_to_plan_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    plan = seg_transfer.plan(make_dataset(tmp_path / "data"), work=work, device="cpu", **QUICK)
    assert plan.expected is not None and plan.expected.memory_bytes < 10**9

    def runs_out(self: Trainer, *arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Trainer, "step", runs_out)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**8, 8 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 4 * 10**8)
    with pytest.raises(UserError) as caught:
        seg_transfer.train("0", work=work, **LOCAL)
    assert "step 0" in caught.value.what and "8.0 GB" in caught.value.what and "100.0 MB are free" in caught.value.what
    assert caught.value.hint is not None and "--memory 400.0MB" in caught.value.hint  # 0.8 of 500 MB
