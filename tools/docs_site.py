"""Hooks of mkdocs: pages that are generated from the code, and files of the repository's root as pages.

``reference/commands.md`` and ``reference/python.md`` are made from the options types and docstrings whenever the site
is built. Links to files of the repository that are no page of the site lose their link here.
"""

from __future__ import annotations

import inspect
import posixpath
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import seg_transfer
from seg_transfer.cli.app import commands
from seg_transfer.evaluation.metrics import metrics_help
from seg_transfer.options.base import Command, Options, bounds_of, cli_of, fields_of, flag_of
from seg_transfer.version import VERSION

ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
"""File of the repository's root -> its page."""
LINK = re.compile(r"(!?)\[([^\]]+)\]\(([^)\s]+)\)")


def commands_page() -> str:
    """All commands with their options, as Markdown."""
    parts = ["# Commands", f"segtl {VERSION}. Made from the types of the options."]
    return "\n\n".join([*parts, *(_command(entry, kind) for entry, kind in commands())]) + "\n"


def python_page() -> str:
    """All functions of the package with signature and docstring, as Markdown."""
    intro, _, example = inspect.cleandoc(seg_transfer.__doc__ or "").partition("Example:\n")
    shown = re.sub(r"^\s*>>> ?", "", example, flags=re.MULTILINE).strip()
    parts = ["# Python", intro.strip(), f"```python\n{shown}\n```"]
    for name in sorted(seg_transfer.__all__, key=str.lower):
        parts.append(_python(name, getattr(seg_transfer, name)))
    return "\n\n".join(parts) + "\n"


def _command(entry: Command, kind: type[Options]) -> str:
    called = " ".join(filter(None, ["segtl", entry.group, entry.name]))
    fields = fields_of(kind)
    arguments = [flag_of(kind, name) for name, field in fields.items() if cli_of(field).argument]
    rows = [_row(kind, name) for name in fields]
    table = "\n".join(["| option | value | default | |", "|---|---|---|---|", *rows])
    epilog = _plain(entry.epilog.replace("{metrics}", metrics_help()))
    usage = f"```text\n{' '.join([called, *arguments])} [OPTIONS]\n```"
    return "\n\n".join([f"## {called}", entry.help, usage, table, epilog])


def _row(kind: type[Options], name: str) -> str:
    field = kind.model_fields[name]
    cli = cli_of(field)
    switch = field.annotation in (bool, bool | None)
    flags = flag_of(kind, name) if cli.argument else cli.flags or f"--{name.replace('_', '-')}"
    if switch and field.default is not False and not cli.argument:
        flags += f"/--no-{flags.removeprefix('--')}"
    shown = ", ".join(f"`{flag}`" for flag in flags.split("/"))
    value = "" if switch else _value(field)
    default = "required" if field.is_required() else _default(field.default, switch)
    repeated = " Repeatable." if cli.repeated and "epeatable" not in (field.description or "") else ""
    return f"| {shown} | {value} | {default} | {_cell(field.description or '')}{repeated} |"


def _value(field: Any) -> str:
    choices = _choices(field.annotation)
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    limits = [f"{sign} {limit:g}" for name, sign in _SIGNS.items() if (limit := bounds_of(field).get(name)) is not None]
    return " ".join(filter(None, [cli_of(field).metavar or "", f"({', '.join(limits)})" if limits else ""]))


_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _choices(annotation: Any) -> list[str]:
    """Texts that a type of literals allows, in the order of the type; none for another type."""
    if isinstance(annotation, str):
        return [annotation]
    kinds = get_args(annotation) if get_origin(annotation) is not None else ()
    found = [choice for kind in kinds if isinstance(kind, str) or _is_literal(kind) for choice in _choices(kind)]
    return found if _is_literal(annotation) or len(found) > 1 else []


def _is_literal(annotation: Any) -> bool:
    return get_origin(annotation) is Literal


def _default(default: Any, switch: bool) -> str:
    if default is None or default in ((), {}, ""):
        return ""
    if switch:
        return "on" if default else "off"
    return f"`{default}`"


def _python(name: str, member: Any) -> str:
    methods = [(name, member)]
    if inspect.isclass(member):
        methods += [(f"{name}.{key}", getattr(member, key)) for key in vars(member) if _is_public(member, key)]
    parts = [f"## {name}"]
    for called, function in methods:
        parts.append(f"```text\n{_signature(called, function)}\n```")
        parts.append(_docstring(inspect.getdoc(function) or ""))
    return "\n\n".join(parts)


