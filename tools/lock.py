"""Write the Docker images' lock files from pyproject.toml: ``python tools/lock.py`` (needs uv and a package index).

``requirements.txt`` is everything but PyTorch, with the extra itk, with hashes; ``torch-cuda.txt`` PyTorch with its
CUDA libraries, with hashes; ``torch-cpu.txt`` the same versions of torch and torchvision, whose CPU builds have other
hashes.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
PAIR = ("torch", "torchvision")
OF_TORCH = re.compile(r"(torch|torchvision|triton|nvidia-.*|cuda-.*)==")
BUILD = "setuptools>=77\nwheel\n"


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes"]
    command += ["--extra", "itk", "--no-annotate", "--no-header", str(ROOT / "pyproject.toml"), "-"]
    found = subprocess.run(command, input=BUILD, capture_output=True, text=True, check=True).stdout
    entries = [entry.strip() for entry in re.split(r"\n(?=\S)", found)]
    pair = [entry.split()[0] for entry in entries if entry.split("==")[0] in PAIR]
    _write("requirements.txt", [entry for entry in entries if not OF_TORCH.match(entry)])
    _write("torch-cuda.txt", [entry for entry in entries if OF_TORCH.match(entry)])
    _write("torch-cpu.txt", pair)


def _write(name: str, entries: list[str]) -> None:
    (DOCKER / name).write_text("# Made by tools/lock.py.\n" + "\n".join(entries) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
