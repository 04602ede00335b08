"""Downloads the wheels that a machine without a package index lacks for ``tools/gpu_kit.sh``.

    python3 -m pip list --format=freeze > installed.txt                      on that machine
    python tools/gpu_wheels.py installed.txt wheels --python 3.12            on one that reaches an index

Requirements are followed through the wheels' own metadata; what is installed there is neither downloaded nor followed,
and its version is not asked about.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
ALSO = ("pytest",)
GLIBC = (39, 35, 34, 31, 28, 27, 26, 24, 17)


def installed_names(listing: str) -> set[str]:
    """Names in the output of ``pip list --format=freeze``, or any list with a name first on each line."""
    return {canonicalize_name(match[0]) for line in listing.splitlines() if (match := re.match(r"[\w.-]+", line))}


def requirements_of(wheel: Path, python: str) -> list[Requirement]:
    """What a wheel needs on that Python, extras left out."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        described = Parser().parsestr(archive.read(name).decode())
    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    found = map(Requirement, described.get_all("Requires-Dist", []))
    return [each for each in found if each.marker is None or each.marker.evaluate(environment)]


def download(requirement: Requirement, folder: Path, python: str) -> Path:
    """The wheel of a requirement for Linux on x86-64."""
    before = set(folder.glob("*.whl"))
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in GLIBC] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    command += ["--python-version", python, "--implementation", "cp"]
    command += [part for platform in platforms for part in ("--platform", platform)]
    subprocess.run([*command, f"{requirement.name}{requirement.specifier}"], check=True)
    return next(iter(set(folder.glob("*.whl")) - before))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("installed", type=Path, help="packages of that machine, a name first on each line")
    parser.add_argument("folder", type=Path, help="where wheels go; an empty one")
    parser.add_argument("--python", default="3.12", metavar="VERSION", help="that machine's Python")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    known = installed_names(options.installed.read_text())
    todo = [Requirement(text) for text in (*tomllib.loads(PROJECT.read_text())["project"]["dependencies"], *ALSO)]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in known:
            continue
        known.add(name)
        wheel = download(requirement, options.folder, options.python)
        print(wheel.name, f"{wheel.stat().st_size / 1e6:.1f} MB")
        todo += requirements_of(wheel, options.python)


if __name__ == "__main__":
    main()
