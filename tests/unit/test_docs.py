"""The documents keep their form: short log entries, links and paths that exist, one vocabulary."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest
from test_architecture import LAYERS

from seg_transfer.evaluation.metrics import METRICS
from seg_transfer.options.choices import StrategyName
from seg_transfer.util.records import JsonRecord

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
}
LOG, GLOSSARY = DOCUMENTS["docs/log.md"], DOCUMENTS["docs/glossary.md"]
MOST_WORDS = 60
TERMS = set(re.findall(r"^- \*\*([^*]+)\*\*: \S", GLOSSARY, flags=re.MULTILINE))
WORDS_NOT_USED = [
    word.strip()
    for row in re.findall(r"^\| (\w[^|]*) \| [^|]+ \|$", GLOSSARY.partition("## Words not used")[2], flags=re.MULTILINE)
    for word in row.split(",")
    if word != "not"
]
STRATEGIES = {*get_args(StrategyName), "classic", "race"}
SHARED_OPTIONS = (ROOT / "bench" / "runner.py").read_text(encoding="utf-8")
RECORD_MODULES = [
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for path in (ROOT / "seg_transfer").rglob("*.py")
    if "(JsonRecord)" in path.read_text(encoding="utf-8")
]


def entries(text: str) -> dict[str, str]:
    """Heading -> what stands below it, of the sections of a document."""
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)[1:]
    assert len(set(parts[::2])) == len(parts[::2]), "two headings are the same"
    return dict(zip(parts[::2], parts[1::2], strict=True))


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("heading", entries(LOG))
def test_log_entries_are_dated_and_short(heading: str) -> None:
    lines = entries(LOG)[heading].splitlines()
    tables = [line for line in lines if line.startswith("|--")]
    words = [word for line in lines if not line.startswith("|") for word in line.split()]
    assert re.match(r"20\d\d-[01]\d-[0-3]\d: \S", heading)
    assert 0 < len(words) <= MOST_WORDS
    assert len(tables) <= 1


def test_log_is_newest_first() -> None:
    dates = [heading.partition(":")[0] for heading in entries(LOG)]
    assert dates == sorted(dates, reverse=True)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_resolve(name: str) -> None:
    for path, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", DOCUMENTS[name]):
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{path}#{anchor}"


@pytest.mark.parametrize("name", sorted(set(DOCUMENTS) - {"docs/log.md"}))  # the log names files of earlier commits
def test_paths_exist(name: str) -> None:
    named = re.findall(r"\b(?:seg_transfer|tests|bench|tools|plans|docker)/[\w./*{},-]*\w", DOCUMENTS[name])
    assert [path for path in named if "NAME" not in path and not any(ROOT.glob(path))] == []


@pytest.mark.parametrize("name", sorted(set(DOCUMENTS) - {"docs/log.md"}))
def test_options_of_scripts_exist(name: str) -> None:
    for folder, script, arguments in re.findall(r"python (bench|tools)/(\w+\.py)([^`\n]*)", DOCUMENTS[name]):
        code = (ROOT / folder / script).read_text(encoding="utf-8") + SHARED_OPTIONS
        for option in re.findall(r"--[\w-]+", arguments):
            assert f'"{option}"' in code, f"{script} has no {option}"


def test_glossary_has_the_terms_of_plans_and_scores() -> None:
    known = {term.lower() for term in TERMS}
    assert known >= {*STRATEGIES, "stage", "patch", "current plan", "run", "preprocessed store", "evidence", "hint"}
    assert known >= {metric.replace("_", " ") for metric in METRICS}


def test_architecture_has_the_version_of_every_file() -> None:
    stated = re.findall(r"\(`(\w+)`\) \| (\d+) \|", DOCUMENTS["docs/architecture.md"])
    records = [
        member
        for module in RECORD_MODULES
        for member in vars(import_module(module)).values()
        if isinstance(member, type) and issubclass(member, JsonRecord) and member.__module__ == module
    ]
    assert sorted(stated) == sorted((record.__name__, str(record.current_version())) for record in records)


def test_architecture_has_every_package() -> None:
    listed = re.findall(r"^\| `(\w+)/?` \| ", DOCUMENTS["docs/architecture.md"], flags=re.MULTILINE)
    assert [*listed, "__main__"] == LAYERS


def test_main_modules_of_packages_exist() -> None:
    rows = re.findall(r"^\| `(\w+)/` \| [^|]+ \| ([^|]+) \|$", DOCUMENTS["docs/architecture.md"], flags=re.MULTILINE)
    modules = [f"{package}/{module.rstrip('/')}" for package, cell in rows for module in re.findall(r"`([^`]+)`", cell)]
    assert len(rows) == len(LAYERS) - 3  # version, errors and __main__ are modules
    package = ROOT / "seg_transfer"
    assert [one for one in modules if not (package / f"{one}.py").is_file() and not (package / one).is_dir()] == []


def test_glossary_defines_each_term_once() -> None:
    defined = re.findall(r"^- \*\*([^*]+)\*\*", GLOSSARY, flags=re.MULTILINE)
    assert len(defined) == len(set(defined)) == len(TERMS)


@pytest.mark.parametrize("name", sorted(set(DOCUMENTS) - {"docs/glossary.md"}))
def test_documents_keep_to_the_vocabulary(name: str) -> None:
    assert WORDS_NOT_USED
    prose = re.sub(r"--[\w-]+", "", DOCUMENTS[name])  # without options
    found = [word for word in WORDS_NOT_USED if re.search(rf"\b{word}s?\b", prose, flags=re.IGNORECASE)]
    assert found == []
