"""Whether ``segtl predict --nnunet`` makes the label maps that nnU-Net makes with the same model.

nnU-Net plans and trains a few steps of two folds, in its own environment. Both tools then predict cases that were not
trained on, and the voxels with different labels are counted. Quality does not matter: a model that is hardly trained is
the harder test, since many of its logits are close to each other.

    python bench/nnunet_predict.py --nnunet VENV
    python bench/nnunet_predict.py --nnunet VENV --dataset FOLDER --configs 3d_fullres
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from nnunet import NAME, TRAINER, NNUNet
from runner import DATA, link_cases

from seg_transfer.data.dataset import find_dataset, find_images
from seg_transfer.data.image import read_label
from seg_transfer.inference.outputs import label_file
from seg_transfer.util.environment import machine_text

FOLDS = 2


def trained(nnunet: NNUNet, dataset: Path, cases: list[str], steps: int) -> Path:
    """Train the folds one after the other on the same cases, from other random weights; the folder of the model."""
    nnunet.plan(dataset, cases)
    name = f"{TRAINER}__nnUNetPlans__{nnunet.configuration}"
    made, kept = nnunet.folder / "results" / NAME / name, nnunet.folder / "model" / name
    kept.mkdir(parents=True)
    for fold in range(FOLDS):
        nnunet.train(2, max(1, steps // 2))
        (made / "fold_all").rename(kept / f"fold_{fold}")
    for file in ("dataset.json", "plans.json"):
        shutil.copyfile(made / file, kept / file)
    return kept


def compare(nnunet: NNUNet, model: Path, images: Path) -> None:
    """Predict with both tools and print a row per case."""
    channels = len(json.loads((model / "dataset.json").read_text())["channel_names"])
    theirs, ours = nnunet.folder / "theirs", nnunet.folder / "ours"
    folds = [str(fold) for fold in range(FOLDS)]
    started = time.perf_counter()
    options = ["-i", str(images), "-o", str(theirs), "-m", str(model), "-f", *folds, "-device", nnunet.device]
    nnunet.call("predict_from_modelfolder", *options, "-npp", "1", "-nps", "1")
    between = time.perf_counter()
    segtl = [sys.executable, "-m", "seg_transfer", "predict", "--nnunet", model, "-i", images, "-o", ours, "-q"]
    subprocess.run([*segtl, "--device", nnunet.device], check=True)
    seconds = f"nnU-Net {between - started:.0f} s, segtl {time.perf_counter() - between:.0f} s"
    for case in find_images(images, channels):
        pair = [read_label(label_file(case, folder)) for folder in (theirs, ours)]
        first, second = (image.array for image in pair)
        assert np.allclose(pair[0].affine, pair[1].affine, atol=1e-4), case.id
        differing = int(np.count_nonzero(first != second))
        labelled = int(np.count_nonzero(first))
        print(f"| {nnunet.configuration} | {case.id} | {first.size} | {labelled} | {differing} |", flush=True)
    print(f"\n{nnunet.configuration}, {FOLDS} folds: {seconds}\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet", type=Path, required=True, help="virtual environment with nnunetv2")
    parser.add_argument("--dataset", type=Path, default=DATA / "hippocampus", help="in nnU-Net's raw layout")
    parser.add_argument("--configs", nargs="+", default=["3d_fullres", "2d"], help="nnU-Net's configurations")
    parser.add_argument("--train", type=int, default=8, help="cases to train on")
    parser.add_argument("--held-out", type=int, default=4, help="cases to predict")
    parser.add_argument("--steps", type=int, default=150, help="training steps of each fold")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--work", type=Path, help="new folder in which all files stay")
    given = parser.parse_args()
    cases = [case.id for case in find_dataset(given.dataset).cases]
    held_out = cases[given.train : given.train + given.held_out]
    print(machine_text())
    print(
        "| configuration | case | voxels | of these labelled by nnU-Net | labelled differently |\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as temporary:
        for configuration in given.configs:
            folder = (given.work or Path(temporary)) / configuration
            folder.mkdir(parents=True)
            nnunet = NNUNet(given.nnunet.absolute(), folder.absolute(), configuration, given.device)
            model = trained(nnunet, given.dataset, cases[: given.train], given.steps)
            images, _ = link_cases(given.dataset, held_out, folder / "held_out")
            compare(nnunet, model, images)


if __name__ == "__main__":
    main()
