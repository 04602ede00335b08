"""The plan: every decision about a data set, in one typed, versioned, hashed JSON file.

A plan has three parts. ``data``: how a case becomes an array. ``model``: the network. ``recipe``: the training. The
preprocessed store depends on ``data`` alone, so that a change of ``model`` or ``recipe`` does not preprocess again.

Triples are in network order ``(slice, u, v)`` unless a field's description says canonical ``(x, y, z)`` (RAS).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from seg_transfer.catalogue.encoders import ENCODERS, TIMM, volume_encoders
from seg_transfer.data.splits import Split
from seg_transfer.options.choices import LARGEST_SEED, LONGEST_TIME, MOST_EPOCHS, Carry, Configuration, Head, Precision
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.evidence_record import TransferEvidence
from seg_transfer.planning.fields import Fraction, MirrorAxes, Triple, json_hash, part_hash
from seg_transfer.planning.strategy import Race, Strategy
from seg_transfer.planning.training_images import TrainingImages
from seg_transfer.util.names import HubName
from seg_transfer.util.records import JsonRecord, Record, parse_object
from seg_transfer.util.text_files import read_bytes

LARGEST_PATCH = 2**24
"""Voxels of the planner's largest patch. Images are padded to the patch, which therefore takes memory."""
PARTS = ("data", "model", "recipe")
"""Parts of a plan that define a training; evidence, training images, reasons and estimates do not."""


class Weights(Record):
    """Source of the encoder's weights; ``recipe.strategy`` says how many stages start from them."""

    source: Literal["bundled", "imagenet", "file", "model", "none"]
    path: str | None = Field(
        default=None,
        description="file: safetensors, or a weights_only checkpoint; model: an exported model",
    )
    sha256: str | None = Field(default=None, description="model only: checksum of the file")
    carry: Carry | None = Field(default=None, description="model only: the encoder; or all, encoder and decoder")
    heads: bool = Field(
        default=False, description="with carry all: the heads too, since the earlier model has the same outputs"
    )
    repository: HubName | None = Field(default=None, description="imagenet only")
    revision: HubName | None = Field(default=None, description="imagenet only")

    @model_validator(mode="after")
    def _matches_its_source(self) -> Weights:
        if (self.source in ("file", "model")) != (self.path is not None):
            raise ValueError("path is for source 'file' and 'model', and only for them")
        if {self.source == "model"} != {self.sha256 is not None, self.carry is not None}:
            raise ValueError("sha256 and carry are for source 'model', and only for it")
        if self.heads and self.carry != "all":
            raise ValueError("heads are for carry 'all', and only for it")
        return self


