"""Objects that touch are told apart by a trained model, where connected components join them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from made_discs import write_discs
from PIL import Image
from scipy import ndimage

import seg_transfer
from seg_transfer.evaluation.panoptic import panoptic_quality


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_touching_discs_are_told_apart(tmp_path: Path) -> None:
    train, test = write_discs(tmp_path / "train", range(12)), write_discs(tmp_path / "test", range(12, 16))
    work = tmp_path / "work"
    seg_transfer.plan(train, work=work, epochs=1, device="cpu", workers=0)
    plan = json.loads((work / "plan.json").read_text())
    plan["recipe"] |= {"steps_per_epoch": 100, "batch_size": 4, "ema_decay": 0.9}
    (work / "plan.json").write_text(json.dumps(plan))
    seg_transfer.train("full", work=work, device="cpu", workers=0)
    seg_transfer.export(tmp_path / "model.segtl", work=work)
    seg_transfer.predict(test / "imagesTr", tmp_path / "out", model=tmp_path / "model.segtl", device="cpu", workers=0)
    cores, components = [], []
    for path in sorted((test / "labelsTr").iterdir()):
        reference, found = np.asarray(Image.open(path)), np.asarray(Image.open(tmp_path / "out" / path.name))
        cores.append(panoptic_quality(found, reference).quality)
        components.append(panoptic_quality(ndimage.label(found)[0], reference).quality)
    assert statistics.mean(cores) > 0.5 > 0.4 > statistics.mean(components)
