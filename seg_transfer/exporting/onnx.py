"""The network as ONNX, for programs without torch: patches in, probabilities out.

The graph reads ``image`` ``(batch, channel, slice, u, v)``, float32, with any batch size and the plan's patch, and
returns ``probabilities`` ``(batch, output, slice out, u, v)``, the mean over the folds; 1 slice out in 2D and 2.5D.
If the plan has positions, the last four channels are the patch's position maps
(:mod:`~seg_transfer.preprocessing.extent`); zeros do without them. Resampling, normalization and the sliding window are
not in the graph. The plan with their parameters and the card are in the model's ``metadata_props`` under ``segtl``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seg_transfer.inference.classes import activate
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.model_file import ModelHeader
from seg_transfer.preprocessing.extent import position_maps
from seg_transfer.util.files import whole_file
from seg_transfer.util.records import HEADER_KEY


class MeanProbabilities(nn.Module):
    """The mean of the probabilities of several networks of one plan."""

    def __init__(self, networks: Sequence[nn.Module], data: DataPlan) -> None:
        super().__init__()
        self.networks, self.data = nn.ModuleList(networks), data

    def forward(self, image: Tensor) -> Tensor:
        return torch.stack([activate(network(image), self.data) for network in self.networks]).mean(dim=0)


def save_onnx(path: Path, header: ModelHeader, networks: Sequence[nn.Module]) -> None:
    """Write the folds of one plan as one ONNX graph, whole or not at all.

    The exporter is the one by ``torch.export``: the older one, by tracing, fixes the batch size of 3D networks. The
    source locations that it records for every node, which are paths on this machine, are removed.

    Args:
        path: The ONNX file.
        header: Header of a model with a single member.
        networks: The networks of its folds, on the CPU.
    """
    import onnx

    plan = header.plan
    channels = len(plan.data.channels) + position_maps(plan.model)
    example = torch.zeros(2, channels, *plan.model.patch)
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        program = torch.onnx.export(
            MeanProbabilities(networks, plan.data).eval(),
            (example,),
            input_names=["image"],
            output_names=["probabilities"],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None, "the exporter by torch.export returns the program"
    model = program.model_proto
    _strip_debug_metadata(model)
    model.producer_name, model.producer_version = "segtl", header.segtl
    model.metadata_props.add(key=HEADER_KEY, value=header.to_json())
    with whole_file(path, needed=model.ByteSize()) as temporary:
        onnx.save(model, temporary)


def _strip_debug_metadata(message: Any) -> None:
    """Remove source locations and other notes of the exporter from a protobuf message and all messages in it."""
    for field, content in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for inner in content if field.is_repeated else [content]:
                _strip_debug_metadata(inner)