def _is_public(kind: type, key: str) -> bool:
    return key == "__call__" or (not key.startswith("_") and callable(getattr(kind, key)))


def _signature(name: str, function: Any) -> str:
    """The call with names and defaults, one parameter a line where it is long; types stand in the descriptions."""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for key, parameter in inspect.signature(function).parameters.items()
        if key != "self"
    ]
    texts = [re.sub(r"PosixPath\(('[^']*')\)", r"\1", str(parameter)) for parameter in parameters]
    keyword = next((at for at, one in enumerate(parameters) if one.kind is one.KEYWORD_ONLY), None)
    if keyword is not None and not any(one.kind is one.VAR_POSITIONAL for one in parameters):
        texts.insert(keyword, "*")
    called = f"seg_transfer.{name.removesuffix('.__call__')}"
    if name.endswith(".__call__"):
        called = name.partition(".")[0].lower()
    line = f"{called}({', '.join(texts)})"
    return line if len(line) <= 90 else "\n".join([f"{called}(", *(f"    {text}," for text in texts), ")"])


def _docstring(text: str) -> str:
    """A Google docstring as Markdown: its sections as bold words, their entries as lists."""
    parts: list[str] = []
    section = ""
    for line in text.splitlines():
        entry = re.match(r"    (\*{0,2}\w[\w.]*): (.*)", line)
        if heading := re.fullmatch(r"(Args|Returns|Raises|Attributes|Example|Examples|Yields):", line):
            section = heading[1]
            parts += ["", f"**{'Arguments' if section == 'Args' else section}**", ""]
        elif section in ("Args", "Raises", "Attributes") and entry:
            parts.append(f"- `{entry[1]}`: {entry[2]}")
        elif section and line.strip():
            parts.append(f"  {line.strip()}" if section in ("Args", "Raises", "Attributes") else line.strip())
        else:
            parts.append(line)
    return _plain("\n".join(parts))


def _plain(text: str) -> str:
    """Markup of Rich and references of Sphinx as Markdown."""
    text = re.sub(r"\[bold\](.*?)\[/\]", r"`\1`", text)
    text = re.sub(r":\w+:`~?(?:seg_transfer\.)?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages and those of the repository's root."""
    from mkdocs.structure.files import File

    root = Path(config.config_file_path).parent
    made = {"reference/commands.md": commands_page(), "reference/python.md": python_page()}
    made |= {page: (root / name).read_text(encoding="utf-8") for name, page in ROOT_PAGES.items()}
    for page, content in made.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Keep browsers from breaking options after their hyphens."""

    def whole(code: re.Match[str]) -> str:
        return re.sub(r"(?<![\w-])--?[a-z][\w-]*", r'<span class="option">\g<0></span>', code[0])

    return re.sub(r"<code>[^<\n]*</code>", whole, html)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead links of the repository's files to pages of the site."""
    source = page.file.src_uri
    from_root = {made: name for name, made in ROOT_PAGES.items()}
    folder = "" if source in from_root else posixpath.dirname(f"docs/{source}")

    def lead(link: re.Match[str]) -> str:
        picture, text, address = link.groups()
        if "://" in address or address.startswith("#"):
            return link[0]
        path, _, anchor = address.partition("#")
        path = posixpath.normpath(posixpath.join(folder, path))
        target = ROOT_PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if target is None or files.get_file_from_path(target) is None:
            return text
        near = posixpath.relpath(target, posixpath.dirname(source) or ".")
        return f"{picture}[{text}]({near}{'#' + anchor if anchor else ''})"

    blocks = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(_flow_table(block) if block.startswith("```") else LINK.sub(lead, block) for block in blocks)


def _flow_table(block: str) -> str:
    """A flow chart as a table of its arrows, since the script that draws it would come from elsewhere."""
    if not block.startswith("```mermaid"):
        return block
    names: dict[str, str] = {}
    rows = ["| from | by | to |", "|---|---|---|"]
    for line in block.splitlines():
        if arrow := re.fullmatch(r"\s*(\w+)(\W.*?)? -->\|([^|]+)\| (\w+)(.*)", line):
            for node, label in ((arrow[1], arrow[2]), (arrow[4], arrow[5])):
                names[node] = (label or "").strip('[]()"') or names.get(node, node)
            rows.append(f"| {names[arrow[1]]} | `{arrow[3].strip(chr(34))}` | {names[arrow[4]]} |")
    return "\n".join(["", *rows, ""])
