"""The report: what is in it at each state of a work folder, that names stay text, and how a browser shows it."""

from __future__ import annotations

import shutil
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import browser, console_errors, distinct_colours, needs_chromium, requested
from made_balls import LABELS, make_dataset
from made_discs import write_discs
from made_work import add_run, ball_plan, make_work
from PIL import Image

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import UserError
from seg_transfer.evaluation.comparison import compare
from seg_transfer.evaluation.score_files import evaluate_files
from seg_transfer.evaluation.scores import Scores
from seg_transfer.planning.examine import examine
from seg_transfer.workflow import report as reporting
from seg_transfer.workflow.output_files import PAGE, check_output
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.usefixtures("one_thread")

HOSTILE = "case_0$x^$<img src=x onerror=alert(1)>&`'\"`"


def half(labels: np.ndarray) -> None:
    """Predict one half only."""
    labels[labels.shape[0] // 2 :] = 0


def most(labels: np.ndarray) -> None:
    labels[: labels.shape[0] // 3] = 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    """A work folder with two validated folds; one case has a name that would be markup."""
    root = tmp_path_factory.mktemp("report")
    data = make_dataset(root / "balls")
    for folder, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (data / folder / f"case_0{ending}").rename(data / folder / f"{HOSTILE}{ending}")
    work = make_work(root / "work", data)
    dataset = Dataset.load(work.dataset)
    examine(dataset, workers=0).fingerprint().save(work.fingerprint)
    add_run(work, ball_plan(dataset, "2.5d"), predict=half)
    return work


@pytest.fixture
def work(made: WorkFolder, tmp_path: Path) -> WorkFolder:
    return WorkFolder(Path(shutil.copytree(made.path, tmp_path / "work")))


@pytest.fixture(scope="module")
def written(made: WorkFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seg_transfer.report(tmp_path_factory.mktemp("page") / "new" / "page.html", work=made.path, workers=0)


class Page(HTMLParser):
    """Tags with their attributes, and text by the anchor of its section."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {"": ""}
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "section":
            self.sections[dict(attributes)["id"] or ""] = ""

    def handle_data(self, text: str) -> None:
        self.sections[list(self.sections)[-1]] += " ".join(text.split()) + " "

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_everything_is_in_one_file(written: Path, made: WorkFolder) -> None:
    check_output(written, PAGE)  # an earlier one may be replaced
    page = Page(written)
    assert list(page.sections) == ["", "data", "plan", "training", "scores", "cases", "viewer", "evidence"]
    addresses = [each.get(name) or "" for _, each in page.tags for name in ("src", "href") if name in each]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    scores = [Scores.load(run.scores) for run in made.plan_folder(made.load_plan()).runs if run.scores.is_file()]
    for fold in scores:
        for case in fold.cases:
            assert case in page.sections["scores"] and case in page.sections["cases"]
            assert f"{fold.case_dice(case):.3f}" in page.sections["scores"]
    assert "4 of 4 cases held out" in page.sections[""]
    assert len([image for image in page.of("img") if (image["src"] or "").startswith("data:image/jpeg")]) == 4
    for reason in made.load_plan().reasons:
        assert reason.reason.split()[0] in page.sections["plan"]
    assert written.stat().st_size < 6e6


def test_names_stay_text(written: Path) -> None:
    page = Page(written)
    assert HOSTILE in page.sections["scores"] and HOSTILE in page.sections["cases"]
    assert not [each for _, each in page.tags if "onerror" in each]
    assert {image["src"] for image in page.of("img")} and all(image.get("alt") for image in page.of("img"))


def test_before_any_training(work: WorkFolder) -> None:
    shutil.rmtree(work.runs)
    page = Page(seg_transfer.report(work=work.path))
    assert list(page.sections) == ["", "data", "plan", "training", "evidence"]
    assert "segtl train 0" in page.sections["training"] and "--control" in page.sections["evidence"]


def test_what_cannot_be_read_is_left_out(work: WorkFolder, caplog: pytest.LogCaptureFixture) -> None:
    dataset = Dataset.load(work.dataset)
    gone = dataset.cases[1]
    moved = gone.images[0].with_name("moved")
    gone.images[0].rename(moved)
    try:
        page = Page(seg_transfer.report(work=work.path, workers=0))
    finally:
        moved.rename(gone.images[0])
    assert gone.id in page.sections["scores"] and gone.id not in page.sections["cases"]
    assert f"{gone.id} is not drawn" in caplog.text


def test_control_and_comparison(work: WorkFolder, made: WorkFolder, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(work, ball_plan(Dataset.load(work.dataset), "2d"), predict=most)
    run = work.plan_folder(work.load_plan()).run(0)
    scores = Scores.load(run.scores)
    compare([scores], [scores], strategies=("gradual", "scratch")).save(run.control)
    assert main(["report", "-w", str(work.path), "--compare", str(made.path), "--workers", "0"]) == 0
    assert capsys.readouterr().out.split() == [str(work.path / "report.html")]
    page = Page(work.path / "report.html")
    assert "fold_0: The start of gradual made no significant difference" in page.sections["evidence"]
    told = page.sections["comparison"]
    own, other = dice_of(work), dice_of(made)
    mean = np.mean([own[case] - other[case] for case in own])
    assert f"{mean:+.3f} mean Dice over 4 cases" in told and "signed-rank" in told
    assert all(f"{own[case] - other[case]:+.3f}" in told for case in own)


def dice_of(work: WorkFolder) -> dict[str, float]:
    """Held-out case -> mean Dice, of the current plan."""
    runs = [run for run in work.plan_folder(work.load_plan()).runs if run.scores.is_file()]
    return {
        case: scores.case_dice(case) for run in runs for scores in [Scores.load(run.scores)] for case in scores.cases
    }


def test_2d_images(tmp_path: Path) -> None:
    """Colour images of pixels have one plane and no depth."""
    work = tmp_path / "work"
    data = tmp_path / "data"
    random = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (data / folder).mkdir(parents=True)
    for index in range(4):
        Image.fromarray(random.integers(0, 255, (48, 40, 3), np.uint8)).save(data / "images" / f"{index}.png")
        Image.fromarray(np.pad(np.ones((20, 20), np.uint8), ((8, 20), (10, 10)))).save(data / "labels" / f"{index}.png")
    seg_transfer.plan(data, work=work, epochs=1, folds=2, device="cpu")
    assert list(Page(seg_transfer.report(work=work)).sections) == ["", "data", "plan", "training", "evidence"]


def test_objects_are_drawn_as_their_label(tmp_path: Path) -> None:
    """Label files that number objects: number 2 is no other label, and a prediction that numbers otherwise no error."""
    data = write_discs(tmp_path / "data", range(2))
    plan = seg_transfer.plan(data, work=tmp_path / "work", epochs=1, device="cpu", workers=0)
    drawn = []
    for name, swap in (("same", {}), ("swapped", {1: 2, 2: 1})):
        (tmp_path / name).mkdir()
        files = {}
        for label in sorted((data / "labelsTr").iterdir()):
            numbers = np.asarray(Image.open(label))
            Image.fromarray(np.vectorize(lambda n, swap=swap: swap.get(n, n))(numbers).astype(np.uint8)).save(
                tmp_path / name / label.name
            )
            files[label.stem] = tmp_path / name / label.name, label
        scores = evaluate_files(files, labels=plan.data.scored, instances=True)
        found = reporting._Scored(scores, dict.fromkeys(files, "fold 0"), dict.fromkeys(files, tmp_path / name))
        drawn.append(reporting._draw(found, Dataset.load(tmp_path / "work" / "dataset.json"), plan, 0))
    assert [each.alt for each in drawn[0]] and drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda work: {"output": work.path}, "folder"),
        (lambda work: {"compare": work.path / "missing"}, "plan"),
        (lambda work: shutil.rmtree(work.runs) or {"compare": work.path}, "validated"),
        (lambda work: work.fingerprint.unlink() or {}, "fingerprint"),
        (lambda work: work.plan.write_text("{") and {}, "plan"),
    ],
)
def test_errors_leave_no_page(work: WorkFolder, change: Any, message: str) -> None:
    options = change(work)
    with pytest.raises(UserError, match=message):
        seg_transfer.report(work=work.path, **options)
    assert not list(work.path.glob("*.html"))


@needs_chromium
@pytest.mark.parametrize("width", [1400, 390])
def test_in_a_browser(written: Path, width: int) -> None:
    with browser(width) as driver:
        driver.get(written.as_uri())
        long_name = "document.querySelector('#viewer-case option').textContent = 'case_'.repeat(50)"
        driver.execute_script(long_name)
        assert driver.execute_script("return document.documentElement.scrollWidth") == width
        heads = driver.find_elements("css selector", "table.sortable th[scope=col] button")
        heads[2].click()
        assert _column(driver, 2) == sorted(_column(driver, 2))
        heads[2].click()
        assert _column(driver, 2) == sorted(_column(driver, 2), reverse=True)
        assert driver.find_element("css selector", "th[aria-sort]").get_attribute("aria-sort") == "descending"
        dates = ["2024-01-03", "2024-01-01", "2024-01-02", "2023-12-31"]
        cells = driver.find_elements("css selector", "table.sortable tbody th")
        driver.execute_script(
            "arguments[0].forEach((cell, i) => { cell.textContent = arguments[1][i]; })", cells, dates
        )
        heads[0].click()
        assert _names(driver) == sorted(dates)
        for control in driver.find_elements("css selector", "main button, main select, main canvas, main input"):
            assert control.accessible_name, control.get_attribute("outerHTML")
        if width > 600:
            shows_the_viewer(driver)
        assert console_errors(driver) == []
        assert requested(driver) == [written.as_uri()]


def shows_the_viewer(driver: Any) -> None:
    canvas = driver.find_element("id", "viewer-canvas")
    driver.execute_script("arguments[0].scrollIntoView()", canvas)
    driver.find_element("id", "viewer-show").click()
    _wait(driver, lambda: canvas.get_attribute("data-shown"))
    assert distinct_colours(driver, canvas) > 50, "grey values and labels"
    legend = driver.find_elements("css selector", "#viewer-legend li")
    assert [entry.text for entry in legend] == list(LABELS)[1:]
    assert "(worst)" in driver.find_element("id", "viewer-state").text


def _column(driver: Any, column: int) -> list[str]:
    cells = driver.find_elements("css selector", f"table.sortable tbody tr :nth-child({column + 1})")
    return [cell.text for cell in cells]


def _names(driver: Any) -> list[str]:
    return [cell.text for cell in driver.find_elements("css selector", "table.sortable tbody th")]


def _wait(driver: Any, found: Any) -> None:
    end = time.monotonic() + 60
    while not found():
        assert time.monotonic() < end, driver.find_element("id", "viewer-state").text
        time.sleep(0.2)
