"""Wall and CPU seconds and memory of planning, preprocessing, predicting and starting up, beside nnU-Net.

Both tools take turns on the same files: made CTs of 512 x 512 x 160 voxels with 5 labels, or a data set of nnU-Net's
raw layout. A stage is a command in processes of its own. CPU seconds are those of all its processes; memory is the
largest sum of their resident memory; disk is what the preprocessed cases take. ``--predict`` predicts cases too, each
tool by its own plan in 3D after a few steps of training and with its default mirroring: quality is not compared here
(``bench/curve.py`` does). ``--large`` predicts a CT of 512 x 512 x 400 voxels, of whose passes through the network few
are computed (``bench/few_passes``): the rest's seconds are measured, the network's are those of a pass times the
number of passes. Finished stages are rows of ``bench/results/vs_nnunet.csv`` and are not done again.

    python bench/vs_nnunet.py --nnunet VENV             made CTs, and segtl's start-up
    python bench/vs_nnunet.py --nnunet VENV --dataset bench/data/hippocampus --predict 20
    python bench/vs_nnunet.py --nnunet VENV --large 5   and of 25 labels
    python bench/vs_nnunet.py --table
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
from memory import SPACING, make_volume
from nnunet import TRAINER, NNUNet
from rows import append_rows, find_row, read_rows
from runner import HERE, RESULTS, commit, edit_plan

from seg_transfer.util.environment import cores, machine_text
from seg_transfer.util.files import write_text
from seg_transfer.version import VERSION

FILE = RESULTS / "vs_nnunet.csv"
COLUMNS = ("data", "stage", "tool", "round", "wall", "cpu", "memory_mb", "disk_mb")
COLUMNS += ("passes", "pass_cpu", "version", "machine", "commit", "finished")
POLL = 0.05
SEGTL = (sys.executable, "-m", "seg_transfer")
BOTH = ("measure and plan", "preprocess")
CT_SHAPE, CT_LABELS = (512, 512, 160), 6
LARGE_SHAPE = (512, 512, 400)
SMALL_SHAPE = (40, 48, 36)


@dataclass(frozen=True)
class Stage:
    """One command of a tool.

    Attributes:
        name: Stages of both tools with the same name are compared.
        tool: Whose it is.
        command: What is run.
        remove: What earlier rounds left.
        variables: Of the environment.
        store: Folder whose size is recorded.
        passes: What ``bench/few_passes`` writes.
    """

    name: str
    tool: str
    command: Sequence[object]
    remove: Sequence[Path] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    store: Path | None = None
    passes: Path | None = None


def measure(stage: Stage, log: Path) -> dict[str, float]:
    """Run a command; wall and CPU seconds, and the peak of memory in MB of all its processes."""
    for path in stage.remove:
        shutil.rmtree(path, ignore_errors=True)
    environment = {**os.environ, **stage.variables}
    start = time.perf_counter()
    with log.open("w") as said:
        running = psutil.Popen(list(map(str, stage.command)), env=environment, stdout=said, stderr=said)
        most = 0
        while not (done := os.wait4(running.pid, os.WNOHANG))[0]:
            most = max(most, resident(running))
            time.sleep(POLL)
    wall = time.perf_counter() - start
    if done[1]:
        raise RuntimeError(f"{stage.tool}, {stage.name} failed ({log}):\n{log.read_text()[-2000:]}")
    usage = done[2]
    figures = {"wall": round(wall, 2), "cpu": round(usage.ru_utime + usage.ru_stime, 2), "memory_mb": round(most / 1e6)}
    if stage.passes is not None:
        said = json.loads(stage.passes.read_text())
        figures["cpu"] = round(figures["cpu"] - said["seconds"], 2)
        figures |= {"passes": said["passes"], "pass_cpu": round(said["seconds"] / said["computed"], 2)}
    if stage.store is not None:
        figures["disk_mb"] = round(
            sum(file.stat().st_size for file in stage.store.rglob("*") if file.is_file()) / 1e6, 1
        )
    return figures


def resident(process: psutil.Process) -> int:
    """Resident memory of a process and of all that it started, in bytes."""
    total = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for one in family:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def make_dataset(folder: Path, cases: int, shape: tuple[int, int, int], labels: int) -> Path:
    """A data set in nnU-Net's raw layout, unless it is there."""
    if (folder / "dataset.json").is_file():
        return folder
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1])
    for number in range(cases):
        image, label = make_volume(shape, labels, seed=number)
        nib.save(nib.Nifti1Image(image, affine), folder / "imagesTr" / f"ct_{number:03d}_0000.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), folder / "labelsTr" / f"ct_{number:03d}.nii.gz")
    names = {"background": 0, **{f"organ {index}": index for index in range(1, labels)}}
    described = {"channel_names": {"0": "CT"}, "labels": names, "numTraining": cases, "file_ending": ".nii.gz"}
    write_text(folder / "dataset.json", json.dumps(described))
    return folder


def of_segtl(dataset: Path, work: Path) -> Iterator[Stage]:
    for name, options in (("segtl", []), ("segtl, with evidence", ["--evidence"])):
        folder = work / name.replace(" ", "_")
        plan = [*SEGTL, "plan", dataset, "-w", folder, "--config", "3d", *options]
        yield Stage("measure and plan", name, plan, [folder])
        yield Stage("preprocess", name, [*SEGTL, "preprocess", "-w", folder], store=folder / "preprocessed")


def of_nnunet(dataset: Path, work: Path, venv: Path) -> Iterator[Stage]:
    raw = work / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    link = raw / "Dataset001_vs"
    if not link.exists():
        link.symlink_to(dataset.resolve())
    variables = nnunet_variables(work)
    program, processes, done = venv / "bin", str(cores()), work / "preprocessed"
    plan = [program / "nnUNetv2_plan_and_preprocess", "-d", "1", "--no_pp", "-npfp", processes]
    made = [program / "nnUNetv2_preprocess", "-d", "1", "-c", "3d_fullres", "-np", processes]
    store = done / link.name / "nnUNetPlans_3d_fullres"
    yield Stage("measure and plan", "nnU-Net", plan, [done], variables)
    yield Stage("preprocess", "nnU-Net", made, [], variables, store)


def nnunet_variables(work: Path) -> dict[str, str]:
    """Where nnU-Net finds and puts things, and how the trainer of ``bench/nnunet_trainer`` counts."""
    variables = {f"nnUNet_{name}": str(work / name) for name in ("raw", "preprocessed", "results")}
    counts = {"CURVE_EPOCHS": "1", "CURVE_ITERATIONS": "3", "CURVE_SECONDS": str(work / "seconds.json")}
    trainer = {"nnUNet_extTrainer": str(HERE / "nnunet_trainer"), "nnUNet_compile": "f", "nnUNet_n_proc_DA": "1"}
    return {**variables, **counts, **trainer, "CURVE_THREADS": str(cores()), "PYTHONPATH": ""}


def first_images(dataset: Path, cases: int, folder: Path) -> Path:
    """A folder of links to the images of the first cases, unless it is there."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        for image in sorted((dataset / "imagesTr").iterdir())[:cases]:
            (folder / image.name).symlink_to(image.resolve())
    return folder


def of_prediction(
    name: str, dataset: Path, images: Path, work: Path, venv: Path | None, log: Path, *, few: bool = False
) -> Iterator[Stage]:
    """Predicting images, by models that are trained for a few steps first, unless they are there.

    Args:
        name: Of the stages.
        dataset: To train on.
        images: Folder of what is predicted.
        work: Folder of the models.
        venv: nnU-Net's environment, if it is compared.
        log: File for what commands print.
        few: Compute few passes of the networks.
    """
    passes = work / "passes.json" if few else None
    through = [HERE / "few_passes", passes] if few else []
    trained, out = work / "segtl" / "trained", work / "out"
    if not (trained / "runs").is_dir():
        options = ["--config", "3d", "--epochs", "1"]
        measure(Stage("plan", "segtl", [*SEGTL, "plan", dataset, "-w", trained, *options]), log)
        edit_plan(trained / "plan.json", {"recipe.steps_per_epoch": 3})
        measure(Stage("train", "segtl", [*SEGTL, "train", "full", "-w", trained]), log)
    command = [sys.executable, *through, "segtl"] if few else SEGTL
    yield Stage(name, "segtl", [*command, "predict", "-w", trained, "-i", images, "-o", out], [out], passes=passes)
    if venv is None:
        return
    folder, program = work / "nnunet", venv / "bin"
    variables = nnunet_variables(folder)
    model = ["-d", "1", "-c", "3d_fullres", "-tr", TRAINER, "-f", "all", "-device", "cpu"]
    if not (folder / "results").is_dir():
        if not (folder / "preprocessed" / "Dataset001_vs" / "nnUNetPlans_3d_fullres").is_dir():
            for stage in of_nnunet(dataset, folder, venv):
                measure(stage, log)
        train = [program / "nnUNetv2_train", "1", "3d_fullres", "all", "-tr", TRAINER, "-device", "cpu"]
        measure(Stage("train", "nnU-Net", train, [], variables), log)
    command = [program / "python", *through, "nnunet"] if few else [program / "nnUNetv2_predict"]
    predict = [*command, "-i", images, "-o", out, *model, "-npp", "1", "-nps", "1"]
    yield Stage(name, "nnU-Net", predict, [out], variables, passes=passes)


def of_start(work: Path) -> Iterator[Stage]:
    """Small commands, whose time is that of starting up."""
    small = make_dataset(work / "small", 10, SMALL_SHAPE, 2)
    trained = work / "small_trained"
    if not (trained / "runs").is_dir():
        subprocess.run([*SEGTL, "plan", small, "-w", trained, "--time-budget", "5s", "-q"], check=True)
        subprocess.run([*SEGTL, "train", "full", "-w", trained, "-q"], check=True)
    image, out = small / "imagesTr" / "ct_000_0000.nii.gz", work / "small_out"
    plan = [*SEGTL, "plan", small, "-w", work / "small_work"]
    yield Stage("plan ten small cases", "segtl", plan, [work / "small_work"])
    yield Stage("evaluate ten small cases", "segtl", [*SEGTL, "evaluate", small / "labelsTr", small / "labelsTr"])
    yield Stage("predict one small case", "segtl", [*SEGTL, "predict", "-w", trained, "-i", image, "-o", out], [out])
    yield Stage("import torch", "torch", [sys.executable, "-c", "import torch"])


def every_stage(name: str, dataset: Path, folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, Stage]]:
    """What is measured, with the name of the data; each stage is made when it is about to run."""
    venv = None if options.nnunet is None else options.nnunet.absolute()
    log = folder.parent / "log.txt"
    if options.large:
        large = make_dataset(folder / "large", 1, LARGE_SHAPE, options.large + 1) / "imagesTr"
        for stage in of_prediction(
            "predict a large CT, but for the network", dataset, large, folder, venv, log, few=True
        ):
            yield f"512 x 512 x 400, {options.large} labels", stage
        return
    for stage in of_segtl(dataset, folder / "segtl"):
        yield name, stage
    for stage in () if venv is None else of_nnunet(dataset, folder / "nnunet", venv):
        yield name, stage
    if options.predict:
        images = first_images(dataset, options.predict, folder / f"first {options.predict}")
        for stage in of_prediction(f"predict {options.predict} cases", dataset, images, folder, venv, log):
            yield name, stage
    for stage in () if options.dataset else of_start(folder.parent):
        yield "start-up", stage


def table() -> str:
    """Medians over the rounds, and how many times nnU-Net's figures are those of segtl."""
    found: dict[tuple[str, str, str], list[dict[str, str]]] = defaultdict(list)
    for row in read_rows(FILE):
        found[row["data"], row["stage"], row["tool"]].append(row)
    figures = {
        key: [statistics.median(float(row[name]) for row in rows) for name in ("wall", "cpu", "memory_mb")]
        for key, rows in found.items()
    }
    last = {key: rows[-1] for key, rows in found.items()}
    for data in sorted({key[0] for key in figures}):
        for tool in sorted({tool for of, _, tool in figures if of == data and (data, "preprocess", tool) in figures}):
            parts = [figures[data, stage, tool] for stage in ("measure and plan", "preprocess")]
            figures[data, "both", tool] = [
                parts[0][0] + parts[1][0],
                parts[0][1] + parts[1][1],
                max(parts[0][2], parts[1][2]),
            ]
    lines = [
        "| data | stage | tool | wall s | CPU s | memory MB | disk MB | passes | CPU s of a pass | nnU-Net over it |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (data, stage, tool), (seconds, used, most) in sorted(figures.items()):
        theirs = figures.get((data, stage, "nnU-Net"))
        ratio = f"{theirs[1] / used:.1f}" if theirs and tool != "nnU-Net" else ""
        row = last.get((data, stage, tool), {})
        others = " | ".join(row.get(name, "") for name in ("disk_mb", "passes", "pass_cpu"))
        lines.append(f"| {data} | {stage} | {tool} | {seconds:.1f} | {used:.1f} | {most:.0f} | {others} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet", type=Path, metavar="VENV", help="environment in which nnU-Net is installed")
    parser.add_argument("--dataset", type=Path, help="a data set in nnU-Net's raw layout; made CTs by default")
    parser.add_argument("--cases", type=int, default=4, help="number of made CTs")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--predict", type=int, default=0, metavar="CASES", help="predict so many cases too")
    parser.add_argument(
        "--large", type=int, default=0, metavar="LABELS", help="only predict a large CT of so many labels"
    )
    parser.add_argument("--work", type=Path, default=HERE / "work", help="scratch folder")
    parser.add_argument("--table", action="store_true", help="print the table of finished stages, run nothing")
    options = parser.parse_args()
    work = (options.work / "vs_nnunet").absolute()
    work.mkdir(parents=True, exist_ok=True)
    if not options.table:
        name = f"{options.cases} made CTs" if options.dataset is None else options.dataset.name
        labels = options.large + 1 if options.large else CT_LABELS
        dataset = options.dataset or make_dataset(work / f"ct_{labels}", options.cases, CT_SHAPE, labels)
        folder = work / dataset.name
        for number in range(options.rounds):
            for data, stage in every_stage(name, dataset, folder, options):
                key = {"data": data, "stage": stage.name, "tool": stage.tool, "round": number}
                if find_row(FILE, **key) is None:
                    row = {**key, **measure(stage, work / "log.txt"), "version": _version(stage, options.nnunet)}
                    row |= {"machine": machine_text(), "commit": commit(), "finished": time.strftime("%Y-%m-%d %H:%M")}
                    append_rows(FILE, COLUMNS, [row])
                    print(" | ".join(map(str, row.values())), flush=True)
    print(table())


def _version(stage: Stage, venv: Path | None) -> str:
    if stage.tool != "nnU-Net" or venv is None:
        return version("torch") if stage.tool == "torch" else VERSION
    return NNUNet(venv, Path(), "3d_fullres").version()


if __name__ == "__main__":
    main()
