"""Layers: a module imports only from its own and those above, and never in a circle; upper layers need no torch."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "seg_transfer"

# From top to bottom; a layer may import from itself and from every layer above it.
LAYERS = [
    "version",
    "errors",
    "util",
    "options",
    "data",
    "catalogue",
    "planning",
    "preprocessing",
    "transfer",
    "network",
    "training",
    "inference",
    "nnunet",
    "portable",
    "evidence",
    "evaluation",
    "reporting",
    "exporting",
    "pretraining",
    "workflow",
    "serving",
    "demo",
    "cli",
    "__main__",
]
WITHOUT_TORCH = LAYERS[: LAYERS.index("preprocessing")]
DEVICES = Path("util/environment.py")
"""Imports torch, inside the functions that need a device; commands that need none never call these."""
HEAVY = {"torch", "torchvision", "timm", "monai", "lightning_fabric"}

MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def layer_of(module: Path) -> str:
    return module.parts[0].removesuffix(".py")


def imported_names(module: Path) -> set[str]:
    """Everything imported anywhere in the file, with its module, inside functions too, type-checking left out."""
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
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_imports_only_from_layers_above(module: Path) -> None:
    assert layer_of(module) in LAYERS, f"{module} is in no known layer"
    mine = LAYERS.index(layer_of(module))
    for name in imported_names(module):
        parts = name.split(".")
        if parts[0] == "seg_transfer" and len(parts) > 1 and parts[1] in LAYERS:
            assert LAYERS.index(parts[1]) <= mine, f"{module} imports {name}, which lies below it"


def module_name(module: Path) -> str:
    return ".".join((PACKAGE.name, *module.with_suffix("").parts)).removesuffix(".__init__")


def test_no_module_imports_itself_through_others() -> None:
    imported = {module_name(module): imported_names(module) for module in MODULES}
    imports = {
        importer: {name if name in imported else name.rpartition(".")[0] for name in names} & imported.keys()
        for importer, names in imported.items()
    }
    TopologicalSorter(imports).prepare()  # raises with the circle


@pytest.mark.parametrize("module", [m for m in MODULES if layer_of(m) in WITHOUT_TORCH and m != DEVICES], ids=str)
def test_the_upper_layers_need_no_torch(module: Path) -> None:
    assert not {name.split(".")[0] for name in imported_names(module)} & HEAVY