class ModelPlan(Record):
    """The network."""

    configuration: Configuration
    patch: Triple = Field(description="input patch (slice, u, v) in voxels; 2D reads 1 slice, 2.5D an odd number")
    head: Head = Field(
        default="unet",
        description="unet: a decoder that is trained; otherwise a classifier of single voxels that is fitted to the "
        "frozen encoder's features: softmax, linear SVM, or Gaussian naive Bayes",
    )
    encoder: str = Field(description="name in the catalogue, or timm/NAME")
    weights: Weights
    stages: int = Field(ge=1, description="stages of the encoder in use, counted from the finest")
    slice_strides: tuple[Literal[1, 2], ...] = Field(
        description="3D only, one per stage: stride along the slice axis at that stage; empty in 2D and 2.5D"
    )
    inflation: Literal["average", "centre"] = Field(
        default="average", description="3D only: repeat the 2D kernel and divide by depth, or centre slice and zeros"
    )
    input_mapping: Literal["as_is", "encoder_mean_std"] = Field(
        description="encoder_mean_std: [0, 1] input is scaled with the mean and std the encoder was trained with"
    )
    position: bool = Field(
        default=False, description="unet only: the decoder also reads where each voxel lies in the case's content"
    )
    decoder_channels: tuple[Annotated[int, Field(ge=4, le=4096)], ...] = Field(
        description="unet only: channels of the decoder's block at each encoder stage in use, from the finest"
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> ModelPlan:
        known = ENCODERS.get(self.encoder)
        if known is None and not self.encoder.startswith(TIMM):  # those are checked when the network is built
            raise ValueError(f"unknown encoder {self.encoder!r}, not timm/NAME or one of {', '.join(ENCODERS)}")
        if known and self.configuration == "3d" and not known.volumes:
            raise ValueError(f"{self.encoder} does not convert to 3d; these do: {', '.join(volume_encoders())}")
        if known and self.stages > len(known.channels):
            raise ValueError(f"stages is {self.stages}, but {self.encoder} has {len(known.channels)}")
        if self.head != "unet" and self.weights.carry == "all":
            raise ValueError(f"weights.carry is all, but head {self.head!r} has no decoder to carry over")
        if self.head != "unet" and self.position:
            raise ValueError(f"position is for a unet, head {self.head!r} has no decoder")
        slices = self.patch[0]
        if min(self.patch) < 1:
            raise ValueError(f"patch {self.patch} must be positive")
        if (voxels := math.prod(self.patch)) > LARGEST_PATCH:
            raise ValueError(f"patch {self.patch} has {voxels} voxels, the limit is {LARGEST_PATCH}")
        if self.configuration == "2d" and slices != 1:
            raise ValueError(f"a 2d patch has 1 slice, not {slices}")
        if self.configuration == "2.5d" and (slices < 3 or slices % 2 == 0):
            raise ValueError(f"a 2.5d patch has an odd number of slices from 3 on, not {slices}")
        expected = self.stages if self.configuration == "3d" else 0
        if len(self.slice_strides) != expected:
            raise ValueError(f"slice_strides has {len(self.slice_strides)} entries instead of {expected}")
        if len(self.decoder_channels) != self.stages:
            raise ValueError(f"decoder_channels has {len(self.decoder_channels)} entries, but stages is {self.stages}")
        return self


Factors = tuple[Annotated[float, Field(ge=0.01, le=1)], Annotated[float, Field(ge=1, le=100)]]
"""Smallest and largest factor; values below and above 1 are equally likely."""


class Augmentation(Record):
    """Probability per sample and range of each transform; see training/augment for definitions and sources."""

    rotate_probability: Fraction = 0.2
    rotate_degrees: float = Field(default=30.0, ge=0, le=180, description="in-plane; out of plane for isotropic 3D")
    rotate_out_of_plane: bool = Field(
        default=False, description="3D only: rotate about every axis; scale and blur along the slice axis too"
    )
    scale_probability: Fraction = 0.2
    scale_range: Factors = (0.7, 1.4)
    stretch_probability: Fraction = 0.0
    stretch_range: Factors = Field(default=(0.8, 1.25), description="magnification along u over that along v")
    shear_probability: Fraction = 0.0
    shear_degrees: float = Field(default=10.0, ge=0, le=45, description="by which lines along v are inclined towards u")
    lens_probability: Fraction = 0.0
    lens_amount: float = Field(
        default=0.1, ge=0, le=0.3, description="largest displacement of a corner over its distance from the centre"
    )
    mirror_axes: MirrorAxes = Field(default=(), description="of (slice, u, v)")
    low_resolution_probability: Fraction = 0.0
    low_resolution_least: float = Field(default=0.5, gt=0, le=1, description="smallest share of the resolution kept")
    low_resolution_axes: MirrorAxes = Field(default=(), description="of (slice, u, v)")
    noise_probability: Fraction = 0.1
    noise_std: float = Field(
        default=0.1, ge=0, le=100, description="largest, over the channel's own standard deviation"
    )
    blur_probability: Fraction = 0.2
    blur_sigma: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(le=5)]] = Field(
        default=(0.5, 1.0), description="in voxels"
    )
    brightness_probability: Fraction = 0.15
    brightness_range: Factors = (0.75, 1.25)
    contrast_probability: Fraction = 0.15
    contrast_range: Factors = (0.75, 1.25)
    gamma_probability: Fraction = 0.3
    gamma_range: Factors = Field(default=(0.7, 1.5), description="exponent")
    structure_probability: Fraction = Field(default=0.0, description="of each class changing on its own")
    structure_spread: tuple[Annotated[float, Field(ge=0, le=100)], ...] = Field(
        default=(),
        description="of each channel: how much labels' means differ between cases, over the spread within one",
    )
    colour_probability: Fraction = Field(default=0.0, description="of hue, saturation and value together")
    hue_degrees: float = Field(default=10.0, ge=0, le=180)
    saturation_range: Factors = (0.7, 1.4)
    value_range: Factors = (0.8, 1.25)


