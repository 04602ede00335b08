"""The notebook of the tutorials runs, and is kept without outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "first_segmentation.ipynb"


def test_it_is_kept_without_outputs_and_its_code_compiles() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert cells
    for number, cell in enumerate(cells):
        assert cell["outputs"] == [] and cell["execution_count"] is None, "clear the outputs"
        compile("".join(cell["source"]), f"cell {number}", "exec")


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "needs the extra segtl[dev]"
    nbformat, nbclient = (pytest.importorskip(name, reason=reason) for name in ("nbformat", "nbclient"))
    pytest.importorskip("ipykernel", reason=reason)
    for name, value in {
        "PYTHONPATH": str(NOTEBOOK.parents[2]),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(tmp_path),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own one shows figures as outputs
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    (budget,) = [cell for cell in cells if "time_budget=10," in cell.source]
    budget.source = budget.source.replace("time_budget=10,", "time_budget=2,")
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    printed = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    assert "Dice 0." in printed
    assert "Traceback" not in printed
    assert any("image/png" in output.get("data", {}) for output in cells[-1].outputs)
