"""A trained model as a MONAI bundle: a folder that ``python -m monai.bundle run`` predicts with.

The format is that of MONAI's bundle specification. ``models/model.segtl`` takes the place of ``models/model.pt``, a
pickle, and ``configs/inference.json`` calls :func:`seg_transfer.predict`: label maps are those of `segtl predict`, and
segtl has to be installed where the bundle runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seg_transfer import version
from seg_transfer.errors import UserError, printable
from seg_transfer.exporting.card import NOT_STATED, weights_terms
from seg_transfer.exporting.save import save_model_file
from seg_transfer.planning.data_plan import Channel, DataPlan
from seg_transfer.planning.model_file import ModelHeader
from seg_transfer.training.run_folder import TrainedRuns
from seg_transfer.util.files import whole_folder, write_text
from seg_transfer.util.local_files import check_folder, make_folder
from seg_transfer.util.texts import version_of

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
"""Address of the schema that ``python -m monai.bundle verify_metadata`` fetches."""
OLDEST_MONAI = "1.5.0"
"""Oldest MONAI that runs the bundle; exporting needs none."""
VERSION = "1.0.0"
"""Version of the model in the bundle; whoever publishes a second one counts on."""
INFERENCE = {
    "imports": ["$import seg_transfer"],
    "bundle_root": ".",
    "device": "auto",
    "dataset_dir": "$@bundle_root + '/images'",
    "output_dir": "$@bundle_root + '/predictions'",
    "model": "$@bundle_root + '/models/model.segtl'",
    "run": [
        {
            "_target_": "seg_transfer.predict",
            "images": "@dataset_dir",
            "output": "@output_dir",
            "model": "@model",
            "device": "@device",
        }
    ],
}
HOUNSFIELD = {"CT", "CBCT"}
"""Names of channels, in capitals, whose intensities are in Hounsfield units."""
HOW_TO_RUN = """
## Running this bundle

It needs segtl with MONAI: `pip install 'segtl[monai]'`. In the bundle's folder:

```
python -m monai.bundle run --config_file configs/inference.json --dataset_dir IMAGES --output_dir PREDICTIONS
```

This calls `seg_transfer.predict`, and label maps are those of `segtl predict -m models/model.segtl`. IMAGES is a folder
of images or one file; `--device cpu` or `--device cuda` chooses the device. The model file is safetensors and holds no
pickle, but MONAI evaluates what stands in `configs`: run bundles of people you trust.
"""
LICENCE = """Licence of this model: {}

Training started from weights with terms of their own:

"""


def check_bundle(folder: Path) -> None:
    """Check before long work that a bundle can be written.

    Raises:
        UserError: If the folder is not empty, or cannot be made.
    """
    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError("this folder is not empty", where=folder, hint="name a new folder for the bundle")


def save_bundle(
    folder: Path, header: ModelHeader, trained: Sequence[TrainedRuns], *, name: str, licence: str | None = None
) -> None:
    """Write the bundle, whole or not at all.

    Args:
        folder: The bundle; it must not exist, or be empty.
        header: The result of :func:`~seg_transfer.exporting.save.make_header`.
        trained: The folds that the header was made of.
        name: Name of the model.
        licence: Licence of the model, as an SPDX identifier.

    Raises:
        UserError: If the folder is not empty, or a fold's model cannot be read.
    """
    check_bundle(folder)
    with whole_folder(folder) as beside:
        for part in ("configs", "docs", "models"):
            make_folder(beside / part)
        save_model_file(beside / "models" / "model.segtl", header, trained)
        write_text(beside / "configs" / "metadata.json", _json(metadata(header.plan.data, name=name)))
        write_text(beside / "configs" / "inference.json", _json(INFERENCE))
        write_text(beside / "docs" / "README.md", header.card + HOW_TO_RUN)
        origins = "".join(f"- {text}\n" for text in weights_terms(header.members))
        write_text(beside / "LICENSE", LICENCE.format(licence or NOT_STATED) + origins)


def metadata(data: DataPlan, *, name: str) -> dict[str, Any]:
    """Content of ``metadata.json``; input and output are those of the whole prediction, not of the network.

    Args:
        data: Data part of the model's plan.
        name: Name of the model.
    """
    shape = ["*"] * data.dimension
    names = [printable(channel.name) for channel in data.channels]
    labels = {str(label.value): printable(label.name) for label in data.labels}
    image = {
        "type": "image",
        "format": _format(data.channels),
        "modality": ", ".join(names),
        "num_channels": len(names),
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": {str(index): each for index, each in enumerate(names)},
    }
    values = [label.value for label in data.labels]
    label_map = {
        "type": "image",
        "format": "segmentation",
        "num_channels": 1,
        "spatial_shape": shape,
        "dtype": "uint8" if max(values) < 256 and min(values) >= 0 else "int32",
        "value_range": [min(values), max(values)],
        "is_patch_data": False,
        "channel_def": labels,
    }
    kind = "2D images" if data.dimension == 2 else "volumes"
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: "first version"},
        "monai_version": OLDEST_MONAI,
        "pytorch_version": _release("torch"),
        "numpy_version": _release("numpy"),
        "required_packages_version": {version.DISTRIBUTION: version.VERSION},
        "supported_apps": {},
        "name": printable(name),
        "task": f"Segmentation of {', '.join(map(printable, data.scored))} in {kind}",
        "description": f"{printable(name)}: segments {kind} of {', '.join(names)}. Its card is docs/README.md.",
        "authors": "see docs/README.md",
        "copyright": "see LICENSE",
        "intended_use": "Research. Not a medical device.",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": label_map}},
    }


def _format(channels: Sequence[Channel]) -> str:
    return "hounsfield" if {channel.name.upper() for channel in channels} <= HOUNSFIELD else "magnitude"


def _release(package: str) -> str:
    """Version of a package without the build, such as ``+cu126``, which MONAI's programs compare."""
    return version_of(package).partition("+")[0]


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=4, ensure_ascii=False) + "\n"
