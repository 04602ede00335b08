"""A network of timm without a row in the catalogue, from the plan to a prediction of the exported model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_balls import make_dataset

import seg_transfer
from seg_transfer.catalogue.encoders import DESCRIBED

pytestmark = pytest.mark.usefixtures("one_thread")
LOCAL: dict[str, Any] = {"device": "cpu", "workers": 0}


@pytest.mark.slow
def test_it_goes_the_whole_way(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data")
    plan = seg_transfer.plan(
        data, work=tmp_path / "work", encoder="timm/hgnetv2_b0", config="2d", time_budget=60.0, folds=2, **LOCAL
    )
    assert plan.model.encoder == "timm/hgnetv2_b0" and plan.model.weights.source == "none"
    DESCRIBED.clear()  # as in another process
    seg_transfer.train("full", work=tmp_path / "work", time_budget=1.0, **LOCAL)
    (model,) = seg_transfer.export(tmp_path / "model.segtl", work=tmp_path / "work")
    assert "timm/hgnetv2_b0" in seg_transfer.card(model)
    DESCRIBED.clear()
    seg_transfer.predict(data / "imagesTr", tmp_path / "out", model=model, device="cpu")
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == len(list((data / "imagesTr").iterdir()))
