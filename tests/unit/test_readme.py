"""What the README and the guides tell people to type exists."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import seg_transfer
from seg_transfer.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("guide.md", "weights.md")]
TYPED = "\n".join([README, *GUIDES])
COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
SUBCOMMANDS = {"fetch"}
FOR_OTHERS = (ROOT / "docs" / "from_nnunet.md").read_text(encoding="utf-8")
SPANS = re.findall(r"`([^`\n]+)`", TYPED) + TYPED.splitlines()


@cache
def help_of(command: tuple[str, ...]) -> str:
    return CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"}).output


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)$", README, flags=re.MULTILINE))
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_commands_and_their_options_exist() -> None:
    spans = [*SPANS, *re.findall(r"`([^`\n]+)`", FOR_OTHERS)]
    typed = [span.split() for span in spans if span.split()[:1] and span.split()[0] in ("segtl", *COMMANDS)]
    assert {words[1] for words in typed if words[0] == "segtl"} >= {"plan", "train", "predict", "evaluate"}
    for words in typed:
        command = words[1] if words[0] == "segtl" else words[0]
        shown = "".join(help_of(path) for path in {(command,), (command, *SUBCOMMANDS.intersection(words))})
        for option in [word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)]:
            assert option in shown, f"segtl {command} has no {option}"


def test_options_named_by_themselves_belong_to_plan() -> None:
    shown = help_of(("plan",))
    named = {span.split()[0] for span in SPANS if span.startswith("--") and not span.startswith("--help")}
    assert named, "they name options"
    assert all(option in shown for option in named)


def test_python_functions_exist() -> None:
    called = set(re.findall(r"seg_transfer\.(\w+)(?:\.load)?\(", TYPED))
    assert called == set(seg_transfer.__all__) - {"preprocess"}


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()
