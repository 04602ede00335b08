"""`--help` answers at once: it loads neither torch nor any reader of images; so does `import seg_transfer`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from seg_transfer.cli import app as cli
from seg_transfer.evaluation.metrics import METRICS

HEAVY = (
    "numpy",
    "torch",
    "torchvision",
    "timm",
    "monai",
    "SimpleITK",
    "nibabel",
    "lightning_fabric",
    "scipy",
    "sklearn",
    "matplotlib",
)
COMMANDS = (*(one.name for one, _ in cli.commands() if not one.group), "encoders")

PROGRAM = """
import contextlib, io, json, sys
from seg_transfer.cli.app import main
said = io.StringIO()
loaded = {}
for arguments in ([], *([name] for name in sys.argv[1:])):
    with contextlib.redirect_stdout(said):
        code = main([*arguments, "--help"])
    loaded[" ".join(arguments)] = [code, sorted({name.partition(".")[0] for name in sys.modules})]
print(json.dumps([said.getvalue(), loaded]))
"""


@pytest.fixture(scope="module")
def helped() -> tuple[str, dict[str, tuple[int, list[str]]]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *COMMANDS], capture_output=True, text=True, check=True, timeout=60
    )
    return tuple(json.loads(done.stdout))


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_nothing_heavy(helped: tuple[str, dict[str, tuple[int, list[str]]]], command: str) -> None:
    code, modules = helped[1][command]
    assert code == 0
    assert not set(HEAVY) & set(modules)


def test_every_command_is_listed_with_an_example(helped: tuple[str, dict[str, tuple[int, list[str]]]]) -> None:
    for command in COMMANDS:
        assert f"segtl {command}" in helped[0]


def test_help_of_evaluate_lists_every_metric(helped: tuple[str, dict[str, tuple[int, list[str]]]]) -> None:
    for name, metric in METRICS.items():
        assert f"{name} ({metric.best:g})" in " ".join(helped[0].split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = "import sys, seg_transfer; dir(seg_transfer); print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert not set(HEAVY) & set(done.stdout.split())
