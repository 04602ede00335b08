"""The network as ONNX, for programs that have no torch: patches in, probabilities out.

The graph reads ``image`` ``(batch, channel, slice, u, v)``, float32, any batch and the plan's patch, and gives
``probabilities`` ``(batch, output, slice out, u, v)``, the mean over the folds; there is 1 slice out in 2D and 2.5D.
Resampling, normalization and the sliding window are not in the graph; the plan that says how they are done is, beside
the card, in the model's ``metadata_props`` under ``segtl``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seg_transfer.errors import UserError
from seg_transfer.inference.classes import activate
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.model_file import ModelHeader
from seg_transfer.planning.plan import Plan
from seg_transfer.util.files import whole_file
from seg_transfer.util.records import HEADER_KEY

INPUT, OUTPUT = "image", "probabilities"
NEEDED = ("onnx", "onnxscript")


class MeanProbabilities(nn.Module):
    """Networks of one plan as one: the mean of their probabilities."""

    def __init__(self, networks: Sequence[nn.Module], data: DataPlan) -> None:
        super().__init__()
        self.networks, self.data = nn.ModuleList(networks), data

    def forward(self, image: Tensor) -> Tensor:
        return torch.stack([activate(network(image), self.data) for network in self.networks]).mean(dim=0)


def check_onnx() -> None:
    """Refuse where ONNX's packages are missing.

    Raises:
        UserError: Saying how to install them.
    """
    for name in NEEDED:
        try:
            import_module(name)
        except ImportError:
            hint = "install them: `pip install 'seg-transfer[onnx]'`"
            raise UserError(f"writing ONNX needs the package {name}", where="--onnx", hint=hint) from None


def save_onnx(path: Path, header: ModelHeader, networks: Sequence[nn.Module]) -> None:
    """Write the folds of one plan as one ONNX graph, whole or not at all.

    Torch's exporter by ``torch.export`` is taken: the older one, by tracing, fixes the batch of 3D networks. It notes
    for every node in which file of this machine it stands; that is taken out.

    Args:
        path: Where to.
        header: What the graph says of itself; of one member.
        networks: Those of its folds, on the CPU.
    """
    import onnx

    plan = header.plan
    module = MeanProbabilities(networks, plan.data).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (example(plan, 2),),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None, "torch's newer exporter gives the program back"
    model = program.model_proto
    _strip_debug_metadata(model)
    model.producer_name, model.producer_version = "segtl", header.segtl
    model.metadata_props.add(key=HEADER_KEY, value=header.to_json())
    with whole_file(path) as temporary:
        onnx.save(model, temporary)


def example(plan: Plan, batch: int) -> Tensor:
    """Input of the plan's network, ``(batch, channel, slice, u, v)``."""
    return torch.zeros(batch, len(plan.data.channels), *plan.model.patch)


def _strip_debug_metadata(message: Any) -> None:
    """Clear what the exporter notes about its way here, in a model and everything inside it."""
    for field, content in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for inner in content if field.is_repeated else [content]:
                _strip_debug_metadata(inner)
