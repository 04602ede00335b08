"""A MONAI bundle: MONAI itself runs it, and its label maps are those of `segtl predict`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import nibabel
import numpy as np
import pytest
from made_balls import make_dataset
from made_work import add_run, ball_plan, make_work

import seg_transfer
from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import UserError
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT, WHOLE = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 1}
TENSOR = {
    "type": "object",
    "properties": {
        "type": {"enum": ["image", "series", "tuples", "probabilities"]},
        "format": {"enum": ["magnitude", "hounsfield", "labels", "classes", "segmentation"]},
        "modality": TEXT,
        "num_channels": WHOLE,
        "spatial_shape": {"type": "array", "minItems": 2, "maxItems": 3, "items": {"type": ["integer", "string"]}},
        "dtype": {"enum": ["float32", "uint8", "int32"]},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object", "additionalProperties": TEXT},
    },
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data"],
}
TENSORS = {"type": "object", "minProperties": 1, "additionalProperties": TENSOR}
FORMAT = {"type": "object", "properties": {"inputs": TENSORS, "outputs": TENSORS}, "required": ["inputs", "outputs"]}
VERSIONS = ("version", "monai_version", "pytorch_version", "numpy_version")
TEXTS = ("schema", "task", "description", "authors", "copyright")
SPECIFIED = {
    "type": "object",
    "properties": {
        **{name: {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"} for name in VERSIONS},
        **dict.fromkeys(TEXTS, TEXT),
        "changelog": {"type": "object", "additionalProperties": TEXT},
        "required_packages_version": {"type": "object", "additionalProperties": TEXT},
        "network_data_format": FORMAT,
    },
    "required": [*VERSIONS, *TEXTS, "required_packages_version", "network_data_format"],
}
"""The keys that MONAI's bundle specification demands; MONAI fetches its own schema from the network."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "balls", cases=2)


@pytest.fixture(scope="module")
def work(data: Path, tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    made = make_work(tmp_path_factory.mktemp("made") / "work", data)
    add_run(made, ball_plan(Dataset.load(made.dataset), "2.5d"))
    return made


@pytest.fixture(scope="module")
def bundle(work: WorkFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "bundle"
    assert seg_transfer.export(bundle=folder, work=work.path, name="bälle", licence="MIT") == [folder]
    return folder


def test_it_has_the_files_of_a_bundle(bundle: Path, work: WorkFolder) -> None:
    files = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    configs = {"configs/metadata.json", "configs/inference.json"}
    assert files == configs | {"models/model.segtl", "docs/README.md", "LICENSE"}
    readme = (bundle / "docs" / "README.md").read_text()
    assert "bälle: a model of segtl" in readme and "segtl[monai]" in readme
    licence = (bundle / "LICENSE").read_text()
    assert "this model: MIT" in licence and "trained from random weights" in licence
    for text in ("configs/metadata.json", "configs/inference.json", "docs/README.md"):
        assert str(work.path.parent) not in (bundle / text).read_text()


def test_its_metadata_are_what_the_specification_demands(bundle: Path) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    jsonschema.validate(metadata, SPECIFIED)
    (image,) = metadata["network_data_format"]["inputs"].values()
    (labels,) = metadata["network_data_format"]["outputs"].values()
    assert image["channel_def"] == {"0": "MRI"} and image["modality"] == "MRI"
    assert labels["channel_def"] == {"0": "background", "1": "ball", "4": "core"}
    assert labels["value_range"] == [0, 4]


def same_label_maps(found: Path, expected: Path) -> None:
    names = sorted(path.name for path in expected.glob("*.nii.gz"))
    assert len(names) == 2
    values = set()
    for name in names:
        made, wanted = (nibabel.load(folder / name) for folder in (found, expected))
        np.testing.assert_array_equal(np.asarray(made.dataobj), np.asarray(wanted.dataobj))
        np.testing.assert_array_equal(made.affine, wanted.affine)
        values.update(np.unique(np.asarray(made.dataobj)).tolist())
    assert values > {0}


@pytest.fixture(scope="module")
def expected(work: WorkFolder, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("expected")
    return seg_transfer.predict(data / "imagesTr", folder, work=work.path, workers=0, device="cpu")


def test_monai_runs_it_with_the_label_maps_of_predict(bundle: Path, data: Path, expected: Path, tmp_path: Path) -> None:
    from monai.bundle import run

    given = {"dataset_dir": str(data / "imagesTr"), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    run(config_file=str(bundle / "configs" / "inference.json"), bundle_root=str(bundle), **given)
    same_label_maps(tmp_path / "out", expected)


@pytest.mark.slow
def test_its_readme_tells_how_to_run_it(bundle: Path, data: Path, expected: Path, tmp_path: Path) -> None:
    readme = (bundle / "docs" / "README.md").read_text()
    (line,) = re.findall(r"^python (-m monai.bundle run .+)$", readme, flags=re.MULTILINE)
    line = line.replace("IMAGES", str(data / "imagesTr")).replace("PREDICTIONS", str(tmp_path / "out"))
    subprocess.run([sys.executable, *line.split()], cwd=bundle, check=True)
    same_label_maps(tmp_path / "out", expected)


def test_a_folder_with_files_is_kept(work: WorkFolder, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="this folder is not empty"):
        seg_transfer.export(bundle=tmp_path, work=work.path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(UserError, match="a folder is needed"):
        seg_transfer.export(bundle=tmp_path / "notes.txt", work=work.path)
