"""From measurements and options to a plan: calls the rules in order and records the reason of every decision.

Example:
    >>> options = PlanOptions(dataset=path)
    >>> folds = assign_folds(options, FoldFiles(), fingerprint)
    >>> plan = make_plan(fingerprint, options, folds, Resources(Machine("cpu")))
    >>> plan.model.patch
    (40, 56, 40)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from seg_transfer.catalogue.encoders import EncoderEntry, entry
from seg_transfer.errors import UserError
from seg_transfer.options.choices import Configuration
from seg_transfer.options.plan_options import PlanOptions
from seg_transfer.planning.cost import NetworkSize, parameters, step_flops, step_memory
from seg_transfer.planning.data_decisions import plan_data
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.evidence_record import TransferEvidence
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.folds import FoldAssignment
from seg_transfer.planning.given_grid import GivenGrid
from seg_transfer.planning.grid_statistics import GridStatistics
from seg_transfer.planning.option_checks import check_against_measurements
from seg_transfer.planning.plan import Expected, ModelPlan, Plan, RecipePlan, Weights
from seg_transfer.planning.reasons import Reasons
from seg_transfer.planning.resources import Resources
from seg_transfer.planning.rules import configuration as configuration_rule
from seg_transfer.planning.rules import earlier_model as earlier_model_rule
from seg_transfer.planning.rules import encoder as encoder_rule
from seg_transfer.planning.rules import head as head_rule
from seg_transfer.planning.rules import normalization, optimization
from seg_transfer.planning.rules import position as position_rule
from seg_transfer.planning.rules import race as race_rule
from seg_transfer.planning.rules import strategy as strategy_rule
from seg_transfer.planning.rules.augmentation import (
    NNUNET_REASON,
    augmentation,
    mirror_axes,
    structure_spread,
    tta_axes,
)
from seg_transfer.planning.rules.classic import classic
from seg_transfer.planning.rules.decoder import decoder_channels, is_narrow
from seg_transfer.planning.rules.given_patch import given_patch
from seg_transfer.planning.rules.patch import (
    SMALLEST_BATCH,
    Architecture,
    Limits,
    batch_size,
    fit_patch,
    most_stages,
    slice_strides,
    stack,
)
from seg_transfer.planning.rules.training_images import training_images
from seg_transfer.planning.site_fingerprint import SiteFingerprint
from seg_transfer.planning.strategy import Race, Strategy
from seg_transfer.planning.variants import model_for
from seg_transfer.util.units import seconds_text

STORED_BYTES = 3.5
"""Per voxel and channel of the preprocessed store: float32, compressed without loss."""
CHECKPOINT_BYTES = 20
"""Per parameter: the model, and for resuming the weights, their average and the optimizer's two moments."""


def make_plan(
    fingerprint: Fingerprint,
    options: PlanOptions,
    folds: FoldAssignment,
    resources: Resources,
    *,
    earlier: earlier_model_rule.EarlierModel | None = None,
    evidence: TransferEvidence | None = None,
    given: GivenGrid | None = None,
) -> Plan:
    """Take every decision about a data set.

    Args:
        fingerprint: Measurements of the data set.
        options: Checked by :func:`seg_transfer.planning.option_checks.check_before_measuring`.
        folds: Training and validation cases of each fold.
        resources: Resources of the training.
        earlier: Earlier model to start from, if any.
        evidence: Measured evidence of transfer, if any.
        given: Grid, patch and normalization that another program decided, if any.

    Raises:
        UserError: If an option is impossible for this data set, or no network fits into the memory.
    """
    check_against_measurements(options, fingerprint, folds.splits)
    return _Planner(fingerprint, fingerprint.site(), options, folds, resources, earlier, evidence, given).plan()


def decides_by_evidence(options: PlanOptions, plan: Plan) -> bool:
    """Whether evidence is asked for, and can change a plan that was made without it.

    The bundled weights are not measured unless asked for: random weights were never significantly better than bundled
    ones, and measuring takes longer than the rest of planning (docs/log.md).
    """
    source = plan.model.weights.source
    wanted = options.evidence if options.evidence is not None else source != "bundled"
    return wanted and source != "none" and plan.model.head == "unet" and options.strategy == "auto"


