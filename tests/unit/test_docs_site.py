"""The documentation site builds without a warning, has every command and function, and loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import docs_site
import pytest
from browser import browser, console_errors, needs_chromium, requested

import seg_transfer
from seg_transfer.cli.app import commands
from seg_transfer.options.base import cli_of, fields_of, keyword_of

ROOT = Path(__file__).resolve().parents[2]
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
NOT_LOADED = {"canonical", "alternate", "edit", "next", "prev"}
"""What a `link` is that a browser does not load."""


class Loads(HTMLParser):
    """Addresses that a page makes a browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and values.get("rel") not in NOT_LOADED:
            self.found.append(values.get("href") or "")
        elif tag in LOADED:
            self.found.append(values.get(LOADED[tag]) or "")


def loads(page: str) -> list[str]:
    parser = Loads()
    parser.feed(page)
    return [address for address in parser.found if address]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("mkdocs", "material"):
        pytest.importorskip(module, reason="needs the extra segtl[docs]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "NO_MKDOCS_2_WARNING": "1", "http_proxy": "http://127.0.0.1:9"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


def test_loads_are_seen() -> None:
    page = '<link rel="stylesheet" href="https://a/b.css"><script src="//c/d.js"></script><a href="https://e">e</a>'
    assert loads(page) == ["https://a/b.css", "//c/d.js"]


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for path in pages:
        addresses = loads(path.read_text(encoding="utf-8"))
        assert any(address.endswith(".css") for address in addresses)
        elsewhere = [address for address in addresses if re.match(r"(\w+:)?//", address)]
        assert elsewhere == [], path.name
        assert 'class="mermaid"' not in path.read_text(encoding="utf-8"), "the theme loads its script from elsewhere"
    for style in site.rglob("*.css"):
        content = style.read_text(encoding="utf-8")
        assert not re.search(r"url\(\s*['\"]?(https?:)?//|@import\s+['\"]?(https?:)?//", content), style.name


def test_flow_charts_are_tables_and_options_are_not_broken(site: Path) -> None:
    page = (site / "architecture.html").read_text(encoding="utf-8")
    assert "flowchart" not in page and "<td>preprocessed store</td>\n<td><code>train_fold</code></td>" in page
    assert '<code>segtl train 0 <span class="option">--control</span></code>' in (site / "guide.html").read_text(
        "utf-8"
    )


@needs_chromium
@pytest.mark.parametrize("width", [1400, 390])
def test_pages_from_a_folder_are_searched_and_fit(site: Path, width: int) -> None:
    """Without a server, where browsers allow no workers."""
    with browser(width) as driver:
        for name in ("guide", "reference/commands", "from_nnunet"):
            driver.get((site / f"{name}.html").as_uri())
            assert driver.execute_script("return document.documentElement.scrollWidth") == width, name
        if width < 600:
            driver.find_element("css selector", "label[for=__search].md-icon").click()
        found: list[str] = []
        end = time.monotonic() + 60
        box = driver.find_element("css selector", ".md-search__input")
        while not (box.is_displayed() and box.location["x"] < width) and time.monotonic() < end:
            time.sleep(0.1)
        box.send_keys("Wilcoxon")
        while not found and time.monotonic() < end:
            time.sleep(0.1)
            links = driver.find_elements("css selector", ".md-search-result__link")
            found = [link.get_attribute("href") or "" for link in links]
        assert any("guide.html" in address for address in found), found
        assert console_errors(driver) == []
        assert all(address.startswith("file:") for address in requested(driver))


def test_links_of_the_site_lead_somewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        if path.name == "404.html":
            continue  # its links are from the server's root
        content = path.read_text(encoding="utf-8")
        for target in re.findall(r'href="([^":#?]+)(?:#[^"]*)?"', content):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_every_document_is_in_the_navigation(site: Path) -> None:
    menu = (site / "glossary.html").read_text(encoding="utf-8")
    for path in (ROOT / "docs").rglob("*.md"):
        page = path.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert f'href="{page}"' in menu, page


def test_the_reference_has_every_command_with_its_options() -> None:
    sections = docs_site.commands_page().split("\n## segtl ")[1:]
    assert len(sections) == len(list(commands()))
    for section, (entry, kind) in zip(sections, commands(), strict=True):
        assert section.splitlines()[0].split()[-1] == entry.name
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        assert len(rows) == len(fields_of(kind))
    assert "| `--config` | `auto`, `2d`, `2.5d`, `3d` | `auto` | Input of the network. |" in docs_site.commands_page()
    assert "| `-w`, `--work` | DIR | `segtl-work` | Work folder. |" in docs_site.commands_page()
    assert "| `--folds` | K (≥ 2) | `5` |" in docs_site.commands_page()


def test_the_reference_has_every_function_with_its_arguments() -> None:
    page = docs_site.python_page()
    assert re.findall(r"^## (\w+)$", page, flags=re.MULTILINE) == sorted(seg_transfer.__all__, key=str.lower)
    section = page.partition("\n## plan\n")[2].partition("\n## ")[0]
    kind = next(kind for entry, kind in commands() if entry.name == "plan")
    for name, field in fields_of(kind).items():
        assert (f"- `{keyword_of(name, field)}`: " in section) == (not cli_of(field).only), name
    assert ":func:" not in page and "[bold]" not in page
