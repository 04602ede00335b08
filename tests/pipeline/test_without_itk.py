"""Without SimpleITK, which comes with the extras itk and dicom: NIfTI works, other files end in one error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from made_balls import make_dataset
from made_dicom import write_series

from seg_transfer.cli.app import main
from seg_transfer.data.dataset import Dataset, find_dataset

MODEL = Path(__file__).resolve().parents[1] / "golden" / "work" / "model.segtl"
ABSENT = "raise ModuleNotFoundError(\"No module named 'SimpleITK'\", name='SimpleITK')\n"
PROGRAM = """
import contextlib, io, json, sys
from seg_transfer.cli.app import main
done = []
if __name__ == "__main__":
    for command in json.loads(sys.argv[1]):
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            code = main(command)
        done.append([code, out.getvalue(), err.getvalue()])
    print(json.dumps(done))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same volumes as NIfTI, MetaImage and NRRD, plain folders without a description, and a DICOM series."""
    folder = tmp_path_factory.mktemp("without_itk")
    make_dataset(folder / "nifti", cases=2)
    for kind, part in ((kind, part) for kind in ("mha", "nrrd") for part in ("images", "labels")):
        (folder / kind / part).mkdir(parents=True)
        for path in sorted((folder / f"nifti/{part}Tr").iterdir()):
            name = path.name.removesuffix(".nii.gz").removesuffix("_0000")
            sitk.WriteImage(sitk.ReadImage(str(path)), str(folder / kind / part / f"{name}.{kind}"))
    write_series(folder / "study", np.zeros((4, 4, 3), np.int16), np.diag([1.0, 1.0, 2.0, 1.0]))
    (folder / "absent").mkdir()
    (folder / "absent" / "SimpleITK.py").write_text(ABSENT)
    return folder


def run_without(folder: Path, *commands: str) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each command; worker processes do not find SimpleITK either."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([command.split() for command in commands])],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder / "absent"), *sys.path])},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_command_says_once_what_to_install(folder: Path) -> None:
    commands = {
        "plan mha -w work --workers 0": "itk",
        "plan nrrd -w work --workers 0": "itk",
        "check mha --workers 1": "itk",
        "check nrrd --workers 0 --fix fixed": "itk",
        "evaluate mha/labels mha/labels --workers 0": "itk",
        f"predict -i mha/images -m {MODEL} -o maps --device cpu": "itk",
        f"predict -i nrrd/images/case_0.nrrd -m {MODEL} -o maps --device cpu": "itk",
        f"predict -i nifti/imagesTr/case_0_0000.nii.gz -m {MODEL} -o map.mha --device cpu": "itk",
        "convert study -o converted": "dicom",
        "dicom-seg mha/labels study -o converted": "dicom",
    }
    for (command, extra), (code, out, errors) in zip(commands.items(), run_without(folder, *commands), strict=True):
        assert (code, out) == (2, ""), (command, out, errors)
        assert errors.count("needs the package SimpleITK, which is not installed") == 1, (command, errors)
        assert errors.count("pip install") == 1 and f"[{extra}]'" in errors, (command, errors)
    for made in ("work/plan.json", "fixed", "maps", "map.mha", "converted"):
        assert not (folder / made).exists(), made


def test_nifti_does_without(folder: Path) -> None:
    commands = "check nifti --workers 0", "evaluate nifti/labelsTr nifti/labelsTr --workers 0", "info --json"
    done = run_without(folder, *commands)
    assert [code for code, _, _ in done] == [0, 0, 0], done
    assert "SimpleITK" in json.loads(done[2][1])["packages"]


def test_training_ends_before_it_begins(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The validation after it would read the files."""
    assert main(["plan", str(folder / "mha"), "-w", str(folder / "made"), "--device", "cpu", "--weights", "none"]) == 0
    assert Dataset.load(folder / "made" / "dataset.json").cases == find_dataset(folder / "mha").cases
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    capsys.readouterr()
    assert main(["train", "0", "-w", str(folder / "made"), "--device", "cpu"]) == 2
    assert "[itk]'" in capsys.readouterr().err
    assert not (folder / "made" / "runs").exists()
