"""The house: a module imports only from rooms above its own, and the upper rooms need no torch."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "seg_transfer"

# From top to bottom; a room may import from itself and from every room above it.
ROOMS = [
    "errors",
    "files",
    "units",
    "progress",
    "parallel",
    "interval",
    "data",
    "catalogue",
    "planning",
    "modelfile",
    "preprocessing",
    "transfer",
    "network",
    "training",
    "inference",
    "evidence",
    "evaluation",
    "portable",
    "environment",
    "workdir",
    "choice",
    "measuring",
    "validation",
    "control",
    "ensembles",
    "status",
    "api",
    "demo",
    "show",
    "cli_options",
    "cli_encoders",
    "cli_models",
    "cli_probe",
    "cli",
    "__main__",
]
WITHOUT_TORCH = ROOMS[: ROOMS.index("preprocessing")]
HEAVY = {"torch", "torchvision", "timm", "monai", "lightning_fabric"}

MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(module: Path) -> str:
    return module.parts[0].removesuffix(".py")


def imported_names(module: Path) -> set[str]:
    """Every module imported anywhere in the file, those inside functions included, type-checking ones left out."""
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_imports_only_from_rooms_above(module: Path) -> None:
    assert room_of(module) in ROOMS, f"{module} is in no known room"
    mine = ROOMS.index(room_of(module))
    for name in imported_names(module):
        parts = name.split(".")
        if parts[0] == "seg_transfer" and len(parts) > 1 and parts[1] in ROOMS:
            assert ROOMS.index(parts[1]) <= mine, f"{module} imports {name}, which lies below it"


@pytest.mark.parametrize("module", [m for m in MODULES if room_of(m) in WITHOUT_TORCH], ids=str)
def test_the_upper_rooms_need_no_torch(module: Path) -> None:
    assert not {name.split(".")[0] for name in imported_names(module)} & HEAVY
