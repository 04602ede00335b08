"""Peak memory of large volumes, each measured in a process of its own: ``python bench/memory.py WHAT [--shape X Y Z]``.

- ``predict``: one NIfTI file, by a network of one convolution, to a label map, with resampling there and back;
- ``preprocess``: one CT and its label, from NIfTI into the store, with resampling;
- ``measure``: the same files, checked and measured as ``segtl plan`` does;
- ``train``: patches from 10, 50 and 200 volumes (one, linked so many times);
- ``report``: the page of ``segtl report`` about one CT, its label and a prediction, all from NIfTI.

The peak is that of resident memory over what the process had after loading all modules and a tiny prediction. Figures
do not depend on what else the machine does; Linux only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # made_work
SPACING = (0.8, 0.8, 1.0)
GRID = {"predict": (1.0, 1.0, 1.0)} | dict.fromkeys(("preprocess", "train", "report"), (1.0, 0.8, 0.8))
"""Spacing of the network's grid (slice, u, v); see --spacing."""
VOLUMES = (10, 50, 200)
BATCHES = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*GRID, "measure"])
    parser.add_argument("--shape", type=int, nargs=3, metavar=("X", "Y", "Z"), help="voxels of a file")
    parser.add_argument("--labels", type=int, default=25, help="background included")
    parser.add_argument("--spacing", type=float, nargs=3, metavar=("S", "U", "V"), help="of the network's grid, mm")
    parser.add_argument("--patch", type=int, nargs=3, default=(64, 128, 128), metavar=("S", "U", "V"))
    parser.add_argument("--volumes", type=int, nargs="+", default=VOLUMES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.shape = options.shape or ((512, 512, 600) if options.what == "predict" else (512, 512, 400))
    if options.child:
        print(json.dumps(CHILDREN[options.what](options.child, options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options)
    print(json.dumps(figures) if options.json else text(options, figures))


def measure(folder: Path, options: argparse.Namespace) -> list[dict[str, float]]:
    if options.what != "train":
        make_case(folder, options.shape, options.labels)
        if options.what == "report":
            make_run(folder, options)
        return [child(folder)]
    store_case(folder, options)
    first, figures = folder / "store" / "case0", []
    for count in sorted(options.volumes):
        for number in range(1, count):
            copy = folder / "store" / f"case{number}"
            if not copy.is_dir():
                copy.mkdir()
                for file in first.iterdir():
                    os.link(file, copy / file.name)
        figures.append({"volumes": count} | child(folder))
    return figures


def child(folder: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, *sys.argv, "--child", str(folder)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def make_volume(shape: tuple[int, int, int], labels: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An int16 CT with air, noise and a body, and ellipsoids as labels ``(x, y, z)``, made a slice at a time."""
    generator = np.random.default_rng(seed)
    x, y = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    image, label = np.empty(shape, np.int16, order="F"), np.zeros(shape, np.uint8, order="F")
    centres = generator.uniform(-0.6, 0.6, (labels, 3))
    noise = generator.normal(0, 20, (16, *shape[:2])).astype(np.int16)
    for k, z in enumerate(np.linspace(-1, 1, shape[2])):
        body = (x / 0.9) ** 2 + (y / 0.7) ** 2 < 1
        image[..., k] = np.where(body, 40, -1000) + noise[k % len(noise)]
        for index in range(1, labels):
            cx, cy, cz = centres[index]
            inside = (x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 < 0.04
            label[inside, k] = index
            image[inside, k] += 10 * index
    return image, label


def make_case(folder: Path, shape: tuple[int, int, int], labels: int) -> None:
    """One made CT and its label, as NIfTI."""
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1])
    for name, array in zip(("images", "labels"), make_volume(shape, labels), strict=True):
        (folder / name).mkdir()
        nib.save(nib.Nifti1Image(array, affine), folder / name / "case0.nii.gz")


def store_case(folder: Path, options: argparse.Namespace) -> None:
    """One preprocessed volume; its values matter only in so far as they fill memory."""
    from seg_transfer.data.image import image_from_array
    from seg_transfer.preprocessing.case_transform import CaseTransform
    from seg_transfer.preprocessing.store import Store

    make_case(folder, options.shape, options.labels)
    image = np.asarray(nib.load(folder / "images" / "case0.nii.gz").dataobj)
    label = np.asarray(nib.load(folder / "labels" / "case0.nii.gz").dataobj)
    plan = make_plan("train", options)
    canonical = image_from_array(image, SPACING)
    transform = CaseTransform.fit(canonical, plan.data)
    Store.create(folder / "store", plan.data).add(
        "case0", transform.slabs(canonical), transform.label(label), transform
    )


def make_run(folder: Path, options: argparse.Namespace) -> None:
    """A work folder with one validated fold, whose prediction is the label moved by 8 voxels."""
    from made_work import add_run, make_work

    from seg_transfer.data.dataset import Dataset
    from seg_transfer.data.splits import Split
    from seg_transfer.planning.examine import examine

    def moved(labels: np.ndarray) -> None:
        labels[:-8] = labels[8:]

    work = make_work(folder / "work", folder)
    plan = make_plan("report", options)
    data = plan.data
    labels = tuple((label.name, label.value) for label in data.labels)
    dataset = Dataset.load(work.dataset).model_copy(update={"labels": labels})
    dataset.save(work.dataset)
    examine(dataset, workers=0).fingerprint().save(work.fingerprint)
    recipe = plan.recipe.model_copy(update={"splits": (Split(train=data.cases, validation=data.cases),)})
    add_run(work, plan.model_copy(update={"recipe": recipe}), predict=moved, folds=(0,))


def make_plan(what: str, options: argparse.Namespace) -> Any:
    from seg_transfer.planning.plan import Plan

    names = ["background", *(f"label_{index}" for index in range(1, options.labels))]
    return Plan.model_validate(
        {
            "data": {
                "dataset": "made",
                "dimension": 3,
                "unit": "mm",
                "channels": [
                    {
                        "name": "CT",
                        "normalization": {"kind": "clip_zscore", "lower": -200, "upper": 300, "mean": 50, "std": 60},
                    }
                ],
                "labels": [{"name": name, "value": value} for value, name in enumerate(names)],
                "cases": ["case0"],
                "axes": (2, 1, 0),
                "spacing": options.spacing or GRID[what],
                "crop_nonzero": False,
                "slice_order": 3,
            },
            "model": {
                "configuration": "3d",
                "patch": options.patch,
                "encoder": "resnet18",
                "weights": {"source": "none"},
                "stages": 1,
                "slice_strides": (1,),
                "input_mapping": "as_is",
                "decoder_channels": (8,),
            },
            "recipe": {
                "strategy": {
                    "name": "scratch",
                    "start": [0.0],
                    "rate": [1.0],
                    "batchnorm": "trained",
                    "pretrained_stages": 0,
                },
                "batch_size": 1,
                "epochs": 1,
                "precision": "float32",
                "splits": [{"train": ["case0"], "validation": []}],
            },
        }
    )


class Peak:
    """Bytes of resident memory at most, over what there was at the beginning."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
        self.before, self.start, self.cpu = status("VmRSS"), time.monotonic(), time.process_time()

    def figures(self) -> dict[str, float]:
        seconds, peak = time.monotonic() - self.start, status("VmHWM")
        cpu = time.process_time() - self.cpu
        return {"baseline": self.before, "peak": peak, "over": peak - self.before, "seconds": seconds, "cpu": cpu}


def status(name: str) -> int:
    """Bytes that the system notes for this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise ValueError(name)


def child_predict(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    import torch

    from seg_transfer.data.dataset import find_images
    from seg_transfer.inference.folder import predict_folder
    from seg_transfer.inference.outputs import Outputs
    from seg_transfer.inference.predictor import Predictor

    torch.set_num_threads(options.threads)
    plan = make_plan("predict", options)
    network = torch.nn.Conv3d(1, options.labels, 3, padding=1)
    predictor = Predictor(plan, [network], torch.device("cpu"))
    predictor.array(np.zeros((16, 16, 16), np.float32), SPACING, tta=False)  # libraries load some of themselves late
    cases = find_images(folder / "images", 1)
    peak = Peak()
    failures = predict_folder(predictor, cases, Outputs(folder / "out"), tta=False)
    assert not failures, failures
    figures = peak.figures()
    written = nib.load(folder / "out" / "case0.nii.gz")
    assert written.shape == tuple(options.shape), written.shape
    grid = math.prod(
        round(size * step / target)
        for size, step, target in zip(options.shape, SPACING, plan.data.spacing[::-1], strict=True)
    )
    ratio = math.prod(options.shape) / grid
    # k: the image in float32, and a byte per voxel of the file, of which there are more than of the grid
    return figures | {"grid": grid, "per_voxel": figures["over"] / grid, "bound": 2 * options.labels + 4 + ratio}


def child_preprocess(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    from seg_transfer.data.dataset import find_dataset
    from seg_transfer.preprocessing.cases import preprocess_dataset

    data = make_plan("preprocess", options).data
    dataset = find_dataset(folder).model_copy(
        update={"labels": tuple((label.name, label.value) for label in data.labels)}
    )
    peak = Peak()
    failures = preprocess_dataset(dataset, data, folder / "store", workers=0)
    assert not failures, failures
    return compared(peak.figures(), options)


def child_measure(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    from seg_transfer.data.dataset import find_dataset
    from seg_transfer.planning.examine import examine

    peak = Peak()
    assert not examine(find_dataset(folder), workers=0).problems
    return compared(peak.figures(), options)


def child_report(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    import matplotlib.figure  # noqa: F401

    import seg_transfer

    peak = Peak()
    page = seg_transfer.report(work=folder / "work", workers=0)
    figures = peak.figures()
    return compared(figures, options) | {"page": page.stat().st_size}


def child_train(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    from seg_transfer.preprocessing.store import Store
    from seg_transfer.training.batches import PatchSampler

    plan = make_plan("train", options)
    store = Store.open(folder / "store", plan.data)
    peak = Peak()
    sampler = PatchSampler(store, store.cases(), plan.model, batch_size=2, foreground_share=0.5, seed=0, cache_bytes=0)
    for step in range(BATCHES):
        sampler.batch(step)
    figures = peak.figures()
    files = len(list(Path("/proc/self/fd").iterdir()))
    return figures | {"own": status("RssAnon"), "files": files, "batch_seconds": figures["seconds"] / BATCHES}


def compared(figures: dict[str, float], options: argparse.Namespace) -> dict[str, float]:
    return figures | {"times_float32": figures["over"] / (4 * math.prod(options.shape))}


def text(options: argparse.Namespace, figures: list[dict[str, float]]) -> str:
    shape = "x".join(map(str, options.shape))
    lines = [f"{options.what}, {shape}, {options.labels} labels; MB are 10^6 bytes"]
    for each in figures:
        line = f"  over the modules' {each['baseline'] / 1e6:.0f} MB at most {each['over'] / 1e6:.0f} MB"
        if "per_voxel" in each:
            line += (
                f": {each['per_voxel']:.1f} bytes per voxel of the network's grid, at most {each['bound']:.1f} allowed"
            )
        if "times_float32" in each:
            line += f": {each['times_float32']:.2f} times the volume in float32"
        if "volumes" in each:
            line = f"  {each['volumes']:4} volumes: {line.strip()}, {each['own'] / 1e6:.0f} MB its own at the end, "
            line += f"{each['files']} files open, {1000 * each['batch_seconds']:.1f} ms a batch"
        lines.append(f"{line}, {each['seconds']:.0f} s, {each['cpu']:.0f} of them on the CPU")
    return "\n".join(lines)


CHILDREN = {
    "predict": child_predict,
    "preprocess": child_preprocess,
    "measure": child_measure,
    "train": child_train,
    "report": child_report,
}

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
