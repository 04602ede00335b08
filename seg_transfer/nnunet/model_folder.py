"""The folder in which nnU-Net v2 keeps a trained model: what it is for, and where its weights are.

The folder is called ``TRAINER__PLANS__CONFIGURATION`` and holds ``dataset.json``, ``plans.json`` and, for each fold,
``fold_X/checkpoint_final.pth``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seg_transfer.data.description import channel_names, label_scheme
from seg_transfer.data.layouts import DESCRIPTION
from seg_transfer.data.nnunet import RESAMPLING, NnunetPlans, read_plans
from seg_transfer.errors import UserError
from seg_transfer.nnunet.normalize import SCHEMES
from seg_transfer.planning.data_plan import Channel, DataPlan, Label, Normalization
from seg_transfer.util.files import file_digest
from seg_transfer.util.local_files import no_folder
from seg_transfer.util.records import parse_object
from seg_transfer.util.text_files import read_bytes

PLANS, CHECKPOINT = "plans", "checkpoint_final.pth"
ALL, FULL = "all", "full"
"""nnU-Net's and segtl's name of the fold with all cases."""
HINT = "give a folder such as nnUNet_results/Dataset004_Hippocampus/nnUNetTrainer__nnUNetPlans__3d_fullres"
NOT_READ = "predict with nnU-Net itself: this part of it is not in segtl"


@dataclass(frozen=True)
class NnunetModel:
    """A trained model of nnU-Net.

    Attributes:
        folder: Its folder.
        plans: The plans of its configuration.
        data: Its channels and labels, as a plan of segtl has them. Nothing is read from its other fields.
        checkpoints: One file for each fold.
    """

    folder: Path
    plans: NnunetPlans
    data: DataPlan
    checkpoints: tuple[Path, ...]

    def digest(self) -> str:
        """Digest of all its files."""
        files = (self.folder / DESCRIPTION, self.plans.path, *self.checkpoints)
        return hashlib.sha256("".join(map(file_digest, files)).encode()).hexdigest()


def find_model(folder: Path, folds: Sequence[str] | None) -> NnunetModel:
    """Read the description of a trained model; its weights are not read yet.

    Args:
        folder: The model's folder.
        folds: Names of folds, ``full`` for nnU-Net's ``all``; None: all trained ones, ``full`` only if there is no
            other.

    Raises:
        UserError: If it is no such folder, a fold is not trained to the end, or the model needs what segtl has not.
    """
    if not folder.is_dir():
        raise no_folder(folder, HINT)
    _refuse_neighbours(folder)
    name = folder.resolve().name
    if name.count("__") < 2:
        raise UserError("its name is not TRAINER__PLANS__CONFIGURATION, as nnU-Net called it", where=folder, hint=HINT)
    configuration = name.rpartition("__")[2]
    where = folder / DESCRIPTION
    description = parse_object(read_bytes(where, HINT), "dataset.json of nnU-Net", where=where, hint=HINT)
    channels = channel_names(description, where)
    plans = read_plans(folder, PLANS, configuration, channels)
    _check_plans(plans)
    scheme = label_scheme(description, where)
    values = [value for _, value in scheme.labels]
    if not scheme.regions and values != list(range(len(values))):
        raise UserError(f"nnU-Net numbers labels from 0 without gaps, not {values}", where=where, hint=HINT)
    data = DataPlan(
        dataset=folder.resolve().parent.name,
        dimension=3,
        unit="mm",
        channels=tuple(Channel(name=name, normalization=Normalization(kind="none")) for name in channels),
        labels=tuple(Label(name=name, value=value) for name, value in scheme.labels),
        regions=scheme.regions,
        ignore=scheme.ignore,
        cases=("unknown",),
        axes=(0, 1, 2),
        spacing=(1.0, 1.0, 1.0),
        crop_nonzero=True,
        slice_order=0,
    )
    return NnunetModel(folder, plans, data, _checkpoints(folder, folds))


def _refuse_neighbours(folder: Path) -> None:
    """Tell what is wrong if the folder above the model's, or one of its folds, is given."""
    if (folder / CHECKPOINT).is_file() or folder.name.startswith("fold_"):
        raise UserError("this is a single fold", where=folder, hint=f"give {folder.parent}, and --folds")
    inside = sorted(path.name for path in folder.glob("*__*__*") if path.is_dir())
    if inside and not (folder / f"{PLANS}.json").exists():
        what = f"this is the folder of {len(inside)} model(s): {', '.join(inside[:5])}"
        raise UserError(what, where=folder, hint=f"give one of them, such as {folder / inside[0]}")


def _check_plans(plans: NnunetPlans) -> None:
    """Refuse what would be done otherwise than by nnU-Net."""
    chosen = plans.configuration
    if chosen.preprocessor_name != "DefaultPreprocessor":
        raise UserError(f"the preprocessor is {chosen.preprocessor_name[:60]!r}", where=plans.path, hint=NOT_READ)
    for name in (chosen.resampling_fn_data, chosen.resampling_fn_probabilities):
        if name != RESAMPLING:
            raise UserError(f"the images are resampled by {name[:60]!r}", where=plans.path, hint=NOT_READ)
    for number, name in enumerate(chosen.normalization_schemes):
        if name not in SCHEMES:
            raise UserError(f"channel {number} is normalized by {name[:60]!r}", where=plans.path, hint=NOT_READ)
        if name == "CTNormalization" and plans.intensities[number] is None:
            what = f"channel {number} has {name}, and there is no foreground_intensity_properties_per_channel of it"
            raise UserError(what, where=plans.path, hint=HINT)


def _checkpoints(folder: Path, folds: Sequence[str] | None) -> tuple[Path, ...]:
    trained = {path.parent.name.removeprefix("fold_"): path for path in sorted(folder.glob(f"fold_*/{CHECKPOINT}"))}
    if folds is None:
        folds = [fold for fold in trained if fold != ALL] or list(trained)
    if not folds:
        started = sorted(path.parent.name for path in folder.glob("fold_*/checkpoint_*.pth"))
        what = f"there is no fold_X/{CHECKPOINT}" + (f", only other checkpoints of {started[0]}" if started else "")
        raise UserError(what, where=folder, hint="train with nnU-Net to the end")
    names = [ALL if fold == FULL else fold for fold in folds]
    if missing := [name for name in names if name not in trained]:
        there = ", ".join(FULL if name == ALL else name for name in trained) or "none"
        what = f"there is no fold_{missing[0][:60]}/{CHECKPOINT}"
        raise UserError(what, where=folder, hint=f"these folds are trained to the end: {there}")
    return tuple(trained[name] for name in dict.fromkeys(names))
