"""The package as others get it: an sdist, a wheel of it, installed without network into an environment of its own.

The environment takes segtl's dependencies from the running one, so that nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_balls import make_dataset

from seg_transfer.util.extras import PACKAGES
from seg_transfer.util.units import bytes_text
from seg_transfer.version import DISTRIBUTION, VERSION

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("seg_transfer", "pyproject.toml", "README.md", "LICENSE", "NOTICE")
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
LARGEST_WHEEL = 40 * 10**6
"""Bytes; indices refuse files of more than 100 MB, and people wait for a large one."""


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without this process's Python path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | variables
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def built(kind: str, source: Path, target: Path) -> Path:
    """An archive that setuptools builds from a folder of sources."""
    target.mkdir(exist_ok=True)
    done = run(sys.executable, "-c", BUILD, f"build_{kind}", target, cwd=source)
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        one = ROOT / name
        hidden = shutil.ignore_patterns("__pycache__")
        shutil.copytree(one, source / name, ignore=hidden) if one.is_dir() else shutil.copy(one, source)
    sdist = built("sdist", source, folder / "dist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return sdist, built("wheel", unpacked, folder / "dist")


@pytest.fixture(scope="module")
def installed(archives: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of programs of an environment with the wheel."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    pip = (folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", "--no-index", "--no-deps", "--no-cache-dir", archives[1], cwd=folder.parent)
    # Only now, so that pip neither finds nor replaces what the running environment holds.
    site = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    shared = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    Path(site, "shared.pth").write_text("\n".join(shared) + "\n")
    yield folder / "bin"
    shutil.rmtree(folder)


def test_the_wheel_holds_every_file_of_the_package(archives: tuple[Path, Path]) -> None:
    sdist, wheel = archives
    print(f"\n{sdist.name}: {bytes_text(sdist.stat().st_size)}, {wheel.name}: {bytes_text(wheel.stat().st_size)}")
    assert wheel.stat().st_size < LARGEST_WHEEL
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        metadata = next(name for name in inside if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    ours = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "seg_transfer").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {name for name in inside if not name.partition("/")[0].endswith(".dist-info")} == ours
    assert {f"{metadata.partition('/')[0]}/licenses/{name}" for name in ("LICENSE", "NOTICE")} <= inside
    assert "seg_transfer/transfer/bundled/tf_efficientnet_lite0.safetensors" in inside
    assert text.count(f"\nName: {DISTRIBUTION}\nVersion: {VERSION}\n") == 1
    for extra in (*PACKAGES, "tracking"):
        assert f"Provides-Extra: {extra}\n" in text
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    assert ours | set(SOURCES) <= sources


def test_the_installed_program_plans(installed: Path, tmp_path: Path) -> None:
    segtl = installed / "segtl"
    where = "import seg_transfer; print(seg_transfer.__file__)"
    assert str(installed.parent) in run(installed / "python", "-c", where, cwd=tmp_path).stdout
    version = run(segtl, "--version", cwd=tmp_path).stdout
    assert version == f"segtl {VERSION}\n"
    assert VERSION in run(segtl, "info", cwd=tmp_path).stdout
    make_dataset(tmp_path / "data")
    made = run(segtl, "plan", "data", "--workers", "0", "--device", "cpu", "--json", cwd=tmp_path, OMP_NUM_THREADS="1")
    plan = json.loads(made.stdout)
    assert plan["model"]["weights"]["source"] == "bundled"
    assert (tmp_path / "segtl-work" / "plan.json").is_file()


def test_the_installed_package_reads_its_own_weights(installed: Path, tmp_path: Path) -> None:
    program = """
from seg_transfer.planning.plan import Weights
from seg_transfer.transfer.encoder import Encoder
from seg_transfer.transfer.weights import load_weights
encoder = Encoder("tf_efficientnet_lite0", channels=3, stages=5)
print(load_weights(encoder, Weights(source="bundled"), "tf_efficientnet_lite0"))
"""
    assert run(installed / "python", "-c", program, cwd=tmp_path, OMP_NUM_THREADS="1").stdout
