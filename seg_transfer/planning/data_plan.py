"""The plan's part ``data``: how a case becomes an array."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from seg_transfer.data.description import (
    BORDER_CLASS,
    CORE_CLASS,
    LabelInteger,
    Region,
    named_values,
    object_regions,
)
from seg_transfer.options.choices import NormalizationKind
from seg_transfer.planning.fields import Intensity, Spacing, Triple
from seg_transfer.util.names import FileName
from seg_transfer.util.records import Record


class Normalization(Record):
    """How one channel's intensities are scaled."""

    kind: NormalizationKind = Field(
        description="zscore: per image; clip_zscore: clip and scale by the data set's statistics; minmax: to [0, 1]"
    )
    mask: bool = Field(default=False, description="zscore only: statistics from nonzero voxels, zeros stay zero")
    lower: Intensity | None = Field(default=None, description="lower clip (clip_zscore) or value mapped to 0 (minmax)")
    upper: Intensity | None = Field(default=None, description="upper clip (clip_zscore) or value mapped to 1 (minmax)")
    mean: Intensity | None = Field(default=None, description="clip_zscore: the data set's foreground mean")
    std: float | None = Field(default=None, ge=1e-15, le=1e15, description="clip_zscore: the data set's foreground std")

    @model_validator(mode="after")
    def _matches_its_kind(self) -> Normalization:
        needed = {"clip_zscore": ("lower", "upper", "mean", "std"), "minmax": ("lower", "upper")}.get(self.kind, ())
        if missing := [name for name in needed if getattr(self, name) is None]:
            raise ValueError(f"{self.kind} needs {', '.join(missing)}")
        if needed and not self.lower < self.upper:  # type: ignore[operator]
            raise ValueError(f"lower {self.lower} must be below upper {self.upper}")
        return self


class Channel(Record):
    """One input channel."""

    name: str
    normalization: Normalization


class Label(Record):
    """One label; its class index is its position in the list, background first."""

    name: str
    value: LabelInteger = Field(description="value in label files and in predicted label maps")


class DataPlan(Record):
    """How a case becomes an array ``(channel, slice, u, v)``."""

    dataset: str = Field(description="name of the data set")
    dimension: Literal[2, 3] = Field(description="2: 2D images of one slice; 3: volumes")
    unit: Literal["mm", "pixel"] = Field(description="unit of every spacing")
    channels: tuple[Channel, ...] = Field(min_length=1)
    labels: tuple[Label, ...] = Field(min_length=2, description="background first")
    regions: tuple[Region, ...] = Field(
        default=(),
        description="outputs of the network in place of the labels, each with its own sigmoid; in label maps, later "
        "ones overwrite earlier ones",
    )
    ignore: LabelInteger | None = Field(
        default=None,
        description="value in label files of voxels that are not annotated: neither trained on nor scored",
    )
    cases: tuple[FileName, ...] = Field(min_length=1, description="cases that the data set's statistics are from")
    axes: Triple = Field(description="canonical axis (0 x, 1 y, 2 z) that becomes slice, u and v")
    spacing: Spacing = Field(description="spacing of the network's grid (slice, u, v), in unit")
    fill_nan: bool = Field(
        default=False, description="replace values that are not finite by the least finite one of image and channel"
    )
    crop_nonzero: bool = Field(description="cut away the border where every channel is zero")
    image_order: Literal[0, 1, 3] = Field(default=3, description="spline order when resampling images in-plane")
    slice_order: Literal[0, 1, 3] = Field(description="spline order along the slice axis")

    @model_validator(mode="after")
    def _is_consistent(self) -> DataPlan:
        if sorted(self.axes) != [0, 1, 2]:
            raise ValueError(f"axes {self.axes} is not a permutation of (0, 1, 2)")
        values = [label.value for label in self.labels]
        if len(set(values)) != len(values):
            raise ValueError(f"label values {values} are not distinct")
        if values[0] != 0:
            raise ValueError(f"the first label must be background with value 0, not {values[0]}")
        foreground = set(values[1:])
        for region in self.regions:
            if unknown := sorted(set(region.values) - foreground):
                raise ValueError(f"region {region.name}: {unknown} are not values of foreground labels")
            if region.writes not in region.values:
                raise ValueError(f"region {region.name} writes {region.writes}, which is not one of its values")
        if self.instances:
            expected = object_regions(self.regions[0].name)
            if self.regions != expected or values != [0, CORE_CLASS, BORDER_CLASS] or self.ignore is not None:
                raise ValueError("a numbered region is the first of two: whole objects (1, 2) and cores (1)")
        names = [region.name for region in self.regions]
        if len(set(names)) != len(names):
            raise ValueError(f"regions {names} are not distinct")
        if self.ignore in values:
            raise ValueError(f"ignore is {self.ignore}, which is a label's value")
        if len(set(self.cases)) != len(self.cases):
            raise ValueError("cases are not distinct")
        return self

    @property
    def instances(self) -> bool:
        """Whether label files and predicted label maps hold numbers of objects."""
        return any(region.numbered for region in self.regions)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the network's outputs: the regions, or the labels with the background."""
        return tuple(output.name for output in self.regions or self.labels)

    @property
    def names(self) -> dict[str, int]:
        """Name -> value of every label and the ignore label, as segmentations of 3D Slicer need."""
        return named_values(((label.name, label.value) for label in self.labels), self.ignore)

    @property
    def written_names(self) -> dict[str, int]:
        """Name -> value of every label but background: what label maps say of themselves; 1 for numbered objects."""
        if self.instances:
            return {self.regions[0].name: 1}
        return {label.name: label.value for label in self.labels if label.value}

    @property
    def scored(self) -> dict[str, tuple[int, ...]]:
        """Label or region that is scored -> its values in label files; of objects only the whole ones are scored."""
        if self.regions:
            return {region.name: region.values for region in self.regions[: 1 if self.instances else None]}
        return {label.name: (label.value,) for label in self.labels[1:]}

    @property
    def region_classes(self) -> tuple[tuple[int, ...], ...]:
        """Class indices of each region."""
        index = {label.value: position for position, label in enumerate(self.labels)}
        return tuple(tuple(index[value] for value in region.values) for region in self.regions)

    @property
    def stored_values(self) -> tuple[int, ...]:
        """Class index of stored label maps -> value in label files; ``ignore``, if any, is the last one."""
        return (*(label.value for label in self.labels), *(() if self.ignore is None else (self.ignore,)))

    @property
    def not_annotated(self) -> int | None:
        """Class index of voxels that are not annotated in stored label maps; None without an ignore label."""
        return None if self.ignore is None else len(self.labels)
