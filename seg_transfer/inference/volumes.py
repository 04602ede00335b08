"""Volume and connected components of each label in predicted label maps."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from seg_transfer.data.fragments import fragments_of
from seg_transfer.data.image import read_label
from seg_transfer.util.files import whole_file
from seg_transfer.util.progress import track


@dataclass(frozen=True)
class Volume:
    """One label of one case.

    Attributes:
        case: The case.
        label: Label or region.
        voxels: Number of its voxels; of 2D images pixels.
        ml: Volume in ml; None for 2D images.
        components: Connected parts, where voxels that share a corner are connected; or objects that are told apart.
        confidence: Of the case, all labels together; None if it is not known.
    """

    case: str
    label: str
    voxels: int
    ml: float | None
    components: int
    confidence: float | None = None


def measure_volumes(
    files: Mapping[str, Path],
    labels: Mapping[str, Sequence[int]],
    confidence: Mapping[str, float | None],
    names: Mapping[str, int] | None = None,
    *,
    instances: bool = False,
) -> list[Volume]:
    """Measure label maps.

    Args:
        files: Case -> its label map.
        labels: Label or region -> its values.
        confidence: Case -> its confidence; cases may be missing.
        names: Label name -> value, for segmentations of 3D Slicer.
        instances: Whether label maps hold numbers of objects; they are measured together, and are the components.

    Raises:
        UserError: If a file cannot be read.
    """
    found = []
    for case, file in track(files.items(), total=len(files), title="measuring volumes"):
        image = read_label(file, names=names)
        voxel_ml = float(np.prod(image.spacing)) / 1000 if image.unit == "mm" else None
        for label, values in labels.items():
            mask = image.array[0] != 0 if instances else np.isin(image.array[0], values)
            components = len(np.unique(image.array[0][mask])) if instances else fragments_of(mask).count
            voxels = int(np.count_nonzero(mask))
            ml = None if voxel_ml is None else round(voxels * voxel_ml, 4)
            found.append(Volume(case, label, voxels, ml, components, confidence.get(case)))
    return found


def save_volumes(path: Path, volumes: Sequence[Volume]) -> None:
    """Write one row per case and label: JSON if the file's ending is ``.json``, otherwise CSV."""
    rows = [asdict(volume) for volume in volumes]
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        if path.suffix.lower() == ".json":
            json.dump(rows, file, indent=2)
        else:
            writer = csv.DictWriter(file, [field.name for field in fields(Volume)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
