"""Make the encoder table that the catalogue reads: what the libraries record, and the measured cost of each stage.

``python tools/encoder_table.py`` rewrites ``seg_transfer/catalogue/encoders.json``, all but ``slowness``, which
``tools/encoder_speed.py`` measures. It uses torch's fake tensors, which have sizes and storages but no data: the table
takes seconds and no memory.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torchvision

from seg_transfer.transfer.describe import KINDS, measure, pyramid, timm_source
from seg_transfer.transfer.on_meta import on_meta
from seg_transfer.transfer.stages import Library, load_stages
from seg_transfer.util.files import write_text

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "seg_transfer" / "catalogue" / "encoders.json"


@dataclass(frozen=True)
class Source:
    """What the libraries do not record of an encoder; an entry of ``SOURCES`` adds one that timm has.

    Attributes:
        revision: Commit of the hub repository that added the weights, as the hub's page lists it; a branch where it is
            not known.
        library: Whose modules and weights it has.
        library_name: Name in that library; empty: the name in the catalogue.
        volumes: Whether its modules convert to 3D.
    """

    revision: str = "main"
    library: Library = "timm"
    library_name: str = ""
    volumes: bool = True


SOURCES = {
    "resnet18": Source("b9c542640ca04a6acab6e1ecff124a2d6ef1951d"),
    "resnet34": Source(),
    "resnet50": Source("93271f4677dbf7b4d7f7e7d9d7811bd66c327e56"),
    "resnext50": Source(library_name="resnext50_32x4d"),
    "vgg16_bn": Source("e00c01e7cee168262dcba6428dc4a8f41e27e965"),
    "efficientnet_b0": Source("1b5383e5f79cc0f7fc067e372f8f26a5fa73f26a"),
    "convnext_tiny": Source("aa096f03029c7f0ec052013f64c819b34f8ad790"),
    "mobilenetv3_large_100": Source("96f46a1c52932f27492dff66c72378eb99b443a7"),
    "densenet121": Source("92007b6200e0b4a4fe68cb4e3947022a928aaaae"),
    # Its blocks pool with a 2D function in their forward pass: there is no module to convert.
    "inception_v3": Source(volumes=False),
    "regnety_016": Source(),
    "alexnet": Source(library="torchvision"),
    "tf_efficientnet_lite0": Source(),
    "tf_efficientnet_lite1": Source(),
    "tf_efficientnet_lite2": Source(),
    "resnet18d": Source(),
    "mobilenetv4_conv_small": Source(),
    "efficientnet_es": Source(),
    "mobilenet_edgetpu_v2_m": Source(),
    # Their first stage has two strides: along the slice axis both would count.
    "hgnetv2_b0": Source(volumes=False),
    "hgnetv2_b2": Source(volumes=False),
    "convnext_atto": Source(),
    "repvgg_a0": Source(),
}
TORCHVISION_LICENCE = "bsd-3-clause"


def describe(name: str) -> dict[str, object]:
    """One row of the table: everything planning must know about an encoder without torch."""
    source = SOURCES[name]
    library, library_name = source.library, source.library_name or name
    with on_meta():
        stages = load_stages(library, library_name, 3)
    kinds = list(KINDS) if source.volumes else ["flat"]
    return {
        "library": library,
        "library_name": library_name,
        **(_torchvision_source(name) if library == "torchvision" else timm_source(library_name, source.revision)),
        **pyramid(stages),
        "volumes": source.volumes,
        "costs": {kind: measure(library, library_name, KINDS[kind]) for kind in kinds},
    }


def _torchvision_source(name: str) -> dict[str, object]:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    scaling = weights.transforms()
    return {
        "mean": scaling.mean,
        "std": scaling.std,
        "licence": TORCHVISION_LICENCE,
        "repository": "",
        "revision": str(weights),
        "file": weights.url.rpartition("/")[2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="describe these alone, keep the other rows")
    names = parser.parse_args().names or list(SOURCES)
    before = json.loads(TABLE.read_text(encoding="utf-8"))["encoders"]
    rows = {}
    print(f"{'encoder':22} {'kind':8} {'parameters':>11} saved elements per input pixel and stage")
    for name in SOURCES:
        if name not in names and name in before:
            rows[name] = before[name]
            continue
        row = describe(name)
        rows[name] = {**row, "slowness": before.get(name, {}).get("slowness", [None, None])}
        for kind, costs in row["costs"].items():
            print(f"{name:22} {kind:8} {sum(costs['parameters']):>11,} {costs['saved_elements']}", flush=True)
    save(rows)


def save(rows: dict[str, dict[str, object]]) -> None:
    """Write the table with a list on each line."""
    versions = {library.__name__: library.__version__ for library in (torch, timm, torchvision)}
    text = json.dumps({"made_with": versions, "encoders": rows}, indent=1)
    text = re.sub(
        r"\[[^\[\]]*\]", lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]"), text
    )
    write_text(TABLE, text + "\n")


if __name__ == "__main__":
    main()
