"""Small fingerprints for the tests of planning."""

from __future__ import annotations

from seg_transfer.planning.case_fingerprint import CaseChannel, CaseFingerprint, CaseLabel, Intensity
from seg_transfer.planning.fingerprint import Fingerprint, PooledChannel, PooledLabel
from seg_transfer.planning.plan import Split

FIGURES = Intensity(
    mean=50.0, std=20.0, median=48.0, minimum=-100.0, maximum=400.0, percentile_00_5=-20.0, percentile_99_5=120.0
)


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
            labels=tuple(CaseLabel(voxels=voxels, ml=None, slices=shape) for _ in labels),
            image_hash=f"image {index}",
            label_hash=f"label {index}",
        )
        for index in range(cases)
    )
    return Fingerprint(
        dataset="made",
        dimension=dimension,
        unit="mm" if dimension == 3 else "pixel",
        seed=0,
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


def pictures(cases: int = 10, side: int = 120) -> Fingerprint:
    return fingerprint(cases=cases, shape=(side, side, 1), channels=colours(), dimension=2)


def splits(made: Fingerprint) -> tuple[Split, ...]:
    """Two folds, of the even and of the odd cases; a single case is trained and validated on alike."""
    ids = [case.id for case in made.cases]
    even, odd = tuple(ids[::2]), tuple(ids[1::2] or ids)
    return Split(train=even, validation=odd), Split(train=odd, validation=even)
