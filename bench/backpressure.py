"""How do seconds and memory of planning grow with the number of cases, on a cluster and on one machine?

``segtl plan`` of made CTs of 256 voxels, each another one, on two workers of Dask with one thread each, or on two
worker processes (``--workers 2``). Peak memory is that of the command, which hands out the cases and gathers their
measurements, and that of Dask's scheduler. From 10,000 cases on the workers do not read (``simulated_case.py``).
100,000 take about 35 minutes on the cluster, all on one busy core, and 3 without. Rows are in
``bench/results/backpressure.csv``. ``--parts N`` tells what of the command's memory grows, with N simulated cases.

    python bench/backpressure.py
    python bench/backpressure.py --parts 10000
    python bench/backpressure.py --table --figure docs/backpressure.png
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import simulated_case
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rows import Row, append_rows, find_row, read_rows
from runner import HERE, RESULTS, commit

from seg_transfer.data.dataset import find_dataset
from seg_transfer.planning import examine
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.util.environment import machine_text
from seg_transfer.util.files import whole_file

FILE = RESULTS / "backpressure.csv"
COLUMNS = ("cases", "where", "reads", "wall", "caller_mb", "scheduler_mb", "record_mb", "machine", "commit", "finished")
POINTS = (
    (1000, "cluster", "real"),
    (10_000, "cluster", "simulated"),
    (1000, "processes", "real"),
    (10_000, "processes", "simulated"),
    (100_000, "processes", "simulated"),
    (100_000, "cluster", "simulated"),
)
"""Cases, where the workers are, and whether they read."""
CASES_READ = 1000
SHAPE = (8, 8, 4)
WORKERS = 2
POLL = 0.2


def make_dataset(folder: Path, cases: int) -> Path:
    """Tiny CTs without compression in nnU-Net's raw layout, unless they are there; each has other values."""
    if (folder / "dataset.json").is_file():
        return folder
    generator = np.random.default_rng(0)
    classes = np.zeros(SHAPE, np.uint8)
    classes[2:6, 2:6, 1:3] = 1
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.diag([-1.0, -1.0, 2.5, 1.0])).to_bytes()
    label = nib.Nifti1Image(classes, np.diag([-1.0, -1.0, 2.5, 1.0])).to_bytes()
    head = image[: len(image) - 2 * classes.size]
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(cases):
        values = generator.integers(0, 100, classes.size, np.int16) + 100 * classes.ravel(order="F")
        (folder / "imagesTr" / f"ct_{number:06d}_0000.nii").write_bytes(head + values.astype(np.int16).tobytes())
        (folder / "labelsTr" / f"ct_{number:06d}.nii").write_bytes(label)
    names = {"background": 0, "organ": 1}
    described = {"channel_names": {"0": "CT"}, "labels": names, "numTraining": cases, "file_ending": ".nii"}
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


@contextmanager
def cluster(work: Path) -> Iterator[tuple[str, int]]:
    """Address and process of a scheduler with workers, each a process of its own."""
    file = work / "scheduler.json"
    file.unlink(missing_ok=True)
    started: list[subprocess.Popen[bytes]] = []

    def start(kind: str, *options: object) -> None:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--no-dashboard", *map(str, options)]
        started.append(subprocess.Popen(command, env=variables(), cwd=work, stderr=subprocess.DEVNULL))

    try:
        start("scheduler", "--host", "127.0.0.1", "--port", 0, "--scheduler-file", file)
        while not file.is_file():
            time.sleep(POLL)
        for _ in range(WORKERS):
            start("worker", "--scheduler-file", file, "--nthreads", 1, "--no-nanny")
        yield json.loads(file.read_text())["address"], started[0].pid
    finally:
        for process in started:
            process.kill()
            process.wait()


def variables() -> dict[str, str]:
    """Of the environment, with this folder and this segtl to import from."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}


def memory_mb(pid: int, which: str = "VmHWM") -> float:
    """Resident memory of a process, by default its peak so far; 0 after its end."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith(which)), 0.0)


def measure(cases: int, where: str, reads: str, work: Path) -> dict[str, object]:
    """Plan so many cases."""
    dataset = make_dataset(work / f"{cases} cases", cases)
    if where == "processes":
        return plan(dataset, work, reads, ["--workers", str(WORKERS)], None)
    with cluster(work) as (address, scheduler):
        return plan(dataset, work, reads, ["--cluster", address], scheduler)


