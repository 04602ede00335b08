"""A missing package of an extra ends in one error with the command that installs the extra."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from seg_transfer.cli.app import main
from seg_transfer.errors import UserError
from seg_transfer.util.extras import PACKAGES, check_extra

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def distributions() -> Mapping[str, list[str]]:
    """What is installed: names of imports -> names of distributions."""
    return metadata.packages_distributions()


@pytest.mark.parametrize("extra", PACKAGES)
def test_an_extra_installs_what_is_imported_of_it(extra: str, distributions: Mapping[str, list[str]]) -> None:
    """Import names and names of distributions differ; which belong together is read from what is installed."""
    required = {canonicalize_name(Requirement(text).name) for text in PROJECT["optional-dependencies"][extra]}
    for name in PACKAGES[extra]:  # type: ignore[index]
        assert required & set(map(canonicalize_name, distributions[name])), name


def test_developers_get_every_extra() -> None:
    (every,) = [
        text for text in map(Requirement, PROJECT["optional-dependencies"]["dev"]) if text.name == PROJECT["name"]
    ]
    assert every.extras == set(PROJECT["optional-dependencies"]) - {"dev"}


def test_an_extra_that_is_installed_passes() -> None:
    check_extra("onnx", "writing ONNX")


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError) as raised:
        check_extra("onnx", "writing ONNX", where="--onnx")
    assert str(raised.value) == (
        "--onnx: writing ONNX needs the package onnx, which is not installed\n"
        f"  hint: install it: pip install '{PROJECT['name']}[onnx]'"
    )


def test_a_package_that_cannot_be_imported_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnx.py").write_text("import a_library_that_is_gone")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnx", raising=False)
    with pytest.raises(UserError, match="onnx, which cannot be imported: No module named 'a_library_that_is_gone'"):
        check_extra("onnx", "writing ONNX")


def test_a_command_ends_before_it_writes_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    monkeypatch.chdir(tmp_path)
    assert main(["dicom-seg", "labels", "study", "-o", "out"]) == 2
    shown = capsys.readouterr().err
    assert re.search(r"needs the package highdicom.*\n.*\[dicom\]'", shown), shown
    assert not (tmp_path / "out").exists()
