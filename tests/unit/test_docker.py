"""The images' lock files hold what the package needs, and the Dockerfiles name files that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = ("Dockerfile", "Dockerfile.cuda")


def locked(name: str) -> dict[str, list[Requirement]]:
    """Pinned requirements of a lock file by normalized name; several where markers choose between versions."""
    found: dict[str, list[Requirement]] = {}
    for line in (DOCKER / name).read_text(encoding="utf-8").splitlines():
        if "==" in line:
            requirement = Requirement(line.removesuffix("\\").strip())
            found.setdefault(requirement.name.lower().replace("_", "-"), []).append(requirement)
    return found


def needed() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["itk"])]


@pytest.mark.parametrize("torch", ["torch-cpu.txt", "torch-cuda.txt"])
def test_every_dependency_is_locked_at_a_version_that_the_package_accepts(torch: str) -> None:
    pins = locked("requirements.txt") | locked(torch)
    for requirement in needed():
        versions = [str(pin.specifier).removeprefix("==") for pin in pins[requirement.name.lower()]]
        assert versions and all(requirement.specifier.contains(version) for version in versions), requirement


def test_both_images_have_the_same_torch() -> None:
    cpu, cuda = locked("torch-cpu.txt"), locked("torch-cuda.txt")
    assert {name: str(pins[0].specifier) for name, pins in cpu.items()} == {
        name: str(cuda[name][0].specifier) for name in ("torch", "torchvision")
    }


@pytest.mark.parametrize("name", ["requirements.txt", "torch-cuda.txt"])
def test_everything_is_locked_by_hash(name: str) -> None:
    entries = re.split(r"\n(?=\S)", (DOCKER / name).read_text(encoding="utf-8").strip())
    assert all("--hash=sha256:" in entry for entry in entries if not entry.startswith("#"))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_an_image_copies_is_there_and_not_kept_from_it(name: str) -> None:
    lines = (DOCKER / name).read_text(encoding="utf-8").splitlines()
    copied = [word for line in lines if line.startswith("COPY docker/") for word in line.split()[1:-1]]
    assert copied and all((ROOT / path).is_file() for path in copied)
    assert "!docker" in (ROOT / ".dockerignore").read_text(encoding="utf-8").split()


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_run_segtl_and_not_as_root(name: str) -> None:
    lines = (DOCKER / name).read_text(encoding="utf-8").splitlines()
    last = lines[max(index for index, line in enumerate(lines) if line.startswith("FROM")) :]
    users = [line.split()[1] for line in last if line.startswith("USER")]
    assert users and users[-1] not in ("0", "root")
    assert 'ENTRYPOINT ["segtl"]' in last