def plan(dataset: Path, work: Path, reads: str, workers: list[str], scheduler: int | None) -> dict[str, object]:
    """Run the command; seconds, and peaks of memory."""
    folder, log = work / "work", work / "log.txt"
    shutil.rmtree(folder, ignore_errors=True)
    program = ["-m", "seg_transfer"] if reads == "real" else ["-c", "import simulated_case; simulated_case.run()"]
    options = ["plan", str(dataset), "-w", str(folder), "--config", "3d", "--device", "cpu", *workers]
    start, most = time.perf_counter(), 0.0
    with log.open("w") as said:
        running = subprocess.Popen([sys.executable, *program, *options], env=variables(), stdout=said, stderr=said)
        while running.poll() is None:
            most = max(most, memory_mb(running.pid))
            time.sleep(POLL)
    if running.returncode:
        raise RuntimeError(log.read_text()[-2000:])
    return {
        "wall": round(time.perf_counter() - start, 1),
        "caller_mb": round(most),
        "scheduler_mb": "" if scheduler is None else round(memory_mb(scheduler)),
        "record_mb": round((folder / "fingerprint.json").stat().st_size / 1e6, 1),
    }


def parts(cases: int, work: Path) -> str:
    """Resident memory after each step of planning so many simulated cases in this process, in kB per case."""
    folders = [make_dataset(work / f"{number} cases", number) for number in (CASES_READ, cases)]
    examine._examine_case = lambda case, **options: pickle.loads(  # as from a worker
        pickle.dumps(simulated_case.simulated(case, **options))
    )
    first = examine.examine(find_dataset(folders[0]), workers=0)  # what any number of cases needs
    first.fingerprint()
    steps = [("start", memory_mb(os.getpid(), "VmRSS"))]
    dataset = find_dataset(folders[1])
    steps.append(("list of the cases", memory_mb(os.getpid(), "VmRSS")))
    fingerprint = examine.examine(dataset, workers=0).fingerprint()
    steps.append(("their measurements", memory_mb(os.getpid(), "VmRSS")))
    dataset.save(work / "dataset.json")
    fingerprint.save(work / "fingerprint.json")
    steps.append(("both files, while they are written", memory_mb(os.getpid())))
    Fingerprint.load(work / "fingerprint.json")
    steps.append(("fingerprint.json, while it is read by a later command", memory_mb(os.getpid())))
    lines = ["| what grows | kB per case |", "|---|---|"]
    for (_, before), (name, after) in pairwise(steps):
        lines.append(f"| {name} | {1000 * (after - before) / cases:.1f} |")
    return "\n".join(lines)


def rows_of(where: str) -> list[Row]:
    """Finished points by number of cases."""
    return sorted((row for row in read_rows(FILE) if row["where"] == where), key=lambda row: int(row["cases"]))


def table() -> str:
    """Every finished point."""
    lines = [
        "| workers | cases | reads | seconds | command, MB | scheduler, MB | fingerprint.json, MB |",
        f"|{7 * '---|'}",
    ]
    for where in ("cluster", "processes"):
        for row in rows_of(where):
            lines.append(f"| {where} | {int(row['cases']):,} | {' | '.join(row[name] for name in COLUMNS[2:7])} |")
    return "\n".join(lines)


def draw(path: Path) -> None:
    """Memory by number of cases."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    lines = (("cluster", "caller_mb", "command, on a cluster"), ("cluster", "scheduler_mb", "scheduler"))
    for where, name, label in (*lines, ("processes", "caller_mb", "command, with two processes")):
        rows = rows_of(where)
        axes.plot([int(row["cases"]) for row in rows], [int(row[name]) for row in rows], marker="o", label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("cases")
    axes.set_ylabel("peak memory, MB")
    axes.grid(alpha=0.3)
    axes.legend()
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=100)


def made_folder(work: Path) -> Path:
    """The script's folder."""
    folder = (work / "backpressure").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=100_000, help="do no more cases than this")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="scratch folder; 1 GB")
    parser.add_argument("--parts", type=int, metavar="N", help="print what grows with N cases, run nothing else")
    parser.add_argument("--table", action="store_true", help="print the table of finished points, run nothing")
    parser.add_argument("--figure", type=Path, help="a .png file to draw finished points into")
    options = parser.parse_args()
    if options.parts:
        print(parts(options.parts, made_folder(options.work)))
        return
    if not options.table:
        work = made_folder(options.work)
        for point in POINTS:
            key = dict(zip(COLUMNS[:3], point, strict=True))
            if point[0] <= options.most and find_row(FILE, **key) is None:
                row = key | measure(*point, work)
                row |= {"machine": machine_text(), "commit": commit(), "finished": time.strftime("%Y-%m-%d %H:%M")}
                append_rows(FILE, COLUMNS, [row])
                print(row, flush=True)
    print(table())
    if options.figure:
        draw(options.figure)


if __name__ == "__main__":
    main()
