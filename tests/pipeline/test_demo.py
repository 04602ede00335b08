"""The demo in this process: briefly for its files, and (slow) in full for what it promises."""

import json

import pytest
from PIL import Image as Pillow

from seg_transfer.cli.printing import print_json
from seg_transfer.demo import phantom_dataset, run_demo

TRAINING, HELD_OUT = 4, ["abdomen_05", "abdomen_06", "abdomen_07"]
"""Fewer cases than those of the demo."""


def test_files_and_scores_of_a_brief_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(phantom_dataset, "TRAINING", TRAINING)
    monkeypatch.setattr(phantom_dataset, "HELD_OUT", len(HELD_OUT))
    result = run_demo(tmp_path, device="cpu", training_seconds=1.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "baseline",
        "data",
        "overlay.png",
        "predictions",
        "work",
    ]
    for folder in (result.predictions, tmp_path / "baseline"):
        assert sorted(path.name for path in folder.glob("*.nii.gz")) == [f"{case}.nii.gz" for case in HELD_OUT]
    assert list(result.scores.cases) == list(result.baseline.cases) == HELD_OUT
    assert result.scores.labels == {"liver": 1, "spleen": 2, "kidneys": 3}
    assert 0.05 < result.baseline.mean_dice < 0.4
    width, height = Pillow.open(result.overlay).size
    assert width > 1000
    assert height > 1000
    print_json(result)
    assert json.loads(capsys.readouterr().out)["scores"]["labels"] == result.scores.labels
    again = run_demo(tmp_path, device="cpu", training_seconds=1.0)
    assert again.baseline.model_dump_json() == result.baseline.model_dump_json()


@pytest.mark.slow
def test_a_network_beats_thresholds(tmp_path):
    result = run_demo(tmp_path)
    assert result.scores.mean_dice >= 0.8
    assert result.baseline.mean_dice < 0.6
