"""Records and stamps that are made a case at a time: the text is that of the whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from made_fingerprints import fingerprint

from seg_transfer.data.dataset import Case, Dataset
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.site_fingerprint import SiteFingerprint
from seg_transfer.util.records import DIGEST_KEY
from seg_transfer.workflow import measure

ODD = 'ä"\\\n\t\x01\u2028\n  "cases": []'


def dataset(cases: int) -> Dataset:
    files = tuple(Path(f"{ODD}{number}.nii") for number in range(cases))
    empty = Dataset(
        name=ODD,
        root=Path("/nowhere"),
        layout="nnunet",
        dimension=3,
        unit="mm",
        channel_names=("CT",),
        labels=(("background", 0), ("a", 1)),
        cases=(),
        groups={ODD: "group"},
    )
    return empty.model_copy(update={"cases": tuple(Case(f"{file}", (file,), file) for file in files)})


def digest_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize("cases", range(4))
def test_the_description_of_a_data_set(cases: int, tmp_path: Path) -> None:
    made = dataset(cases)
    made.save(tmp_path / "dataset.json")
    text = (tmp_path / "dataset.json").read_text(encoding="utf-8")
    assert text.startswith(made.to_json().removesuffix("\n}") + f',\n  "{DIGEST_KEY}": ')
    content = json.loads(text)
    assert content.pop(DIGEST_KEY) == digest_of(content)


@pytest.mark.parametrize("cases", [1, 3])
def test_a_fingerprint(cases: int, tmp_path: Path) -> None:
    made = fingerprint(cases=cases)
    made.save(tmp_path / "fingerprint.json")
    text = (tmp_path / "fingerprint.json").read_text()
    assert all(
        f"  {json.dumps(case.model_dump(mode='json'))}" in text.replace(",\n", "\n").splitlines() for case in made.cases
    )
    content = json.loads(text)
    assert content.pop(DIGEST_KEY) == digest_of(content)
    assert Fingerprint.load(tmp_path / "fingerprint.json") == made


@pytest.mark.parametrize("cases", range(4))
def test_the_stamp_of_a_data_set(cases: int) -> None:
    made = dataset(cases)
    versions = Fingerprint.current_version(), SiteFingerprint.current_version()
    digest = hashlib.sha256(repr((*versions, True, made)).encode())
    for path in made.files():
        digest.update(f"{path} None\n".encode())
    assert measure._stamp(made, skip_broken=True) == digest.hexdigest()
