"""Damaged files of every kind that users bring: each is read, or refused with one clear message, soon and in
little memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fuzz_mutations import (
    Edit,
    byte_edits,
    heading_edits,
    json_edits,
    model_edits,
    nifti_edits,
    option_edits,
    tensor_edits,
    text_edits,
    tiff_edits,
)
from fuzz_process import FuzzProcess
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the bound on memory is Linux's")

NIFTI, OTHER, JSON, TEXT = nifti_edits(), byte_edits(), json_edits(), text_edits()
EDITS: dict[str, st.SearchStrategy[Edit]] = {
    **dict.fromkeys(("a.nii", "a.nii.gz", "b.nii.gz", "label.nii.gz"), NIFTI),
    **dict.fromkeys(("a.mha", "b.mha", "a.mhd", "b.mhd", "a.nrrd", "b.nrrd", "label.seg.nrrd"), heading_edits()),
    **dict.fromkeys(("a.png", "b.png", "a.jpg", "a.tif", "a.bmp", "a.gif", "label.png"), OTHER),
    **dict.fromkeys(("pages.tif", "a.ome.tif", "imagej.tif"), tiff_edits()),
    **dict.fromkeys(("v2/dataset.json", "msd/dataset.json", "regions/dataset.json", "listed/dataset.json"), JSON),
    **dict.fromkeys(("plans/v2/dataset.json", "work/plan.json", "splits.json", "groups.json"), JSON),
    **dict.fromkeys(("nnunet/nnUNetPlans.json", "nnunet/splits_final.json"), JSON),
    **dict.fromkeys(("groups.csv", "cases.txt", "bids/derivatives/manual/dseg.tsv"), TEXT),
    **dict.fromkeys(("scores.json", "scores1.json", "manifest.json", "choice.json", "evidence.json"), JSON),
    **dict.fromkeys(("record/dataset.json", "plan-data.json", "fetched/segtl-weights.json"), JSON),
    **dict.fromkeys(("model.segtl", "card.segtl", "carried.segtl"), model_edits()),
    **dict.fromkeys(("model.safetensors", "resume.safetensors"), model_edits()),
    "a.safetensors": tensor_edits(),
    **dict.fromkeys(("zip.pt", "legacy.pt", "pickle.pt"), OTHER),
    "options.txt": option_edits(),
}
Tried = Callable[[str, int], None]
FEW, MANY = 8, 100
LONGEST = 5.0
"""Seconds of CPU time for one small file."""
LONGEST_MESSAGE = 3000
"""Characters, the path of the file and a list of cases included."""
REFUSED_WHEN_VALID = {"b.nii.gz", "a.jpg", "pickle.pt", "options.txt"}


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FuzzProcess]:
    storage = tmp_path_factory.mktemp("hypothesis")
    set_hypothesis_home_dir(storage)  # else it makes a folder in the working directory
    process = FuzzProcess(tmp_path_factory.mktemp("fuzz"))
    yield process
    process.close()


def test_valid_files_are_read(reading: FuzzProcess) -> None:
    assert reading.first.keys() == EDITS.keys()
    assert {name for name, answer in reading.first.items() if answer["outcome"] != "read"} == REFUSED_WHEN_VALID
    assert len(EDITS) * FEW >= 300 and len(EDITS) * MANY >= 3000


def check(reading: FuzzProcess, name: str, edit: Edit) -> None:
    answer = reading.read(name, edit(reading.valid[name]))
    assert answer["outcome"] in ("read", "refused"), answer["text"]
    assert answer["seconds"] < LONGEST
    assert "Traceback" not in answer["text"] and "weights_only" not in answer["text"]
    assert len(answer["text"]) < LONGEST_MESSAGE


def fuzzed(examples: int) -> settings:
    """The same examples in every run; a failing one is not made smaller, since each may cost a new process."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
    )


@pytest.mark.parametrize("name", EDITS)
def test_damaged_files_are_read_or_refused(reading: FuzzProcess, name: str, tried: Tried) -> None:
    @fuzzed(FEW)
    @given(EDITS[name])
    def each(edit: Edit) -> None:
        tried("damaged files", 1)
        check(reading, name, edit)

    each()


@pytest.mark.slow
@pytest.mark.parametrize("name", EDITS)
def test_many_damaged_files_are_read_or_refused(reading: FuzzProcess, name: str, tried: Tried) -> None:
    @fuzzed(MANY)
    @given(EDITS[name])
    def each(edit: Edit) -> None:
        tried("damaged files", 1)
        check(reading, name, edit)

    each()