@dataclass(frozen=True)
class _Planner:
    """Inputs of the decisions about one data set, and the reasons so far."""

    fingerprint: Fingerprint
    site: SiteFingerprint
    options: PlanOptions
    folds: FoldAssignment
    resources: Resources
    earlier: earlier_model_rule.EarlierModel | None
    evidence: TransferEvidence | None
    given: GivenGrid | None
    reasons: Reasons = field(default_factory=Reasons)

    def plan(self) -> Plan:
        data = plan_data(self.fingerprint, self.site, self.options, self.reasons, self.given)
        grid = GridStatistics(self.site, data)
        size, weights = self._network(grid, data)
        model = self._model(size, data, weights)
        recipe = self._recipe(grid, data, model, size)
        if recipe.strategy.pretrained_stages == 0 and weights.source != "none":
            model = model_for(model, recipe.strategy)
            self.reasons.amend("model.weights", model.weights, f"{recipe.strategy.name} uses none")
        return Plan(
            data=data,
            model=model,
            recipe=recipe,
            evidence=self.evidence,
            training_images=training_images(self.site.images, self.site.dimension, self.site.labels),
            reasons=tuple(self.reasons.recorded),
            expected=self._expected(grid, model, recipe, size),
        )

    def _network(self, grid: GridStatistics, data: DataPlan) -> tuple[NetworkSize, Weights]:
        """Decide encoder, weights and size of the network."""
        options, take = self.options, self.reasons.take
        if self.earlier is not None:
            encoder = entry(take("model.encoder", earlier_model_rule.encoder(options.encoder, self.earlier)))
            size = self._network_size(grid, data, encoder)
            carry = "encoder" if options.head != "unet" else None if options.carry == "auto" else options.carry
            return size, take("model.weights", earlier_model_rule.weights(size, self.earlier, carry, data))
        encoder = entry(take("model.encoder", encoder_rule.encoder(options.encoder)))
        requested = "none" if options.strategy == "scratch" else options.weights
        weights = take("model.weights", encoder_rule.weights(encoder, requested, self.resources.imagenet_cached))
        return self._network_size(grid, data, encoder), weights

    def _network_size(self, grid: GridStatistics, data: DataPlan, encoder: EncoderEntry) -> NetworkSize:
        """Decide configuration, stages and patch together, because each limits the others."""
        take, machine, memory = self.reasons.take, self.resources.machine, self.resources.memory_bytes
        shape = grid.shape if self.given is None else self.given.patch[0]
        stages, why_stages = most_stages(shape, encoder)
        if self.earlier is not None:
            stages, why_stages = earlier_model_rule.stages((stages, why_stages), self.earlier)
        architecture = Architecture(encoder, stages, channels=len(data.channels), classes=len(data.outputs))
        seconds = optimization.target_step_seconds(self.options.time_budget) if machine.kind == "cpu" else None
        limits = Limits(machine, memory, seconds)
        configuration = self._configuration(grid, data, architecture, limits)
        if self.given is not None:
            size, why_patch = given_patch(
                *self.given.patch, data.spacing, architecture, configuration=configuration, limits=limits
            )
        else:
            size, why_patch = self._free_patch(grid, data, architecture, configuration, limits)
        take("model.patch", (size.patch, why_patch))
        if size.stages < stages:
            why_stages = f"{size.stages} of {stages} that the cases' size allows: more would exceed the limits"
        take("model.stages", (size.stages, why_stages))
        if configuration == "3d":
            strides = slice_strides(data.spacing, shape[0], size.entry.strides[: size.stages])
            take("model.slice_strides", strides)
        else:
            take("model.slice_strides", ((), f"no slice axis inside a {configuration} network"))
        return size

    def _free_patch(
        self,
        grid: GridStatistics,
        data: DataPlan,
        architecture: Architecture,
        configuration: Configuration,
        limits: Limits,
    ) -> tuple[NetworkSize, str]:
        """Decide the patch, and the size of the network with it."""
        slices, why_slices = grid.shape[0], ""
        if configuration == "2d":
            slices = 1
        elif configuration == "2.5d":
            slices, why_slices = stack(grid.ratio, grid.shape[0])
            why_slices += "; "
        shape = (slices, *grid.shape[1:])
        size, why = fit_patch(shape, data.spacing, architecture, configuration=configuration, limits=limits)
        return size, why_slices + why

    def _configuration(
        self, grid: GridStatistics, data: DataPlan, architecture: Architecture, limits: Limits
    ) -> Configuration:
        """Decide what the network reads."""
        options, machine = self.options, limits.machine
        if self.given is not None:
            return self.reasons.take("model.configuration", self.given.configuration)
        requested = None if options.config == "auto" else options.config
        if self.earlier is not None:
            decision = earlier_model_rule.configuration(requested, self.earlier, data.dimension)
            return self.reasons.take("model.configuration", decision)
        covered = steps_3d = 0.0
        if data.dimension == 3 and requested is None and architecture.entry.volumes:
            in_time, largest = (
                fit_patch(grid.shape, data.spacing, architecture, configuration="3d", limits=each)[0]
                for each in (limits, replace(limits, step_seconds=None))
            )
            sides = zip(in_time.patch[1:], grid.shape[1:], strict=True)
            covered = math.prod(min(1.0, side / whole) for side, whole in sides)
            seconds = machine.seconds(step_flops(largest, SMALLEST_BATCH["3d"]))
            steps_3d = optimization.steps_in_time(seconds, options.time_budget)
        decision = configuration_rule.configuration(
            dimension=data.dimension,
            ratio=grid.ratio,
            slices=grid.shape[0],
            volumes=architecture.entry.volumes,
            covered=covered,
            steps_3d=steps_3d,
            device=machine.kind,
            requested=requested,
        )
        return self.reasons.take("model.configuration", decision)

    def _model(self, size: NetworkSize, data: DataPlan, weights: Weights) -> ModelPlan:
        """Decide the rest of the network."""
        take, configuration = self.reasons.take, size.configuration
        mapping = normalization.input_mapping([channel.normalization for channel in data.channels])
        strides, device = size.entry.strides[: size.stages], self.resources.machine.kind
        widths = decoder_channels(strides, device, narrow=is_narrow(size.decoder_channels, strides, device))
        carried = self.earlier.plan.model.position if self.earlier and weights.carry == "all" else None
        return ModelPlan(
            configuration=configuration,
            patch=size.patch,
            head=take("model.head", head_rule.head(self.options.head)),
            encoder=size.entry.name,
            weights=weights,
            stages=size.stages,
            slice_strides=size.slice_strides,
            inflation=take("model.inflation", encoder_rule.inflation(configuration)),
            input_mapping=take("model.input_mapping", mapping),
            position=take("model.position", position_rule.position(self.options.head, data.dimension, carried)),
            decoder_channels=take("model.decoder_channels", widths),
        )

    def _recipe(self, grid: GridStatistics, data: DataPlan, model: ModelPlan, size: NetworkSize) -> RecipePlan:
        """Decide how the network learns."""
        options, take = self.options, self.reasons.take
        machine = self.resources.machine
        target = optimization.target_step_seconds(options.time_budget)
        limits = Limits(machine, self.resources.memory_bytes, target)
        batch = take("recipe.batch_size", batch_size(size, limits, target_seconds=target, total_voxels=grid.voxels))
        seconds = machine.seconds(step_flops(size, batch))
        budget, why_budget = optimization.budget(
            machine.kind, seconds, epochs=options.epochs, time_budget=options.time_budget
        )
        for name in ("epochs", "time_budget", "steps_per_epoch"):
            take(f"recipe.{name}", (getattr(budget, name), why_budget))
        strategy = take("recipe.strategy", self._strategy(data, model))
        race = take("recipe.race", self._race(model, budget))
        mirrored, why_mirrored = mirror_axes(
            self.site, list(data.scored), data.axes, model.configuration, options.mirror
        )
        augmented, augmentation_reasons = augmentation(
            ratio=grid.ratio,
            configuration=model.configuration,
            unit=data.unit,
            mirrored=mirrored,
            spread=structure_spread(self.site.channels, [channel.normalization for channel in data.channels]),
            labels=0 if data.regions else len(data.labels) - 1,
        )
        take("recipe.augmentation", (augmented, NNUNET_REASON))
        for name, why in augmentation_reasons.items():
            take(f"recipe.augmentation.{name}", (getattr(augmented, name), why))
        take("recipe.augmentation.mirror_axes", (mirrored, why_mirrored))
        training = optimization.Training(self.site, model, machine, budget.steps)
        decisions = {name: take(f"recipe.{name}", rule(training)) for name, rule in optimization.DECISIONS.items()}
        if entry(model.encoder).depthwise:
            gradients = optimization.depthwise_gradients(model, machine, self.resources.depthwise_gain)
            decisions["depthwise_gradients"] = take("recipe.depthwise_gradients", gradients)
        return RecipePlan(
            strategy=strategy,
            race=race,
            batch_size=batch,
            epochs=budget.epochs,
            time_budget=budget.time_budget,
            steps_per_epoch=budget.steps_per_epoch,
            augmentation=augmented,
            tta_axes=take("recipe.tta_axes", tta_axes(mirrored, model.head)),
            splits=take("recipe.splits", (self.folds.splits, self._why_splits())),
            seed=options.seed,
            **decisions,
        )

    def _strategy(self, data: DataPlan, model: ModelPlan) -> tuple[Strategy, str]:
        """Decide the transfer strategy: as requested, by the textbook, or by the default rule."""
        options = self.options
        if options.strategy == "classic":
            train = len(self.folds.splits[0].train)
            return classic(
                model,
                cases=train,
                labelled_slices=round(self.site.labelled_slices[data.axes[0]] * train / self.site.cases),
                dimension=data.dimension,
                channels=[channel.name for channel in data.channels],
                earlier=None if self.earlier is None else self.earlier.channels,
            )
        requested = None if options.strategy == "auto" or options.strategy == "race" else options.strategy
        requested = requested if options.head == "unet" else "frozen"
        return strategy_rule.strategy(model, evidence=self.evidence, requested=requested)

    def _race(self, model: ModelPlan, budget: optimization.PlannedBudget) -> tuple[Race | None, str]:
        """Decide the race that each fold starts with, if one is requested."""
        if self.options.strategy != "race":
            return None, "not requested (--strategy race)"
        if model.weights.source == "none":
            raise UserError(race_rule.NO_WEIGHTS, where="--strategy race", hint=race_rule.NO_WEIGHTS_HINT)
        share = race_rule.SHARE if self.options.race_share is None else self.options.race_share
        labels = self.fingerprint.held_labels()
        held_out = race_rule.held_out(
            self.folds.splits,
            list(labels),
            groups=self.folds.groups,
            labels=labels,
            seed=self.options.seed,
        )
        cost = race_rule.spend(share, epochs=budget.epochs, time_budget=budget.time_budget)
        text = f"{cost:g} epoch(s)" if budget.time_budget is None else seconds_text(cost)
        sizes = ", ".join(str(len(cases)) for cases in held_out)
        return Race(share=share, challengers=race_rule.challengers(model), held_out=held_out), (
            f"requested: {text} of each fold's budget, shared with recipe.strategy, which wins unless another is "
            f"significantly better on held-out training cases ({sizes} of them)"
        )

    def _why_splits(self) -> str:
        splits, held_labels = self.folds.splits, self.fingerprint.held_labels()
        sizes = ", ".join(f"{len(split.train)} + {len(split.validation)}" for split in splits)
        why = "each label spread evenly" if len(self.fingerprint.labels) > 1 else "cases spread evenly"
        if self.folds.source is not None:
            why = self.folds.source
        elif self.folds.groups is not None:
            why = "cases of one group stay together"
        why += f"; training + validation cases of each fold: {sizes}"
        for label in self.fingerprint.labels:
            if not all(label.name in held for held in held_labels.values()):
                counts = [sum(label.name in held_labels[case] for case in split.validation) for split in splits]
                why += f"; validation cases with {label.name}: {', '.join(map(str, counts))}"
        return why

    def _expected(self, grid: GridStatistics, model: ModelPlan, recipe: RecipePlan, size: NetworkSize) -> Expected:
        """Estimate time, memory and disk space."""
        seconds = self.resources.machine.seconds(step_flops(size, recipe.batch_size))
        training = recipe.time_budget or (recipe.epochs or 0) * recipe.steps_per_epoch * seconds
        frozen = min(strategy.frozen_stages for strategy in recipe.candidates)
        own = len(self.fingerprint.cases) / self.site.cases
        stored = grid.voxels * own * (STORED_BYTES * len(self.fingerprint.channels) + 0.1)
        return Expected(
            training_seconds_per_fold=training if model.head == "unet" else head_rule.FIT_SECONDS,
            seconds_per_step=seconds,
            memory_bytes=step_memory(replace(size, frozen=frozen), recipe.batch_size),
            disk_bytes=int(stored + CHECKPOINT_BYTES * parameters(size) * len(recipe.splits)),
        )
