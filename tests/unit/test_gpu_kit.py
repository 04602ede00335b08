"""The kit for a machine with a GPU: what it downloads, and that its script says how to call it."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

from gpu_wheels import installed_names, requirements_of

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def test_names_are_read_from_a_list_of_installed_packages() -> None:
    listing = "torch==2.11.0+cu130\nlightning_fabric @ file:///x\n\nNumPy 2.5\n"
    assert installed_names(listing) == {"torch", "lightning-fabric", "numpy"}


def test_requirements_of_a_wheel_are_those_of_the_other_python(tmp_path: Path) -> None:
    described = "\n".join(
        [
            "Name: made",
            "Requires-Dist: numpy>=1.26",
            "Requires-Dist: tomli; python_version < '3.11'",
            "Requires-Dist: pytest; extra == 'test'",
        ]
    )
    wheel = tmp_path / "made-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("made-1.dist-info/METADATA", described)
    assert [str(each) for each in requirements_of(wheel, "3.12")] == ["numpy>=1.26"]
    assert [each.name for each in requirements_of(wheel, "3.10")] == ["numpy", "tomli"]


def test_the_script_says_how_to_call_it() -> None:
    done = subprocess.run(["sh", TOOLS / "gpu_kit.sh"], capture_output=True, text=True)
    assert done.returncode == 2 and "gpu_kit.sh test" in done.stdout and "set -eu" not in done.stdout
