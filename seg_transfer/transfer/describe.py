"""Describes an encoder of timm or torchvision: its pyramid, licence, and the cost of each stage.

Costs are measured on torch's fake tensors, which have sizes and storages but no data: that takes seconds and no memory.
``timm/NAME`` is described where it is used; the catalogue's encoders are described once, by ``tools/encoder_table.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm

from seg_transfer.catalogue.encoders import DESCRIBED, ENCODERS, TIMM, EncoderEntry, StageCosts, StageKind, entry
from seg_transfer.errors import UserError
from seg_transfer.transfer.inflate import inflate_modules
from seg_transfer.transfer.on_meta import on_meta
from seg_transfer.transfer.stages import Library, Stage, load_stages

SIDE, SLICES = 128, 16
ODD = (3, 3, 65, 97)
"""Sizes of the image that checks whether every stage rounds its size up."""
KINDS: dict[StageKind, int | None] = {"flat": None, "deep": 1, "strided": 2}
"""Kind of stage -> stride along the slice axis; None: 2D."""
STRIDES = ((2, 4, 8, 16, 32), (4, 8, 16, 32))


def describe(name: str, where: str = "encoder") -> EncoderEntry:
    """The entry of an encoder; one called ``timm/NAME`` is described once in a process.

    Args:
        name: Name in the catalogue, or ``timm/NAME``.
        where: What gives the name, for the error.

    Raises:
        UserError: If timm has no such network, or it is no pyramid of 2D maps that segtl can use; it says why.
    """
    if name in DESCRIBED or not name.startswith(TIMM):
        return entry(name, where)
    import timm

    library_name = name.removeprefix(TIMM)
    if not timm.is_model(library_name):
        close = ", ".join(f"{TIMM}{each}" for each in timm.list_models(f"*{library_name.split('_')[0]}*")[:5])
        hint = f"such as {close}" if close else "`timm.list_models()` has the names"
        raise UserError(f"timm has no network {library_name!r}", where=where, hint=hint)
    reason, stages = _usable_stages(library_name)
    if reason:
        hint = f"choose a convolutional network, or one of: {', '.join(ENCODERS)}"
        raise UserError(f"{name} cannot be an encoder: {reason}", where=where, hint=hint)
    DESCRIBED[name] = EncoderEntry(
        name=name,
        library="timm",
        library_name=library_name,
        **timm_source(library_name, "main"),
        **pyramid(stages),
        volumes=_converts(library_name),
        costs=_Costs("timm", library_name),
        slowness=(None, None),
    )
    return DESCRIBED[name]


def timm_source(library_name: str, revision: str) -> dict[str, Any]:
    """What timm records of a network's ImageNet weights: the fields of :class:`EncoderEntry` about them."""
    from timm.models import get_pretrained_cfg

    source = get_pretrained_cfg(library_name)
    return {
        "mean": tuple(source.mean) if source else (0.5, 0.5, 0.5),
        "std": tuple(source.std) if source else (0.5, 0.5, 0.5),
        "licence": (source and source.license) or "not recorded by timm",
        "repository": (source and source.hf_hub_id) or "",
        "revision": revision,
        "file": "",
    }


def pyramid(stages: list[Stage]) -> dict[str, Any]:
    """What the modules of all stages tell: the fields of :class:`EncoderEntry` about them."""
    modules = [module for stage in stages for module in stage.modules.modules()]
    return {
        "channels": tuple(stage.channels for stage in stages),
        "strides": tuple(stage.stride for stage in stages),
        "depthwise": any(
            isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1
            for module in modules
        ),
        "batchnorm": any(isinstance(module, _BatchNorm) for module in modules),
        "parameters": sum(parameter.numel() for stage in stages for parameter in stage.modules.parameters()),
    }


class _Costs(Mapping[StageKind, StageCosts]):
    """Costs of each kind of stage, measured when they are asked for: planning needs them, prediction does not."""

    def __init__(self, library: Library, library_name: str) -> None:
        self.library, self.library_name = library, library_name
        self.known: dict[StageKind, StageCosts] = {}

    def __getitem__(self, kind: StageKind) -> StageCosts:
        if kind not in self.known:
            columns = measure(self.library, self.library_name, KINDS[kind])
            self.known[kind] = StageCosts(**{name: tuple(values) for name, values in columns.items()})  # type: ignore
        return self.known[kind]

    def __iter__(self) -> Iterator[StageKind]:
        return iter(KINDS)

    def __len__(self) -> int:
        return len(KINDS)