class RecipePlan(Record):
    """The training."""

    strategy: Strategy
    race: Race | None = Field(default=None, description="run at the start of each fold, which then trains the winner")
    batch_size: int = Field(ge=1, le=4096)
    epochs: int | None = Field(default=None, ge=1, le=MOST_EPOCHS, description="budget in epochs; or time_budget")
    steps_per_epoch: int = Field(default=100, ge=1, le=10**6)
    time_budget: Annotated[float, Field(gt=0, le=LONGEST_TIME)] | None = Field(
        default=None, description="seconds of training"
    )
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 1e-2
    warmup: Fraction = Field(default=0.05, description="share of the budget in which the rate rises")
    gradient_clip: Annotated[float, Field(gt=0, le=1e9)] = 12.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.99, description="0: no averaged weights")
    precision: Precision = "bfloat16"
    depthwise_gradients: Literal["torch", "fast"] = Field(
        default="torch", description="gradients of depthwise convolutions: torch's own, or from faster operations"
    )
    deep_supervision: bool = True
    foreground_share: Fraction = Field(default=0.5, description="share of the patches centred on a labelled voxel")
    augmentation: Augmentation = Augmentation()
    tta_axes: MirrorAxes = Field(default=(), description="axes mirrored at prediction")
    splits: tuple[Split, ...] = Field(min_length=1)
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)

    @model_validator(mode="after")
    def _has_one_budget(self) -> RecipePlan:
        if (self.epochs is None) == (self.time_budget is None):
            raise ValueError("give exactly one of epochs and time_budget")
        return self

    @property
    def candidates(self) -> tuple[Strategy, ...]:
        """The strategy, followed by its challengers in a race."""
        return (self.strategy, *(self.race.challengers if self.race else ()))

    @property
    def strategy_name(self) -> str:
        """The strategy's name, or ``race`` where each fold chooses its own."""
        return self.strategy.name if self.race is None else "race"


class Reason(Record):
    """One decision and its reason."""

    field: str = Field(description="path of the field, such as model.patch")
    choice: str
    reason: str = Field(description="with the measured figures")


class Expected(Record):
    """Estimated cost of the plan."""

    training_seconds_per_fold: float
    seconds_per_step: float = Field(gt=0)
    memory_bytes: int
    disk_bytes: int


