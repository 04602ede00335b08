"""Small fingerprints for the tests of planning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seg_transfer.data.splits import Split
from seg_transfer.options.plan_options import PlanOptions
from seg_transfer.planning.case_fingerprint import CaseChannel, CaseFingerprint, CaseLabel, Intensity, LabelPosition
from seg_transfer.planning.cost import Machine
from seg_transfer.planning.evidence_record import TransferEvidence
from seg_transfer.planning.fingerprint import Fingerprint, PooledChannel, PooledLabel
from seg_transfer.planning.folds import FoldAssignment
from seg_transfer.planning.option_checks import check_before_measuring
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.planner import make_plan
from seg_transfer.planning.resources import Resources
from seg_transfer.planning.rules.earlier_model import EarlierModel

FIGURES = Intensity(
    mean=50.0, std=20.0, median=48.0, minimum=-100.0, maximum=400.0, percentile_00_5=-20.0, percentile_99_5=120.0
)


CENTRE = LabelPosition(lower=0.4, upper=0.6, low_half=0.5)


def channel(name: str = "MRI", **changes: object) -> PooledChannel:
    settings: dict = {
        "name": name,
        "dtypes": ("int16",),
        "minimum": 0.0,
        "maximum": 1500.0,
        "outlier_ratio": 1.5,
        "label_spread": None,
        "foreground": FIGURES,
    }
    return PooledChannel(**(settings | changes))


def colours() -> tuple[PooledChannel, ...]:
    return tuple(channel(name, dtypes=("uint8",), maximum=255.0) for name in "RGB")


def fingerprint(
    *,
    cases: int = 10,
    shape: tuple[int, int, int] = (35, 50, 36),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    channels: tuple[PooledChannel, ...] = (channel(),),
    labels: tuple[str, ...] = ("a", "b"),
    dimension: int = 3,
    crop_ratio: float = 1.0,
) -> Fingerprint:
    voxels = shape[0] * shape[1] * shape[2] // 20
    one_channel = CaseChannel(
        dtype="int16",
        minimum=0,
        maximum=1000,
        outlier_ratio=1.5,
        mean=50,
        std=20,
        label_means=(40, *(60 for _ in labels)),
        foreground=FIGURES,
    )
    each = tuple(
        CaseFingerprint(
            id=f"case_{index:03}",
            shape=shape,
            cropped_shape=shape,
            spacing=spacing,
            orientation="RAS",
            channels=(one_channel,) * len(channels),
            labels=tuple(CaseLabel(voxels=voxels, ml=None, slices=shape, positions=(CENTRE,) * 3) for _ in labels),
            image_hash=f"image {index}",
            label_hash=f"label {index}",
        )
        for index in range(cases)
    )
    return Fingerprint(
        dataset="made",
        dimension=dimension,
        unit="mm" if dimension == 3 else "pixel",
        spacing=spacing,
        shape=shape,
        cropped_shape=shape,
        crop_ratio=crop_ratio,
        channels=channels,
        labels=tuple(
            PooledLabel(name=name, value=value, cases=cases, voxels=voxels * cases, median_ml=None)
            for value, name in enumerate(labels, start=1)
        ),
        cases=each,
    )


def images_2d(cases: int = 10, side: int = 120) -> Fingerprint:
    return fingerprint(cases=cases, shape=(side, side, 1), channels=colours(), dimension=2)


def splits(made: Fingerprint) -> tuple[Split, ...]:
    """Two folds, of the even and of the odd cases; a single case is both training and validation."""
    ids = [case.id for case in made.cases]
    even, odd = tuple(ids[::2]), tuple(ids[1::2] or ids)
    return Split(train=even, validation=odd), Split(train=odd, validation=even)


def plan_of(
    made: Fingerprint,
    *,
    device: Any = "cpu",
    resources: Mapping[str, Any] | None = None,
    folds: FoldAssignment | None = None,
    earlier: EarlierModel | None = None,
    evidence: TransferEvidence | None = None,
    **options: Any,
) -> Plan:
    """Plan a made data set as ``segtl plan`` does, on a machine that is the same everywhere.

    Args:
        made: Its fingerprint.
        device: Kind of device.
        resources: What else of the machine's resources differs from the defaults.
        folds: By default those of :func:`splits`.
        earlier: A model to start from.
        evidence: What was measured about transfer.
        **options: Those of :class:`PlanOptions`.
    """
    asked = PlanOptions(**{"dataset": "made"} | options)
    given = {} if asked.memory is None else {"memory_bytes": asked.memory}
    there = Resources(Machine(device), **given, **(resources or {}))
    check_before_measuring(
        asked,
        dataset=made.dataset,
        dimension=made.dimension,
        channels=[channel.name for channel in made.channels],
        resources=there,
    )
    folds = folds or FoldAssignment(splits(made))
    return make_plan(made, asked, folds, there, earlier=earlier, evidence=evidence)
