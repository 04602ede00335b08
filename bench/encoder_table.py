"""Makes the encoder table that the catalogue reads: what timm records, and what one level costs, as measured.

Run from the repository's root: ``python bench/encoder_table.py`` rewrites ``seg_transfer/encoders.json``.
"""

from __future__ import annotations

import json
from pathlib import Path

import timm
import torch
from timm.models import get_pretrained_cfg
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from seg_transfer.files import write_text
from seg_transfer.transfer.encoder import split_levels

TABLE = Path(__file__).resolve().parents[1] / "seg_transfer" / "encoders.json"
SIDE = 128
# Commits of the hub repositories that added the weights, as the hub's pages list them; a branch where none is known.
REVISIONS = {
    "resnet18": "b9c542640ca04a6acab6e1ecff124a2d6ef1951d",
    "resnet34": "main",
    "resnet50": "93271f4677dbf7b4d7f7e7d9d7811bd66c327e56",
    "vgg16_bn": "e00c01e7cee168262dcba6428dc4a8f41e27e965",
}


def describe(name: str) -> dict[str, object]:
    """One row of the table: everything planning must know about an encoder without torch."""
    source = get_pretrained_cfg(name)
    network = timm.create_model(name, features_only=True, pretrained=False)
    levels = split_levels(network)
    return {
        "timm_name": name,
        "channels": [level.channels for level in levels],
        "strides": [level.stride for level in levels],
        "mean": list(source.mean),
        "std": list(source.std),
        "licence": source.license,
        "repository": source.hf_hub_id,
        "revision": REVISIONS[name],
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        **measure(name),
    }


def measure(name: str) -> dict[str, object]:
    """Saved elements and forward flops per input pixel of each level, in 2D with three channels.

    A tensor that several operations save is counted once, at the level that saves it first.
    """
    torch.manual_seed(0)
    levels = [level.modules for level in split_levels(timm.create_model(name, features_only=True, pretrained=False))]
    seen: dict[int, torch.UntypedStorage] = {}
    parameters = {parameter.untyped_storage().data_ptr() for level in levels for parameter in level.parameters()}
    saved: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen and storage.data_ptr() not in parameters:
            seen[storage.data_ptr()] = storage
            saved[-1] += tensor.numel()
        return tensor

    flops = []
    x = torch.randn(1, 3, SIDE, SIDE)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        for level in levels:
            saved.append(0)
            with FlopCounterMode(display=False) as counter:
                x = level(x)
            flops.append(counter.get_total_flops())
    pixels = SIDE * SIDE
    return {
        "parameters_per_level": [sum(p.numel() for p in level.parameters()) for level in levels],
        "saved_elements": [round(count / pixels, 3) for count in saved],
        "flops": [round(count / pixels, 1) for count in flops],
    }


def main() -> None:
    table = {name: describe(name) for name in REVISIONS}
    write_text(TABLE, json.dumps(table, indent=1) + "\n")
    print(f"{'encoder':10} {'parameters':>11} saved elements per input pixel and level")
    for name, row in table.items():
        print(f"{name:10} {row['parameters']:>11,} {row['saved_elements']}")


if __name__ == "__main__":
    main()
