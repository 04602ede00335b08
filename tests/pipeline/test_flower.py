"""The code of docs/federated.md averages models with Flower: a real server, and two sites in processes of their own."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made_balls import LOCAL, make_dataset
from safetensors.numpy import load_file

import seg_transfer

pytest.importorskip("flwr", reason="Flower is not installed (pip install flwr)")

pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "federated.md"
SITES = ("a", "b")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def program(name: str) -> list[str]:
    """A program of Flower, by the interpreter of the tests."""
    found = shutil.which(name)
    assert found is not None, f"{name} is not on the PATH"
    return [sys.executable, found]


class Flower:
    """Its processes; each writes a log."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, list[subprocess.Popen[bytes]]()
        self.environment = os.environ | {"FLWR_HOME": str(folder / "home"), "FLWR_TELEMETRY_ENABLED": "0"}

    def start(self, name: str, *options: str) -> None:
        with (self.folder / f"{name}-{len(self.started)}.log").open("wb") as log:
            command = [*program(name), "--insecure", *options]
            self.started.append(subprocess.Popen(command, stdout=log, stderr=log, env=self.environment))

    def run(self, app: Path, address: str, config: str) -> None:
        (self.folder / "home").mkdir(exist_ok=True)
        connection = f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{address}"\ninsecure = true\n'
        (self.folder / "home" / "config.toml").write_text(connection)
        command = [*program("flwr"), "run", str(app), "here", "--stream", "--run-config", config]
        for attempt in range(20):  # until the server answers
            done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=600)
            if "SuperLink is unavailable" not in done.stdout + done.stderr or attempt == 19:
                logs = "".join(log.read_text()[-3000:] for log in sorted(self.folder.glob("*.log")))
                assert "Exit Code" not in done.stdout + done.stderr, logs
                return

    def stop(self) -> None:
        for process in self.started:
            process.terminate()
        for process in self.started:
            process.wait(30)


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[Flower]:
    started = Flower(tmp_path)
    yield started
    started.stop()


def test_the_result_is_the_mean_of_the_sites_models(flower: Flower, tmp_path: Path) -> None:
    make_dataset(tmp_path / "all", cases=8)
    options = {**LOCAL, "evidence": False, "config": "2d", "encoder": "resnet18", "weights": "none", "epochs": 1}
    for number, site in enumerate(SITES):
        for folder in ("imagesTr", "labelsTr"):
            (tmp_path / site / folder).mkdir(parents=True)
            for file in sorted((tmp_path / "all" / folder).iterdir())[number::2]:
                shutil.copy(file, tmp_path / site / folder)
        shutil.copy(tmp_path / "all/dataset.json", tmp_path / site)
        seg_transfer.plan(tmp_path / site, work=tmp_path / f"work_{site}", **options)
        shutil.copy(tmp_path / f"work_{site}/site.json", tmp_path / f"{site}.json")
    work, start, output = tmp_path / "work_a", tmp_path / "start.segtl", tmp_path / "averaged.segtl"
    seg_transfer.plan(tmp_path / "a", work=work, with_sites=[tmp_path / "b.json"], **options)
    seg_transfer.train("full", work=work, **LOCAL)
    seg_transfer.export(start, work=work)
    text = DOCUMENT.read_text(encoding="utf-8")
    app = tmp_path / "app"
    app.mkdir()
    for name, language in (("sites.py", "python"), ("pyproject.toml", "toml")):
        (block,) = re.findall(f"```{language}\n(.*?)```", text, re.DOTALL)
        (app / name).write_text(block)
    port = free_port()
    flower.start("flower-superlink", "--port", str(port))
    for site, other in (SITES, SITES[::-1]):
        paths = {"data": site, "work": f"work_{site}", "others": f"{other}.json", "model": start.name}
        config = " ".join(f'{name}="{tmp_path / path}"' for name, path in paths.items())
        address = ["--superlink", f"127.0.0.1:{port}", "--port", str(free_port())]
        flower.start("flower-supernode", *address, "--node-config", config)
    flower.run(app, f"127.0.0.1:{port}", f'model="{start}" output="{output}" rounds=2')
    first, second = (load_file(tmp_path / f"work_{site}/round.segtl") for site in SITES)
    before, mean = load_file(start), load_file(output)
    floats = [name for name, values in mean.items() if values.dtype.kind == "f"]
    for name in floats:
        np.testing.assert_allclose(mean[name], (first[name] + second[name]) / 2, atol=1e-6)
    assert any((first[name] != second[name]).any() for name in floats)
    assert any((before[name] != mean[name]).any() for name in floats)
    assert (
        seg_transfer.predict(tmp_path / "b/imagesTr", tmp_path / "out", model=output, **LOCAL) / "case_1.nii.gz"
    ).is_file()
