"""Which signals of transfer put encoders and inputs into the order that is known beforehand.

Encoders: a ResNet-18 of random weights, the same trained for little, and the bundled one. "Trained for little" is made
here: the random one after ``--little-steps`` steps of classifying 400 pictures of ``--source`` in 200 classes, about
two of each, which it learns by heart. BatchNorm of both is re-estimated on the same 400 pictures. Expected on
pictures and what is made of them: random < little < bundled.

Inputs: cells, cells in grey, retina, one channel of it (green), hippocampus, and hippocampus inverted, all in 2D with
patches of 64x64, 12 cases (8 of retina) from the data sets' own training lists. Expected of the distance of BatchNorm's
statistics (bundled encoder): grey, one channel and inverted are further from the source than what they were made of,
and all are further than the 100 pictures of ``--source`` that nothing was estimated on.

    python bench/evidence.py
    python bench/evidence.py --table

Gradients and scores are taken with BatchNorm recalibrated on the inputs, so that weights alone make the difference. One
draw of random weights. Finished measurements are kept in ``bench/results/evidence.json``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from batchnorm_distance import measure_statistics, statistics_distance
from cells import DATA, DATA_HELP, HERE, commit, edit_plan, lists_of, machine
from evidence_table import ENCODERS, INPUTS, tables
from feature_scores import measure_scores
from gradients import measure_gradients
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import seg_transfer
from seg_transfer.catalogue.encoders import entry
from seg_transfer.evidence.transfer_evidence import gather
from seg_transfer.network.build import build_network
from seg_transfer.network.unet import UNet
from seg_transfer.planning.evidence_record import TransferEvidence
from seg_transfer.planning.plan import ModelPlan, Plan, Weights
from seg_transfer.preprocessing.store import Store
from seg_transfer.transfer.encoder import Encoder
from seg_transfer.transfer.unfreezing import recalibrate_batchnorm
from seg_transfer.util.files import write_text

CASES = 12
LEARNED_FROM = 400
SIDE = 64
STAGES = 4
PER_LABEL = 100
BATCH = 64

# encoders


def source_pictures(path: Path) -> tuple[Tensor, Tensor]:
    """Pictures ``(n, 3, 64, 64)`` in [0, 1] in random order, and their classes."""
    held = np.load(path)
    order = np.random.default_rng(0).permutation(len(held["y"]))
    pictures = torch.from_numpy(held["X"][order]).permute(0, 3, 1, 2) / 255
    return pictures, torch.from_numpy(held["y"][order]).long()


def scaled(pictures: Tensor) -> Tensor:
    """As the encoder reads them: ``(n, 3, 1, u, v)``."""
    known = entry("resnet18")
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (known.mean, known.std))
    return ((pictures - mean) / std).unsqueeze(2)


def make_encoders(folder: Path, source: Path, *, steps: int, seed: int) -> None:
    """Write ``random.safetensors`` and ``little.safetensors``, with timm's names."""
    pictures, classes = (part[:LEARNED_FROM] for part in source_pictures(source))
    torch.manual_seed(seed)
    encoder = Encoder("resnet18", channels=3)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("random", "little"):
        if name == "little":
            learn_a_little(encoder, pictures, classes, steps)
        recalibrate_batchnorm(encoder, encoder, scaled(pictures).split(100))
        state = {key.split(".", 2)[2]: tensor.contiguous() for key, tensor in encoder.state_dict().items()}
        save_file(state, folder / f"{name}.safetensors")