class Plan(JsonRecord):
    """Data, model and recipe, with the reason of every decision.

    ``plan.json`` also holds a checksum of each part, which shows edits by hand.
    """

    noun: ClassVar[str] = "plan"
    if_missing: ClassVar[str] = "run `segtl plan DATASET` first"
    if_wrong: ClassVar[str] = "correct these fields, undo the edit, or plan again"
    if_older: ClassVar[str] = "plan again; runs of the earlier version need the segtl that trained them"
    sealed: ClassVar[bool] = False

    version: Literal[2] = 2
    data: DataPlan
    model: ModelPlan
    recipe: RecipePlan
    evidence: TransferEvidence | None = Field(
        default=None, description="measured before recipe.strategy was decided; not part of the hash"
    )
    training_images: TrainingImages | None = Field(
        default=None,
        description="what the training images were like, which prediction compares with; not part of the hash",
    )
    reasons: tuple[Reason, ...] = ()
    expected: Expected | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> Plan:
        cases = set(self.data.cases)
        for index, split in enumerate(self.recipe.splits):
            for name in ("train", "validation"):
                named = getattr(split, name)
                if unknown := sorted(set(named) - cases):
                    raise ValueError(f"recipe.splits.{index}.{name}: not in data.cases: {', '.join(unknown[:3])}")
                if len(set(named)) < len(named):
                    raise ValueError(f"recipe.splits.{index}.{name}: a case is named twice")
            both = sorted(set(split.train) & set(split.validation))
            if both and not cases == set(split.train) == set(split.validation):  # the only fold of a single group
                raise ValueError(f"recipe.splits.{index}: trains and validates on {', '.join(both[:3])}")
        if self.training_images is not None:
            self._check_training_images(self.training_images)
        self._check_strategies()
        if self.recipe.race is not None:
            self._check_race(self.recipe.race)
        if self.model.head != "unet":
            self._check_head()
        kinds = [channel.normalization.kind for channel in self.data.channels]
        if self.recipe.augmentation.colour_probability and kinds != ["minmax"] * 3:
            raise ValueError(
                f"recipe.augmentation.colour_probability: needs 3 channels with minmax, not {', '.join(kinds)}"
            )
        spreads = len(self.recipe.augmentation.structure_spread)
        if spreads != len(kinds) and (spreads or self.recipe.augmentation.structure_probability):
            raise ValueError(
                f"recipe.augmentation.structure_spread: {spreads} entries, but data.channels has {len(kinds)}"
            )
        if self.data.dimension == 2 and self.model.configuration != "2d":
            raise ValueError(f"model.configuration: 2D images need 2d, not {self.model.configuration}")
        return self

    def _check_training_images(self, images: TrainingImages) -> None:
        """Training images have the plan's channels and axes."""
        found = (len(images.channels), len(images.spacing), len(images.size))
        needed = (len(self.data.channels), self.data.dimension, self.data.dimension)
        for name, count, expected in zip(("channels", "spacing", "size"), found, needed, strict=True):
            if count != expected:
                raise ValueError(f"training_images.{name}: {count} entries instead of {expected}")

    def _check_strategies(self) -> None:
        """Strategies have one entry per stage, and start from weights if and only if the model names some."""
        stages, source = self.model.stages, self.model.weights.source
        for index, strategy in enumerate(self.recipe.candidates):
            path = f"recipe.race.challengers.{index - 1}" if index else "recipe.strategy"
            pretrained = strategy.pretrained_stages
            if len(strategy.start) != stages:
                raise ValueError(f"{path}.start: {len(strategy.start)} entries, but model.stages is {stages}")
            if (pretrained and source == "none") or (not index and not pretrained and source != "none"):
                raise ValueError(f"{path}.pretrained_stages: {pretrained}, but model.weights.source is {source}")
            if source == "model" and pretrained not in (0, stages):
                raise ValueError(f"{path}.pretrained_stages: {pretrained}, but an earlier model starts all or none")

    def _check_race(self, race: Race) -> None:
        """A race reads only cases that its fold trains on."""
        train = [*(split.train for split in self.recipe.splits), self.data.cases]
        if len(race.held_out) != len(train):
            raise ValueError(
                f"recipe.race.held_out: {len(race.held_out)} entries for {len(self.recipe.splits)} fold(s) and full"
            )
        for index, (cases, held_out) in enumerate(zip(train, race.held_out, strict=True)):
            if not set(held_out) < set(cases):
                raise ValueError(f"recipe.race.held_out.{index}: not a proper subset of the training cases")

    def _check_head(self) -> None:
        """A classifier needs a frozen encoder, disjoint classes, and training cases to be evaluated on."""
        head = f"model.head: {self.model.head}"
        if self.recipe.strategy.frozen_stages < self.model.stages or self.recipe.race is not None:
            raise ValueError(f"{head} needs a frozen encoder, but recipe.strategy is {self.recipe.strategy_name}")
        if self.data.regions:
            raise ValueError(f"{head} predicts one class per voxel, but data.regions may overlap")
        if min(len(split.train) for split in self.recipe.splits) < 2:
            raise ValueError(f"{head} needs two training cases in each of recipe.splits")

    @property
    def strategy_name(self) -> str:
        """The strategy in names of runs: the recipe's, or the classifier that is fitted instead of training."""
        return self.recipe.strategy_name if self.model.head == "unet" else self.model.head

    @property
    def hash(self) -> str:
        """Hash over all three parts; part of the names of new runs."""
        return part_hash(self.data, self.model, self.recipe)

    def differs_in(self, other: Plan) -> list[str]:
        """Names of the parts that differ from another plan's; empty if both define the same training."""
        return [name for name in PARTS if getattr(self, name) != getattr(other, name)]

    def to_json(self) -> str:
        """The text of the file."""
        return "".join(self.pieces())

    def pieces(self) -> Iterator[str]:
        """JSON with the checksum of each part."""
        content = self.model_dump(mode="json")
        return json.JSONEncoder(indent=2).iterencode(content | {"checksums": _checksums(content)})

    @classmethod
    def from_content(cls, content: dict[str, Any], *, where: Path | str) -> Self:
        """Read a plan; its checksums are not compared, because it may be edited by hand."""
        return super().from_content({key: content[key] for key in content if key != "checksums"}, where=where)


def edited_parts(path: Path) -> list[str]:
    """Names of the parts of a ``plan.json`` that were edited by hand since it was written.

    The file's content is compared with its own checksums: a plan that lacks a newer field is not edited.
    """
    content = parse_object(read_bytes(path, Plan.if_wrong), Plan.noun, where=path, hint=Plan.if_wrong)
    recorded = content.get("checksums")
    if not isinstance(recorded, dict):
        recorded = {}
    return [name for name, checksum in _checksums(content).items() if recorded.get(name) != checksum]


def _checksums(content: dict[str, Any]) -> dict[str, str]:
    return {name: json_hash(content.get(name)) for name in PARTS}
