"""The classifier that is pretrained: training steps, recalibration of BatchNorm, accuracy."""

from __future__ import annotations

from collections.abc import Iterable

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from seg_transfer.catalogue.encoders import ENCODERS, EncoderEntry
from seg_transfer.errors import UserError
from seg_transfer.training.checkpoint import load_optimizer, optimizer_tensors, under_prefix, with_prefix
from seg_transfer.transfer.describe import describe
from seg_transfer.transfer.on_meta import on_meta
from seg_transfer.transfer.small_maps import guard_small_maps
from seg_transfer.transfer.unfreezing import recalibrate_batchnorm

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
LABEL_SMOOTHING = 0.1
TOP = 5

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images ``(n, 3, side, side)`` from 0 to 1, and labels ``(n,)``."""


def trainable_encoder(name: str, smallest: int) -> EncoderEntry:
    """The catalogue entry of an encoder that can be pretrained.

    Args:
        name: Name in the catalogue, or ``timm/NAME``.
        smallest: Side in pixels of the smallest training images.

    Raises:
        UserError: If there is no such encoder, it is not in timm, or it needs larger images.
    """
    encoder = describe(name, "--encoder")
    if encoder.library != "timm":
        names = ", ".join(other for other, candidate in ENCODERS.items() if candidate.library == "timm")
        raise UserError(f"{name} is not one of timm's networks", where="--encoder", hint=f"choose one of: {names}")
    with on_meta():
        network = timm.create_model(encoder.library_name, pretrained=False).eval()
    with torch.device("meta"):
        try:
            network(torch.empty(2, 3, smallest, smallest))
        except RuntimeError:
            what = f"training starts with images of {smallest} pixels, which are too small for {name}"
            raise UserError(what, where="--side", hint="choose a larger --side, or another --encoder") from None
    return encoder


class Learner:
    """Network and optimizer.

    Args:
        encoder: The network; images are normalized with the mean and standard deviation of its catalogue entry.
        classes: Number of classes.
        seed: Random seed of the weights.
        device: ``cpu``, ``cuda:N`` or ``mps``.
        bfloat16: Whether to compute in bfloat16; weights stay float32.
    """

    def __init__(self, encoder: EncoderEntry, classes: int, *, seed: int, device: str, bfloat16: bool) -> None:
        torch.manual_seed(seed)
        self.device = torch.device(device)
        network = timm.create_model(encoder.library_name, pretrained=False, num_classes=classes)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        if bfloat16:
            guard_small_maps(self.network)
        self.has_batchnorm = encoder.batchnorm
        self.optimizer = make_optimizer(self.network)
        self._names = {id(parameter): name for name, parameter in self.network.named_parameters()}
        self._mean, self._std = (
            torch.tensor(values, device=self.device).view(1, 3, 1, 1) for values in (encoder.mean, encoder.std)
        )
        self._autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16)

    def step(self, images: Tensor, labels: Tensor, rate: float) -> float:
        """Take one optimizer step at a learning rate; it is skipped if the loss is not finite.

        Returns:
            The loss before the step.
        """
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self._autocast:
            logits = self.network(self._normalized(images))
        loss = functional.cross_entropy(logits.float(), labels.to(self.device), label_smoothing=LABEL_SMOOTHING)
        value = loss.item()
        if torch.isfinite(loss):
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        return value

    def recalibrate(self, batches: Iterable[Tensor]) -> None:
        """Estimate BatchNorm statistics again from images ``(n, 3, side, side)``, if the network has BatchNorm.

        Statistics of the training are of augmented and mostly smaller images.
        """
        if self.has_batchnorm:
            with self._autocast:
                recalibrate_batchnorm(self.network, self.network, map(self._normalized, batches))

    @torch.no_grad()
    def accuracy(self, batches: Batches) -> tuple[float, float]:
        """Top-1 and top-5 accuracy."""
        self.network.eval()
        top1 = top5 = count = 0
        for images, labels in batches:
            with self._autocast:
                logits = self.network(self._normalized(images)).float().cpu()
            hits = logits.topk(min(TOP, logits.shape[1])).indices == labels[:, None]
            top1, top5, count = top1 + int(hits[:, 0].sum()), top5 + int(hits.sum()), count + len(labels)
        return top1 / count, top5 / count

    def float16_state(self) -> dict[str, Tensor]:
        """State dict to save: timm's names, float16, step counters unchanged."""
        return {
            name: (tensor.half() if tensor.is_floating_point() else tensor).cpu().contiguous()
            for name, tensor in self.network.state_dict().items()
        }

    def tensors(self) -> dict[str, Tensor]:
        """State of network and optimizer for a checkpoint."""
        momenta = optimizer_tensors(self.optimizer, self._names)
        return with_prefix("network", self.network.state_dict()) | with_prefix("optimizer", momenta)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Load the result of :meth:`tensors`."""
        self.network.load_state_dict(under_prefix("network", tensors))
        load_optimizer(self.optimizer, self._names, under_prefix("optimizer", tensors))

    def _normalized(self, images: Tensor) -> Tensor:
        x = (images.to(self.device) - self._mean) / self._std
        return x.contiguous(memory_format=torch.channels_last)


def make_optimizer(network: nn.Module) -> torch.optim.SGD:
    """SGD with Nesterov momentum; weight decay only on the weights of convolutions."""
    convolutions = {id(module.weight) for module in network.modules() if isinstance(module, nn.Conv2d)}
    groups = [
        {"params": [p for p in network.parameters() if id(p) in convolutions], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in network.parameters() if id(p) not in convolutions], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, nesterov=True)
