"""Network, optimizer, averaged weights and strategy schedule of a training, one step at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision, Precision
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import Tensor

from seg_transfer.network.build import build_network, lay_channels_last
from seg_transfer.network.depthwise import speed_up_depthwise
from seg_transfer.network.unet import UNet
from seg_transfer.planning.plan import Plan
from seg_transfer.training.augment import apply, sample_transforms
from seg_transfer.training.batches import Batch, seeded_generator
from seg_transfer.training.checkpoint import load_optimizer, optimizer_tensors, under_prefix, with_prefix
from seg_transfer.training.ema import AveragedNetwork
from seg_transfer.training.losses import overlap_counts, plan_loss
from seg_transfer.training.ranks import ALONE, Ranks
from seg_transfer.training.schedule import rate_factor
from seg_transfer.transfer.small_maps import guard_small_maps
from seg_transfer.transfer.unfreezing import StrategySchedule, recalibrate_batchnorm
from seg_transfer.util.statistics import dice, none_if_undefined

ADAM_BETAS = (0.9, 0.999)
"""Defaults of AdamW (Loshchilov and Hutter, ICLR 2019), which adapts to the different gradients of a pretrained encoder
and a new decoder without tuning."""


class StepResult(NamedTuple):
    """Loss of a step, and whether loss and gradient were finite, so that the weights changed."""

    loss: float
    learned: bool


class Validated(NamedTuple):
    """Loss, as of training, and Dice over all voxels, per label or region; None where not finite or absent."""

    loss: float | None
    dice: dict[str, float | None]


class Trainer:
    """Everything that training changes.

    Args:
        plan: The plan to train.
        seed: Random seed of weights and augmentation.
        device: ``cpu``, ``cuda:N`` or ``mps``.
        load: Load pretrained weights; False before a checkpoint.
        ranks: The processes that share every batch.
    """

    def __init__(self, plan: Plan, *, seed: int, device: str, load: bool, ranks: Ranks = ALONE) -> None:
        model, recipe = plan.model, plan.recipe
        self.ranks = ranks
        self.plan, self.seed, self.device = plan, seed, torch.device(device)
        network, self.report = build_network(
            model,
            channels=len(plan.data.channels),
            classes=len(plan.data.outputs),
            seed=seed,
            pretrained_stages=recipe.strategy.pretrained_stages if load else 0,
        )
        assert isinstance(network, UNet), "classifiers are fitted, not trained"
        self.network = network.to(self.device)
        if recipe.depthwise_gradients == "fast":
            speed_up_depthwise(self.network.encoder)
        if recipe.precision == "bfloat16":
            guard_small_maps(self.network)
        lay_channels_last(self.network)
        self.schedule = StrategySchedule(self.network, recipe.strategy, warmup=recipe.warmup)
        self._fabric = Fabric(
            accelerator=self.device.type,
            devices=[self.device.index or 0] if self.device.type == "cuda" else 1,
            plugins=[
                # a plugin, since Fabric prints a precision that is given by name
                MixedPrecision("bf16-mixed", device) if recipe.precision == "bfloat16" else Precision(),
                # else Fabric looks for other processes, and refuses tasks of Slurm, each of which trains its own fold
                LightningEnvironment(),
            ],
        )
        self.optimizer = torch.optim.AdamW(
            self.schedule.parameter_groups(recipe.learning_rate, recipe.weight_decay),
            lr=recipe.learning_rate,
            betas=ADAM_BETAS,
            fused=True,  # 14 ms instead of 36 ms for 12 M parameters on one core (bench/parts.py)
        )
        self._module, self._optimizer = self._fabric.setup(self.network, self.optimizer)
        self._module.mark_forward_method("forward_deep")
        self._names = {id(parameter): name for name, parameter in self.network.named_parameters()}
        self.averaged = AveragedNetwork(self.network, recipe.ema_decay)

    def recalibrate(self, images: Iterable[Tensor]) -> None:
        """Re-estimate the encoder's BatchNorm statistics on training patches ``(batch, channel, slice, u, v)``.

        Call it before the first step only: it resets the averaged weights.
        """
        with self._fabric.autocast():
            recalibrate_batchnorm(self.network, self.network.encoder, (image.to(self.device) for image in images))
        self.averaged = AveragedNetwork(self.network, self.plan.recipe.ema_decay)

    def rates(self, progress: float) -> dict[str, float]:
        """Learning rate of the decoder and of each encoder stage."""
        recipe = self.plan.recipe
        peak = recipe.learning_rate * rate_factor(progress, recipe.warmup)
        return {group: peak * scale for group, scale in self.schedule.lr_scales(progress).items()}

    def step(self, batch: Batch, step: int, progress: float) -> StepResult:
        """Learn from one batch; a loss or gradient that is not finite changes no weights.

        Args:
            batch: This rank's samples of a batch, on the CPU, not augmented.
            step: Counted from 0; decides the augmentation.
            progress: Share of the budget used before this step.
        """
        recipe = self.plan.recipe
        # for drop path in the encoder: of each rank its own
        name = f"rank {self.ranks.rank}" if self.ranks.rank else ""
        torch.manual_seed(int(seeded_generator(self.seed, "augment", step, name).integers(2**31)))
        self.network.train()
        self.schedule.apply(progress)
        rates = self.rates(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rates[group["name"].removesuffix(".no_decay")]
        loss = self.loss(*self._augment(batch, step))
        self._optimizer.zero_grad(set_to_none=True)
        self._fabric.backward(loss)
        self.ranks.combine(self.network)
        norm = self._fabric.clip_gradients(
            self._module, self._optimizer, max_norm=recipe.gradient_clip, error_if_nonfinite=False
        )
        assert norm is not None, "clipping by a norm gives it"
        value, length = torch.stack([loss.detach(), norm]).tolist()  # the only wait for a GPU in a step
        learned = math.isfinite(value) and math.isfinite(length)
        if learned:
            self._optimizer.step()
            self.averaged.update(self.network, step)
        return StepResult(value, learned)

    def loss(self, image: Tensor, label: Tensor) -> Tensor:
        """Training loss of a batch of which this rank has the samples, with deep supervision if the plan has it."""
        with self._fabric.autocast():  # on one device Fabric's own covers forward() only
            deep = self.plan.recipe.deep_supervision
            outputs = self._module.forward_deep(image) if deep else [self._module(image)]
        return plan_loss(outputs, label, self.plan, self.ranks.total)

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> Validated:
        """Loss and Dice of the averaged weights over the batches of all ranks."""
        data, network = self.plan.data, self.averaged.network
        assert isinstance(network, UNet), "a copy of the trained network"
        counts = torch.zeros(3, len(data.outputs), dtype=torch.float64)
        losses = []
        for batch in batches:
            image = batch.image.to(self.device)
            with self._fabric.autocast():
                outputs = network.forward_deep(image) if self.plan.recipe.deep_supervision else [network(image)]
            losses.append(float(plan_loss(outputs, batch.label.to(self.device), self.plan)))
            counts += overlap_counts(outputs[0].cpu(), batch.label, data.region_classes)
        parts = self.ranks.gather((losses, counts))
        losses, counts = [loss for part, _ in parts for loss in part], torch.stack([each for _, each in parts]).sum(0)
        each = {
            name: none_if_undefined(dice(common, predicted, reference))
            for name, (predicted, reference, common) in zip(data.outputs, counts.T.tolist(), strict=True)
            if name in data.scored
        }
        loss = float(torch.tensor(losses).mean())
        return Validated(loss if math.isfinite(loss) else None, each)

    def tensors(self) -> dict[str, Tensor]:
        """Network, averaged weights and optimizer state, to resume from."""
        return (
            with_prefix("network", self.network.state_dict())
            | with_prefix("averaged", self.averaged.network.state_dict())
            | with_prefix("optimizer", optimizer_tensors(self.optimizer, self._names))
        )

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Load the tensors of :meth:`tensors`."""
        self.network.load_state_dict(under_prefix("network", tensors))
        self.averaged.network.load_state_dict(under_prefix("averaged", tensors))
        load_optimizer(self.optimizer, self._names, under_prefix("optimizer", tensors))

    def _augment(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        augmentation = self.plan.recipe.augmentation
        if self.plan.model.configuration != "3d":
            augmentation = augmentation.model_copy(update={"rotate_out_of_plane": False})
        image, label = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        channels = len(self.plan.data.channels)
        rows = self.ranks.rows()
        transforms = sample_transforms(
            augmentation,
            batch=len(image) if rows == slice(None) else self.plan.recipe.batch_size,
            channels=channels,
            generator=partial(seeded_generator, self.seed, "augment", step),
            rows=rows,
        )
        out_of_plane = augmentation.rotate_out_of_plane
        maps, spacing = image.shape[1] - channels, self.plan.data.spacing
        return apply(image, label, transforms, spacing=spacing, out_of_plane=out_of_plane, maps=maps)
