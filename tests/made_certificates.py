"""Self-signed certificates, made with the program openssl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def openssl(folder: Path, *arguments: str) -> None:
    """Run the program in a folder; the test is skipped where there is none."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl")
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def make_certificate(folder: Path, name: str) -> Path:
    """A certificate ``name.pem`` of 127.0.0.1, with its key ``name.key`` beside it."""
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    names = ("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2")
    openssl(folder, "req", "-x509", *curve, *names, "-keyout", f"{name}.key", "-out", f"{name}.pem")
    return folder / f"{name}.pem"
