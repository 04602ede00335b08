"""Every command and every Python block of README and documents runs, page by page, on small synthetic data.

A block without a language holds commands, one per line; ``python`` blocks run in one namespace per page, in a folder
where the names of the documents (DATASET, NEW_IMAGES, REFERENCE and others) exist. ``SHORTER`` and the fixture
``one_step`` have everything that is not run as it is written; ``EXEMPT`` has what is not run at all.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_balls import make_case, make_dataset
from made_dicom import write_series
from made_nnunet import MIDDLE, make_tree
from made_textures import make_images
from PIL import Image

from seg_transfer.cli.app import main as segtl
from seg_transfer.evidence import classifiers, frozen_encoders, probe
from seg_transfer.planning import folds
from seg_transfer.planning.rules import optimization
from seg_transfer.reporting import figures
from seg_transfer.reporting.server import PageServer
from seg_transfer.workflow import report

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(ROOT.glob("docs/**/*.md")))
}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)

EXEMPT = {
    r"pip install|uv venv": "installs segtl; a wheel and `make` are tested by the first run of a checkout",
    r"make (demo|test)": "takes minutes; the demo has tests of its own, and this is a part of `make test`",
    r"docker ": "needs Docker; tests/unit/test_docker.py reads the files",
    r"python (bench|tools)/": "takes minutes to hours; tests/bench and test_docs.py compare the options",
    r"segtl encoders fetch|seg_transfer\.fetch_encoders\(": "downloads; tests/unit/test_fetch.py has a server",
    r"segtl plan .*stick/resnet50": "needs the file that was downloaded",
}
"""Start of a command, or of a line of Python -> why it is not run."""
SHORTER = [
    (r"(segtl train .*?) --time-budget \w+", r"\1", "the budget is that of `one_step`"),
    (r"(segtl pretrain .*)--time-budget \w+", r"\1--time-budget 1s --batch-size 16", "seconds in place of minutes"),
    (r"pretrain\((.*)\)$", r"pretrain(\1, time_budget=1, batch_size=16)", "seconds in place of minutes"),
    (
        r"segtl (plan|check|train|summary|report|evaluate|preprocess|probe)\b(.*)",
        r"segtl \1\2 --workers 0",
        "one process",
    ),
    (r"segtl (serve|dicom-node)\b(.*)", r"segtl \1\2 --help", "test_serve.py and test_dicom_node.py start them"),
    (r"segtl (train|predict|pretrain)\b(.*)", r"segtl \1\2 --device cpu", "wherever the test runs"),
]
"""Pattern, replacement, reason: how a command or a line of Python is changed before it runs."""


@pytest.fixture
def one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold of two trains one step, whatever is asked for; a probe sees few voxels; `segtl view` ends at once.

    Classifiers are fitted with one penalty and in a few rounds.
    A report draws nothing: test_report.py looks at its drawings.
    """
    short = optimization.PlannedBudget(epochs=1, time_budget=None, steps_per_epoch=1, steps=1)
    monkeypatch.setattr(optimization, "budget", lambda *_, **__: (short, "a test"))
    make_splits = folds.make_splits
    monkeypatch.setattr(folds, "make_splits", lambda cases, **given: make_splits(cases, **given | {"folds": 2}))
    empty = figures.data_address(b"", "image/svg+xml")
    monkeypatch.setattr(figures, "as_svg", lambda _: empty)
    monkeypatch.setattr(report, "_overlay", lambda *_, **__: empty)
    monkeypatch.setattr(frozen_encoders, "RECALIBRATION_BATCHES", 1)
    monkeypatch.setattr(classifiers, "PENALTIES", (1.0,))
    monkeypatch.setattr(classifiers, "ITERATIONS", 10)
    monkeypatch.setattr(probe, "MOST_VOXELS", 200)
    monkeypatch.setattr(probe, "DRAWS", 2)
    monkeypatch.setattr(PageServer, "serve_forever", lambda self: None)
    monkeypatch.setattr("webbrowser.open", lambda address: True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the documents name."""
    root = tmp_path_factory.mktemp("named")
    make_dataset(root / "DATASET", cases=3)
    make_case(root / "DATASET", "CASE", seed=3)
    description = json.loads((root / "DATASET" / "dataset.json").read_text()) | {"numTraining": 4}
    (root / "DATASET" / "dataset.json").write_text(json.dumps(description))
    make_dataset(root / "OTHER_DATASET", cases=2)
    make_case(root / "new", "IMAGE", seed=6)
    shutil.move(root / "new" / "imagesTr", root / "NEW_IMAGES")
    (root / "NEW_IMAGES" / "IMAGE_0000.nii.gz").rename(root / "NEW_IMAGES" / "IMAGE.nii.gz")
    shutil.move(root / "new" / "labelsTr", root / "REFERENCE")
    shutil.copy(root / "NEW_IMAGES" / "IMAGE.nii.gz", root)
    volume = np.random.default_rng(0).integers(0, 200, (24, 24, 8)).astype(float)
    write_series(root / "STUDY", volume, np.diag([1.0, 1.0, 2.5, 1.0]))
    make_images(root / "IMAGES", count=10)
    planned = make_tree(root, MIDDLE)
    for folder in (planned, root / "nnUNet_raw" / MIDDLE):
        folder.rename(folder.with_name("Dataset004_Hippocampus"))
    _two_channels(root / "CHANNELS")
    _cells(root / "CELLS")
    return root


def _two_channels(folder: Path) -> None:
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for number in range(2):
        draw = np.random.default_rng(number)
        label = np.zeros((24, 24, 8), np.uint8)
        label[6 : 14 + number, 8:16, 2:6] = 1
        for channel in range(2):
            image = (label * (3.0 - 5 * channel) + draw.normal(0, 1, label.shape)).astype(np.float32)
            file = folder / "imagesTr" / f"case_{number}_000{channel}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(image, np.diag([1.0, 1.0, 2.5, 1.0])), file)
        file = folder / "labelsTr" / f"case_{number}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(label, np.diag([1.0, 1.0, 2.5, 1.0])), file)
    description = json.loads(
        "{" + next(block for _, block in blocks("several_channels") if "channel_names" in block) + "}"
    )
    (folder / "dataset.json").write_text(json.dumps(description))


def _cells(folder: Path) -> None:
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(2):
        draw = np.random.default_rng(number)
        label = np.zeros((40, 40), np.uint8)
        for row, column in draw.integers(2, 30, (3, 2)):
            label[row : row + 8, column : column + 8] = 1
        image = (label * 90 + draw.normal(100, 10, label.shape)).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"well_{number:02}.png")
        Image.fromarray(label).save(folder / "labels" / f"well_{number:02}.png")


def blocks(name: str) -> list[tuple[str, str]]:
    """Language and content of the fenced blocks of a page; of a tutorial, its name suffices."""
    return BLOCK.findall(PAGES.get(name) or PAGES[f"docs/tutorials/{name}.md"])


def runs(name: str) -> list[tuple[str, str]]:
    """The blocks of a page that are to be run; those for Flower are run by test_flower.py, which needs it."""
    found = [(language, content) for language, content in blocks(name) if "from flwr" not in content]
    return [(language, content) for language, content in found if language in ("", "python")]


def is_exempt(line: str) -> bool:
    return any(re.match(start, line) for start in EXEMPT)


def shorter(line: str) -> str:
    for pattern, replacement, _ in SHORTER:
        line = re.sub(pattern, replacement, line)
    return line


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder of a page."""
    shutil.copytree(made, tmp_path / "page")
    monkeypatch.chdir(tmp_path / "page")
    yield tmp_path / "page"


@pytest.mark.parametrize("name", [name for name in PAGES if runs(name)])
@pytest.mark.usefixtures("one_thread", "one_step")
def test_a_page_runs(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"array": nibabel.load(folder / "IMAGE.nii.gz").get_fdata()}
    for language, content in runs(name):
        lines = [line for line in content.splitlines() if not is_exempt(line)]
        if language == "python":
            exec(compile("\n".join(map(shorter, lines)), name, "exec"), names)
            continue
        for line in lines:
            if "OTHER_WORK" in line:
                shutil.copytree("segtl-work", "OTHER_WORK")
            words = shlex.split(shorter(line))
            assert words[0] == "segtl", f"neither run nor exempt: {line}"
            code = segtl(words[1:])
            assert code == 0, f"{line}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("start", EXEMPT)
def test_what_is_exempt_is_still_there(start: str) -> None:
    assert any(re.match(start, line) for name in PAGES for _, content in runs(name) for line in content.splitlines())


def test_commands_are_found() -> None:
    found = [
        line for name in PAGES for _, content in runs(name) for line in content.splitlines() if not is_exempt(line)
    ]
    assert sum(line.startswith("segtl ") for line in found) > 50
    assert sum("seg_transfer." in line for line in found) > 15