def _usable_stages(library_name: str) -> tuple[str, list[Stage]]:
    """Why a network of timm cannot be an encoder ("" if it can), and its stages."""
    try:
        with on_meta():
            stages = load_stages("timm", library_name, 3)
    except Exception as error:  # timm's builders raise whatever they meet
        return f"timm does not cut it into stages ({_line(error)})", []
    strides = tuple(stage.stride for stage in stages)
    if strides not in STRIDES:
        found = f"its stages have strides {strides}" if strides else "it gives no maps of 2D positions"
        return f"{found}; needed are 2 or 4, doubled up to 32", stages
    x = torch.empty(ODD, device="meta")
    for stage in stages:
        try:
            with torch.no_grad():
                x = stage.modules(x)
        except Exception as error:
            return f"its stages do not follow each other ({_line(error)})", stages
        expected = (ODD[0], stage.channels, *(math.ceil(size / stage.stride) for size in ODD[2:]))
        if x.shape != expected:
            return f"at stride {stage.stride} a map is {tuple(x.shape)}, not {expected}", stages
    return "", stages


def _converts(library_name: str) -> bool:
    """Whether a network of timm converts to 3D with the sizes that it should have."""
    with on_meta():
        stages = load_stages("timm", library_name, 3)
    x = torch.empty((1, 3, 65, *ODD[2:]), device="meta")
    slices = x.shape[2]
    try:
        with torch.no_grad(), torch.device("meta"):
            for stage in stages:
                x = inflate_modules(stage.modules, 2)(x)
                slices = math.ceil(slices / 2)
                sizes = (slices, *(math.ceil(size / stage.stride) for size in ODD[2:]))
                if x.shape != (1, stage.channels, *sizes):
                    return False
    except Exception:  # a module that reads 2D maps only
        return False
    return True


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def measure(library: Library, library_name: str, slice_stride: int | None) -> dict[str, list[float]]:
    """Parameters, saved elements and forward flops of each stage; see ``catalogue.StageCosts``.

    Each stage reads a random input of its own with three channels or those of the stage before. What a step keeps
    whatever the batch (casted weights) is not counted: it is the difference between two samples and one.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    sizes = (SIDE, SIDE) if slice_stride is None else (SLICES, SIDE, SIDE)
    rows: dict[str, list[float]] = {"parameters": [], "saved_elements": [], "saved_as_lowest": [], "flops": []}
    positions = SIDE * SIDE * (1 if slice_stride is None else SLICES)
    with on_meta():
        stages = load_stages(library, library_name, 3)
        modules = [
            stage.modules if slice_stride is None else inflate_modules(stage.modules, slice_stride) for stage in stages
        ]
    with FakeTensorMode(allow_non_fake_inputs=True):
        shape, dtype = (3, *sizes), torch.float32
        for index, (stage, module) in enumerate(zip(stages, modules, strict=True)):
            module.to_empty(device="cpu")
            for column, below_learns in (("saved_elements", index > 0), ("saved_as_lowest", False)):
                saved, flops = [], []
                for batch in (1, 2):
                    x = torch.empty(batch, *shape, dtype=dtype, requires_grad=below_learns)
                    with torch.autocast("cpu", torch.bfloat16), FlopCounterMode(display=False) as counter:
                        kept, result = saved_bytes(module, x)
                    saved.append(kept)
                    flops.append(counter.get_total_flops())
                rows[column].append(round((saved[1] - saved[0]) / 2 / positions, 3))
            rows["parameters"].append(sum(parameter.numel() for parameter in module.parameters()))
            rows["flops"].append(round(flops[0] / positions, 1))
            plane = result.shape[-2:]
            shape, dtype = (stage.channels, *sizes[:-2], *plane), result.dtype
    return rows


def saved_bytes(module: nn.Module, x: Tensor) -> tuple[int, Tensor]:
    """Bytes that a module keeps for its backward pass, and its result.

    The result is included, the input only where nothing below learns: else it is the result of the stage below.
    """
    with recorded() as seen:
        result = module(x)
    storages = {**seen, **{storage._cdata: storage for storage in (result.untyped_storage(),)}}
    below = [x] if x.requires_grad else []
    known = {tensor.untyped_storage()._cdata for tensor in (*below, *module.parameters(), *module.buffers())}
    return sum(storage.nbytes() for key, storage in storages.items() if key not in known), result


@contextmanager
def recorded() -> Iterator[dict[int, torch.UntypedStorage]]:
    """Storages of what autograd saves meanwhile, each once."""
    seen: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage._cdata] = storage
        return tensor.detach()  # the tensor itself may hold the node that keeps it: a cycle that is never freed

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield seen
