"""Measurements of very many cases: as they were, in little memory."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from made_fingerprints import fingerprint
from pydantic import ValidationError

from seg_transfer.data.checks import FormsApart
from seg_transfer.data.dataset import Case, Dataset
from seg_transfer.errors import UserError
from seg_transfer.planning import examine as examining
from seg_transfer.planning import site_fingerprint
from seg_transfer.planning.case_fingerprint import CaseFingerprint
from seg_transfer.planning.case_records import CaseRecords
from seg_transfer.planning.distribution import Distribution, Sketch
from seg_transfer.planning.examine import examine
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.site_fingerprint import AT_ONCE, SiteFingerprint

MOST_BYTES = 800
"""Per case while a data set is measured and written; a :class:`CaseFingerprint` alone has 10,000."""


def varied(number: int) -> CaseFingerprint:
    """A case whose figures are its own."""
    draw = np.random.default_rng(number)
    (made,) = fingerprint(cases=1, labels=("a",)).cases
    (channel,), (label,) = made.channels, made.labels
    mean, std, part = draw.uniform(40, 60), draw.uniform(10, 30), draw.uniform(30, 90)
    return made.model_copy(
        update={
            "id": f"case_{number:05}",
            "shape": tuple(draw.integers(100, 200, 3).tolist()),
            "spacing": (0.5 + number % 7, 1.0, 2.5),
            "channels": (channel.model_copy(update={"mean": mean, "std": std, "label_means": (40.0, part)}),),
            "labels": (label.model_copy(update={"ml": part}),),
            "image_hash": f"{draw.integers(2**60):032x}",
            "label_hash": f"{draw.integers(2**60):032x}",
        }
    )


def test_cases_are_as_they_were() -> None:
    cases = [varied(number) for number in range(5)]
    records = CaseRecords(cases)
    assert list(records) == cases and len(records) == 5
    assert records[-1] == cases[-1] and list(records[1:4:2]) == cases[1:4:2]
    assert records == CaseRecords(cases) and records != CaseRecords(cases[:4]) and records != CaseRecords(cases[::-1])
    assert records[1:] == CaseRecords(cases[1:])


def test_a_wrong_field_of_a_case_is_named_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "fingerprint.json"
    fingerprint(cases=3).save(path)
    content = json.loads(path.read_text())
    del content["digest"]
    content["cases"][1]["shape"] = [1, 2]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"cases\.1\.shape\.2: Field required"):
        Fingerprint.load(path)
    with pytest.raises(ValidationError, match="cases"):
        Fingerprint.model_validate(content | {"cases": 3})


def test_a_sum_in_steps_is_that_of_all_cases() -> None:
    cases = [varied(number) for number in range(2 * AT_ONCE + 3)]
    scheme: dict = {"dimension": 3, "unit": "mm", "channels": ["MRI"], "labels": [("a", 1)]}
    sketch = Sketch.of(Distribution(np.arange(5.0)))
    found = SiteFingerprint.of(iter(cases), **scheme, foreground=[sketch])
    expected = SiteFingerprint._of_some(cases, [sketch], **scheme, regions=(), ignore=None)
    means = [site.channels[0].label_means for site in (found, expected)]
    assert means[0].spread() == means[1].spread()
    assert means[0].variances.model_dump() == pytest.approx(means[1].variances.model_dump(), rel=1e-12)
    for site in (found, expected):
        object.__setattr__(site.channels[0], "label_means", None)
    assert found == expected


def peak(cases: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes at most while so many cases are gathered and written, without the list of their files."""
    (made,) = fingerprint(cases=1, labels=("a",)).cases
    sketch = Sketch.of(Distribution(np.arange(5.0)))

    def measured(case: Case, *, dataset: Dataset) -> object:
        own = made.model_copy(update={"id": case.id, "image_hash": f"{hash(case.id):032x}"})
        return pickle.loads(pickle.dumps(([], False, FormsApart(files=2), (own, [sketch]))))  # as from a worker

    monkeypatch.setattr(examining, "_examine_case", measured)
    dataset = Dataset(
        name="made",
        root=folder,
        layout="nnunet",
        dimension=3,
        unit="mm",
        channel_names=("MRI",),
        labels=(("background", 0), ("a", 1)),
        cases=tuple(Case(f"case_{n:05}", (folder / f"{n}.nii",), folder / f"{n}_label.nii") for n in range(cases)),
    )
    tracemalloc.start()
    examined = examine(dataset, workers=0)
    found = examined.fingerprint()
    found.held_labels()
    assert found.duplicates() == []
    examined.dataset.save(folder / "dataset.json")
    found.save(folder / "fingerprint.json")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_memory_hardly_grows_with_the_number_of_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_fingerprint, "AT_ONCE", 50)
    few, many = 100, 500
    peak(few, tmp_path, monkeypatch)  # imports
    growth = (peak(many, tmp_path, monkeypatch) - peak(few, tmp_path, monkeypatch)) / (many - few)
    assert growth < MOST_BYTES
