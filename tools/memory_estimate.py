"""Check the planner's memory estimate: what a training step keeps for its backward pass, estimated and measured.

    python tools/memory_estimate.py

Measured are the bytes that autograd's saved tensors hold on a CPU under bfloat16 autocast, each storage once, through
the whole network and its loss: of two samples minus those of one, so that weights and their copies drop out. None of
these patches was used to make the catalogue's table, which is measured stage by stage at 128 x 128.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import get_args

import torch

from seg_transfer.catalogue.encoders import ENCODERS, entry
from seg_transfer.network.build import build_network
from seg_transfer.planning.cost import Configuration, NetworkSize, saved_bytes
from seg_transfer.planning.fields import Triple
from seg_transfer.planning.plan import ModelPlan, Weights
from seg_transfer.planning.rules.decoder import decoder_channels
from seg_transfer.planning.rules.strategy import LOWER_STAGES, STRATEGIES
from seg_transfer.training.losses import deep_loss
from seg_transfer.transfer.describe import recorded
from seg_transfer.transfer.unfreezing import StrategySchedule

PATCHES: dict[Configuration, Triple] = {"2d": (1, 160, 96), "2.5d": (5, 96, 224), "3d": (24, 72, 88)}


@dataclass(frozen=True)
class Case:
    """A network, what it reads and how it learns."""

    encoder: str
    configuration: Configuration
    strategy: str
    patch: Triple
    stages: int
    slice_strides: tuple[int, ...] = ()
    channels: int = 1
    classes: int = 4

    def network_size(self) -> NetworkSize:
        """What the planner knows of it."""
        known = entry(self.encoder)
        widths, _ = decoder_channels(known.strides[: self.stages], "cpu")
        return NetworkSize(
            entry=known,
            configuration=self.configuration,
            patch=self.patch,
            stages=self.stages,
            slice_strides=self.slice_strides,
            decoder_channels=widths,
            channels=self.channels,
            classes=self.classes,
            frozen={"frozen": self.stages, "partial": LOWER_STAGES}.get(self.strategy, 0),
        )


def measured(case: Case) -> int:
    """Bytes that a sample adds to what a training step keeps."""
    size = case.network_size()
    model = ModelPlan(
        configuration=case.configuration,
        patch=case.patch,
        encoder=case.encoder,
        weights=Weights(source="none"),
        stages=case.stages,
        slice_strides=case.slice_strides,
        input_mapping="as_is",
        decoder_channels=size.decoder_channels,
    )
    network, _ = build_network(model, channels=case.channels, classes=case.classes, seed=0)
    network.train()
    strategy = STRATEGIES[case.strategy](model)
    if case.strategy != "scratch":
        strategy = strategy.model_copy(update={"batchnorm": "recalibrated"})  # as with pretrained weights
    StrategySchedule(network, strategy, warmup=0.0).apply(progress=1.0)
    slices = case.patch[0] if case.configuration == "3d" else 1
    totals = []
    for batch in (1, 2):
        image = torch.randn(batch, case.channels, *case.patch)
        target = torch.randint(0, case.classes, (batch, slices, *case.patch[1:]))
        with recorded() as seen:
            with torch.autocast("cpu", torch.bfloat16):
                outputs = network.forward_deep(image)
            deep_loss(outputs, target)
        known = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
        totals.append(sum(storage.nbytes() for key, storage in seen.items() if key not in known))
    return totals[1] - totals[0]


def cases() -> list[Case]:
    """Every encoder in every configuration, fine-tuned; and each strategy on some."""
    chosen = []
    for name, known in ENCODERS.items():
        for configuration in get_args(Configuration):
            if configuration == "3d" and not known.volumes:
                continue
            stages = len(known.strides) - 1
            strides = (1, 2, 2, 1)[:stages] if configuration == "3d" else ()
            case = Case(name, configuration, "finetune", PATCHES[configuration], stages, strides)
            chosen.append(case)
            chosen.append(replace(case, strategy="partial"))
    for name in ("resnet18", "convnext_tiny", "densenet121", "mobilenetv3_large_100"):
        stages = len(entry(name).strides)
        chosen.append(Case(name, "2d", "scratch", (1, 192, 320), stages, channels=3, classes=2))
        chosen.append(Case(name, "2d", "frozen", (1, 192, 320), stages, channels=3, classes=2))
        chosen.append(Case(name, "3d", "scratch", (40, 56, 40), 3, (2, 2, 2), classes=3))
        chosen.append(Case(name, "3d", "frozen", (40, 56, 40), 3, (2, 2, 2), classes=3))
    return chosen


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| encoder | configuration | patch | stages | strategy | measured MB | estimated MB | estimated / measured |")
    print("|---|---|---|---|---|---|---|---|")
    ratios = []
    for case in cases():
        truth, guess = measured(case), saved_bytes(case.network_size(), 1)
        ratios.append(guess / truth)
        patch = " x ".join(map(str, case.patch))
        network = f"{case.encoder} | {case.configuration} | {patch} | {case.stages} | {case.strategy}"
        print(f"| {network} | {truth / 1e6:.1f} | {guess / 1e6:.1f} | {guess / truth:.2f} |", flush=True)
    print(f"\n{len(ratios)} networks: estimated / measured from {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