def learn_a_little(encoder: Encoder, pictures: Tensor, classes: Tensor, steps: int) -> None:
    """Classify from the mean of the last stage; flips and shifts; SGD."""
    head = nn.Linear(encoder.channels[-1], int(classes.max()) + 1)
    encoder.to(memory_format=torch.channels_last)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)
    draw = torch.Generator().manual_seed(0)
    encoder.train()
    started = time.perf_counter()
    for step in range(steps):
        chosen = torch.randint(len(pictures), (BATCH,), generator=draw)
        batch = pictures[chosen]
        if torch.rand((), generator=draw) < 0.5:
            batch = batch.flip(-1)
        batch = batch.roll(tuple(torch.randint(-6, 7, (2,), generator=draw).tolist()), (-2, -1))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(head(encoder(scaled(batch))[-1].mean((2, 3))), classes[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == steps - 1:
            print(f"little: step {step}, loss {loss:.2f}, {time.perf_counter() - started:.0f} s", flush=True)


def weights_of(encoder: str, folder: Path) -> dict[str, Any]:
    """The plan's ``model.weights``."""
    if encoder == "bundled":
        return Weights(source="bundled").model_dump()
    return Weights(source="file", path=str(folder / f"{encoder}.safetensors")).model_dump()


# inputs


@dataclass(frozen=True)
class Input:
    """A data set to be planned: its folder and cases."""

    folder: Path
    cases: list[str]


def make_input(name: str, data: Path, work: Path) -> Input:
    """Write the cases of an input as a data set of their own."""
    dataset = name.split()[-1]
    lists = lists_of(dataset)["few_shot"]
    if dataset == "hippocampus":
        cases = [case for case in lists["160"] if case not in lists["80"]][:CASES]
    else:
        cases = lists["8" if dataset == "retina" else "20"][:CASES]
    folder = work / "inputs" / name.replace(" ", "_")
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    description = json.loads((data / dataset / "dataset.json").read_text())
    for case in cases:
        image, label = (
            next((data / dataset / part).glob(f"{case}{ending}.*"))
            for part, ending in (("imagesTr", "_0000"), ("labelsTr", ""))
        )
        if dataset == "hippocampus":
            volume = nibabel.load(image)
            values = np.asarray(volume.dataobj).astype(np.float32)
            values = values.max() - values if name.startswith("inverted") else values
            nibabel.save(nibabel.Nifti1Image(values, volume.affine), folder / "imagesTr" / image.name)
            shutil.copy(label, folder / "labelsTr")
        else:
            picture, classes = Image.open(image), Image.open(label)
            if dataset == "retina":
                half = tuple(size // 2 for size in picture.size)
                picture, classes = picture.resize(half, Image.Resampling.BOX), classes.resize(half, 0)
            if name.startswith("grey"):
                picture = picture.convert("L")
            elif name.startswith("green"):
                picture = picture.getchannel("G")
            picture.save(folder / "imagesTr" / image.name)
            classes.save(folder / "labelsTr" / label.name)
    if name.startswith(("grey", "green")):
        description["channel_names"] = {"0": "grey"}
    write_text(folder / "dataset.json", json.dumps(description | {"numTraining": len(cases)}))
    return Input(folder, cases)


def prepare(made: Input, work: Path) -> tuple[Plan, Store]:
    """Plan and preprocess an input, and bring all inputs to the same patch, stages and BatchNorm."""
    place = work / "work" / made.folder.name
    shutil.rmtree(place, ignore_errors=True)
    seg_transfer.plan(
        made.folder,
        work=place,
        config="2d",
        encoder="resnet18",
        weights="bundled",
        strategy="finetune",
        epochs=1,
        workers=0,
    )
    edit_plan(
        place / "plan.json",
        {
            "model.patch": (1, SIDE, SIDE),
            "model.stages": STAGES,
            "model.decoder_channels": (32, 48, 64, 96),
            "recipe.batch_size": 8,
            "recipe.strategy.batchnorm": "recalibrated",
            "recipe.strategy.start": (0.0,) * STAGES,
            "recipe.strategy.rate": (1.0,) * STAGES,
            "recipe.strategy.pretrained_stages": STAGES,
        },
    )
    folder = seg_transfer.preprocess(work=place, workers=0)
    plan = Plan.load(place / "plan.json")
    return plan, Store.open(folder, plan.data)


# measuring


def source_distances(weights: dict[str, Any], source: Path) -> dict[str, list[float]]:
    """Distance of statistics of the pictures that nothing was estimated on: as they are, grey, and inverted."""
    pictures = source_pictures(source)[0][LEARNED_FROM:].unsqueeze(2)
    grey = (pictures * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1, 1)).sum(1, keepdim=True)
    measured = {}
    for name, images in (("source", pictures), ("grey source", grey), ("inverted source", 1 - pictures)):
        distances = statistics_distance(picture_network(weights, images.shape[1]), images)
        measured[name] = [distance for distance in distances if distance is not None]
    return measured


def picture_network(weights: dict[str, Any], channels: int) -> UNet:
    """A network that reads pictures as the plan's inputs of the same channels are read."""
    model = ModelPlan(
        configuration="2d",
        patch=(1, SIDE, SIDE),
        encoder="resnet18",
        weights=Weights(**weights),
        stages=STAGES,
        slice_strides=(),
        input_mapping="encoder_mean_std",
        decoder_channels=(4,) * STAGES,
    )
    return build_network(model, channels=channels, classes=2, seed=0)[0]


def measure(plan: Plan, store: Store, weights: dict[str, Any], seed: int) -> dict[str, Any]:
    """Every signal of one encoder on one input, each with the seconds it took."""
    model = plan.model.model_copy(update={"weights": Weights(**weights)})
    plan = plan.model_copy(update={"model": model})
    cases = plan.data.cases
    ways: dict[str, Callable[[], Any]] = {
        "told": lambda: gather(plan, store, cases, measured_on="", seed=seed, device="cpu"),
        "gradients": lambda: measure_gradients(plan, store, cases, seed=seed, device="cpu"),
        "scores": lambda: measure_scores(plan, store, cases, seed=seed, device="cpu", per_label=PER_LABEL),
        "statistics": lambda: measure_statistics(plan, store, cases, side=SIDE, seed=seed),
    }
    measured: dict[str, Any] = {"seconds": {}}
    for name, way in ways.items():
        start = time.perf_counter()
        found = way()
        measured[name] = found.model_dump(mode="json") if isinstance(found, TransferEvidence) else asdict(found)
        measured["seconds"][name] = round(time.perf_counter() - start, 1)
    return measured


def run(options: argparse.Namespace, path: Path) -> None:
    results = json.loads(path.read_text()) if path.is_file() else {}
    encoders = options.work / "evidence" / "encoders"
    if not (encoders / "little.safetensors").is_file():
        make_encoders(encoders, options.source, steps=options.little_steps, seed=options.seed)
    if "source" not in results:
        results["about"] = {"machine": machine(), "commit": commit(), "little_steps": options.little_steps}
        results["source"] = {name: source_distances(weights_of(name, encoders), options.source) for name in ENCODERS}
        write_text(path, json.dumps(results, indent=1) + "\n")
    for name in INPUTS:
        missing = [encoder for encoder in ENCODERS if encoder not in results.get(name, {})]
        if not missing:
            continue
        plan, store = prepare(make_input(name, options.data, options.work / "evidence"), options.work / "evidence")
        for encoder in missing:
            results.setdefault(name, {})[encoder] = measure(plan, store, weights_of(encoder, encoders), options.seed)
            write_text(path, json.dumps(results, indent=1) + "\n")
            print(name, encoder, results[name][encoder]["seconds"], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help=DATA_HELP)
    what = "500 pictures like those the bundled encoder was made on: arrays X (n, 64, 64, 3) and y (n,) in an .npz file"
    parser.add_argument("--source", type=Path, default=DATA / "tiny_imagenet.npz", help=what)
    parser.add_argument("--work", type=Path, default=HERE / "work", help="scratch folder")
    parser.add_argument("--little-steps", type=int, default=100, help=f"of {BATCH} pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="print the tables of what is done; run nothing")
    options = parser.parse_args()
    path = HERE / "results" / "evidence.json"
    started = time.perf_counter()
    if not options.table:
        run(options, path)
        print(f"{time.perf_counter() - started:.0f} s in all")
    results = json.loads(path.read_text())
    print(tables(results))
    print(f"\n{results['about']}")


if __name__ == "__main__":
    main()
