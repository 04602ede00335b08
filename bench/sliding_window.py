"""Our sliding window beside MONAI's, and what batching windows brings: ``python bench/sliding_window.py``.

The volume's size makes both choose the same windows, and MONAI's is given our weights: its own are raised to at least
0.001 of the centre's, which at the volume's border gives windows that see a voxel at their corner the same say as those
that see it at their side. MONAI's cannot serve 2.5D, where a stack goes in and one slice comes out.
"""

from __future__ import annotations

import time

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor

from seg_transfer.inference.predictor import LAYOUTS
from seg_transfer.inference.sliding_window import gaussian, predict_volume
from seg_transfer.network.build import build_network
from seg_transfer.planning.plan import ModelPlan, Weights

SHAPE = (48, 128, 96)
PATCHES = {"2d": (1, 64, 64), "2.5d": (5, 64, 64), "3d": (32, 64, 64)}


def main() -> None:
    torch.set_num_threads(1)
    volume = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(0))
    print(f"ResNet-18, three levels, bf16, volume {SHAPE}; CPU seconds on one thread")
    for configuration, patch in PATCHES.items():
        model = ModelPlan(
            configuration=configuration,
            patch=patch,
            encoder="resnet18",
            weights=Weights(source="none"),
            stages=3,
            slice_strides=(1, 1, 2) if configuration == "3d" else (),
            input_mapping="as_is",
            decoder_channels=(16, 32, 64),
        )
        network, _ = build_network(model, channels=1, classes=3, seed=0, load=False)
        for parameter in network.eval().parameters():
            if parameter.dim() in LAYOUTS:
                parameter.data = parameter.data.to(memory_format=LAYOUTS[parameter.dim()])

        def scores(windows: Tensor, network: torch.nn.Module = network) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return network(windows).float().softmax(1)

        for batch in (1, 4, 16):
            predict_volume(scores, volume, model, 3, batch=batch)
            start = time.process_time()
            ours = predict_volume(scores, volume, model, 3, batch=batch)
            line = f"  {configuration:5} {batch:2} windows a call: ours {time.process_time() - start:6.2f}"
            if configuration != "2.5d":
                start = time.process_time()
                with torch.inference_mode():
                    theirs = sliding_window_inference(
                        volume[None],
                        patch,
                        batch,
                        scores,
                        overlap=0.5,
                        roi_weight_map=gaussian(patch),
                    )
                line += f"   MONAI {time.process_time() - start:6.2f}   differ by {(ours - theirs[0]).abs().max():.0e}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
