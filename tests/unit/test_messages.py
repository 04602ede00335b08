"""``tools/messages.py`` lists what a user can see."""

from __future__ import annotations

from pathlib import Path

import messages

SOURCE = """
def check(path, count):
    hint = "free some space" if count else f"add {count:g} images"
    if count:
        raise UserError("is too " + "large", where=path, hint=hint)
    logger.warning(f"{path!r} is left out")
    logger.warning(count)
    log("not seen")
    raise ValueError("must be a name")
"""


def test_messages_are_listed_with_line_kind_and_placeholders(tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(SOURCE, encoding="utf-8")
    found = [(one.line, one.kind, one.text) for one in messages.messages(tmp_path / "made.py", root=tmp_path)]
    assert found == [
        (3, "hint", "add {count:g} images"),
        (3, "hint", "free some space"),
        (5, "error", "is too large"),
        (5, "where", "{path}"),
        (6, "log", "{path!r} is left out"),
        (7, "log", "{count}"),
        (9, "exception", "must be a name"),
    ]


def test_every_error_of_the_package_is_listed() -> None:
    files = sorted(messages.PACKAGE.rglob("*.py"))
    raised = sum(file.read_text(encoding="utf-8").count("raise UserError(") for file in files)
    listed = {(one.file, one.line) for file in files for one in messages.messages(file) if one.kind == "error"}
    assert len(listed) >= raised > 100
