"""The classifier that is pretrained: training steps, BatchNorm statistics at the end, accuracy."""

from __future__ import annotations

from collections.abc import Iterable

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from seg_transfer.catalogue.encoders import ENCODERS, EncoderEntry, entry
from seg_transfer.errors import UserError
from seg_transfer.training.checkpoint import load_optimizer, optimizer_tensors, under_prefix, with_prefix
from seg_transfer.transfer.unfreezing import recalibrate_batchnorm

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
LABEL_SMOOTHING = 0.1
TOP = 5

Batches = Iterable[tuple[Tensor, Tensor]]
"""Of images ``(n, 3, side, side)`` from 0 to 1, and labels ``(n,)``."""


def known_architecture(name: str, smallest: int) -> EncoderEntry:
    """The catalogue's entry of an encoder that can be trained here.

    Args:
        name: Name in the catalogue.
        smallest: Side in pixels of the smallest training images.

    Raises:
        UserError: If there is no such encoder, timm does not have it, or it needs larger images.
    """
    known = entry(name)
    if known.library != "timm":
        theirs = ", ".join(one for one, other in ENCODERS.items() if other.library == "timm")
        raise UserError(f"{name} is not one of timm's networks", where="--encoder", hint=f"choose one of: {theirs}")
    with torch.device("meta"):
        network = timm.create_model(known.library_name, pretrained=False).eval()
        try:
            network(torch.empty(2, 3, smallest, smallest))
        except RuntimeError:
            what = f"training starts with images of {smallest} pixels, which are too small for {name}"
            raise UserError(what, where="--side", hint="choose a larger --side, or another --encoder") from None
    return known


class Learner:
    """Network and optimizer.

    Args:
        known: The network; images are normalized as its catalogue entry says.
        classes: Number of classes.
        seed: Of the random weights.
        device: ``cpu``, ``cuda:N`` or ``mps``.
        bfloat16: Whether to compute in bfloat16; weights stay float32.
    """

    def __init__(self, known: EncoderEntry, classes: int, *, seed: int, device: str, bfloat16: bool) -> None:
        torch.manual_seed(seed)
        self.device = torch.device(device)
        network = timm.create_model(known.library_name, pretrained=False, num_classes=classes)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self.has_batchnorm = known.batchnorm
        self.optimizer = make_optimizer(self.network)
        self._names = {id(parameter): name for name, parameter in self.network.named_parameters()}
        self._mean, self._std = (
            torch.tensor(values, device=self.device).view(1, 3, 1, 1) for values in (known.mean, known.std)
        )
        self._autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16)

    def step(self, images: Tensor, labels: Tensor, rate: float) -> float:
        """Learn from one batch at a learning rate.

        Returns:
            The loss before the step; if it is not finite the step is skipped.
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

    def reestimate(self, batches: Iterable[Tensor]) -> None:
        """Estimate BatchNorm statistics again from images ``(n, 3, side, side)``, if the network has BatchNorm.

        Those of the training are of cropped and changed images, mostly of smaller ones.
        """
        if self.has_batchnorm:
            with self._autocast:
                recalibrate_batchnorm(self.network, self.network, map(self._normalized, batches))

    def round(self) -> None:
        """Round weights and statistics to float16, so that accuracy is measured on what is saved."""
        self.network.load_state_dict(self.kept())

    @torch.no_grad()
    def accuracy(self, batches: Batches) -> tuple[float, float]:
        """Shares of images whose class is the first guess, and among the first five."""
        self.network.eval()
        first = among = count = 0
        for images, labels in batches:
            with self._autocast:
                logits = self.network(self._normalized(images)).float().cpu()
            hits = logits.topk(min(TOP, logits.shape[1])).indices == labels[:, None]
            first, among, count = first + int(hits[:, 0].sum()), among + int(hits.sum()), count + len(labels)
        return first / count, among / count

    def kept(self) -> dict[str, Tensor]:
        """State dict to save: timm's names, float16, step counters unchanged."""
        return {
            name: (tensor.half() if tensor.is_floating_point() else tensor).cpu().contiguous()
            for name, tensor in self.network.state_dict().items()
        }

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that resuming needs."""
        momenta = optimizer_tensors(self.optimizer, self._names)
        return with_prefix("network", self.network.state_dict()) | with_prefix("optimizer", momenta)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Resume from :meth:`tensors`."""
        self.network.load_state_dict(under_prefix("network", tensors))
        load_optimizer(self.optimizer, self._names, under_prefix("optimizer", tensors))

    def _normalized(self, images: Tensor) -> Tensor:
        x = (images.to(self.device) - self._mean) / self._std
        return x.contiguous(memory_format=torch.channels_last)


def make_optimizer(network: nn.Module) -> torch.optim.SGD:
    """SGD with Nesterov momentum; weight decay on the weights of convolutions alone."""
    convolutions = {id(module.weight) for module in network.modules() if isinstance(module, nn.Conv2d)}
    groups = [
        {"params": [p for p in network.parameters() if id(p) in convolutions], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in network.parameters() if id(p) not in convolutions], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, nesterov=True)
