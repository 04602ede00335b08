"""List every message that a user can see, with file and line, from the source's syntax trees.

    python tools/messages.py
    python tools/messages.py --kind error seg_transfer/data

Kinds: ``error`` (the text of a ``UserError``), ``where`` and ``hint`` of one, ``exception`` (other exceptions, such as
those of validators), ``log`` (log lines and warnings), ``print`` (printed lines), ``help`` (option descriptions, help
and epilogs of commands) and ``description`` (of the fields of files, as in the JSON schema). Placeholders stay as they
are written, such as ``{path}``. A variable is shown as the texts that its function assigns to it, and as a placeholder
where there are none.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "seg_transfer"
KINDS = ("error", "where", "hint", "exception", "log", "print", "help", "description")
LOG = {"debug", "info", "warning", "error", "exception", "critical", "warn"}
PRINT = {"print", "echo", "print_line"}
TITLES = {"title", "note", "help", "epilog", "description", "metavar"}


@dataclass(frozen=True, order=True)
class Message:
    """A text that a user can see.

    Attributes:
        file: Relative to the repository.
        line: Where the text starts.
        kind: One of :data:`KINDS`.
        text: With placeholders as in the source.
    """

    file: str
    line: int
    kind: str
    text: str


def messages(file: Path, root: Path = ROOT) -> list[Message]:
    """The messages of a file in the order of their lines."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    name = file.relative_to(root).as_posix()
    found = {
        Message(name, node.lineno, kind, text)
        for scope in _scopes(tree)
        for call in _own_calls(scope)
        for kind, value in _arguments(call, file)
        for node, text in list(_texts(value, scope)) or [(value, f"{{{ast.unparse(value)}}}")]
    }
    return sorted(found)


def _scopes(tree: ast.Module) -> list[ast.AST]:
    """The module and every function in it."""
    return [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))]


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope, those of the functions inside it left out."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from _own_nodes(child)


def _own_calls(scope: ast.AST) -> list[ast.Call]:
    return [node for node in _own_nodes(scope) if isinstance(node, ast.Call)]


def _arguments(call: ast.Call, file: Path) -> Iterator[tuple[str, ast.expr]]:
    """The arguments of a call that a user can see, each with its kind."""
    named = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name == "UserError":
        values = dict(zip(("error", "where", "hint"), call.args, strict=False))
        values |= {kind: named[keyword] for keyword, kind in _ERROR.items() if keyword in named}
        yield from values.items()
    elif name.endswith(("Error", "Failed")) or name in ("SystemExit", "KeyboardInterrupt"):
        yield from (("exception", value) for value in call.args)
    elif isinstance(function, ast.Attribute) and name in LOG and ast.unparse(function.value) in ("logger", "warnings"):
        yield from (("log", value) for value in call.args[:1])
    elif name in PRINT:
        yield from (("print", value) for value in call.args)
    elif name in ("Field", "Record") or "options" in file.parts:
        yield from (
            ("help" if {"options", "cli"} & set(file.parts) else "description", value)
            for keyword, value in named.items()
            if keyword in ("description", "help")
        )
    elif name == "Command":
        yield from (("help", value) for value in call.args[3:5])
    elif "cli" in file.parts or name in ("track", "meter", "map_cases"):
        yield from (("help" if keyword != "title" else "log", named[keyword]) for keyword in TITLES & named.keys())


_ERROR = {"what": "error", "where": "where", "hint": "hint"}


def _texts(value: ast.expr, scope: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """The texts that an expression can be; of a variable those that its function assigns to it."""
    if isinstance(value, ast.Name):
        for node in _own_nodes(scope):
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(target, ast.Name) and target.id == value.id for target in targets):
                assert isinstance(node, ast.Assign)
                if not isinstance(node.value, ast.Name):
                    yield from _texts(node.value, scope)
    elif isinstance(value, ast.IfExp):
        yield from _texts(value.body, scope)
        yield from _texts(value.orelse, scope)
    elif isinstance(value, ast.Constant | ast.JoinedStr | ast.BinOp) and (text := _text(value)):
        yield value, text


def _text(value: ast.expr) -> str:
    """A constant or f-string as it stands; empty where it is no text."""
    if isinstance(value, ast.Constant):
        return value.value if isinstance(value.value, str) else ""
    if isinstance(value, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else ast.unparse(ast.JoinedStr([part]))[2:-1]
            for part in value.values
        )
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        return _text(value.left) + _text(value.right)
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, default=[PACKAGE], help="files or folders; default: the package")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind; may be given several times")
    options = parser.parse_args()
    for path in options.paths:
        for file in sorted(path.resolve().rglob("*.py")) if path.is_dir() else [path.resolve()]:
            for found in messages(file):
                if not options.kind or found.kind in options.kind:
                    print(f"{found.file}:{found.line}: {found.kind}: {found.text!r}")


if __name__ == "__main__":
    main()
