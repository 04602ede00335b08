"""What reads the encoder's features: a decoder that is trained, or a classifier of single voxels that is fitted."""

from __future__ import annotations

from collections.abc import Sequence

from seg_transfer.data.splits import Split
from seg_transfer.errors import UserError
from seg_transfer.options.choices import Head
from seg_transfer.planning.fields import MirrorAxes

SECONDS = 30.0
"""To fit a classifier; about what 20 hippocampus cases in 2D took on a busy core (``bench/head.py``)."""
NAMES: dict[Head, str] = {
    "unet": "U-Net",
    "softmax": "softmax regression",
    "svm": "linear support vector machine",
    "bayes": "Gaussian naive Bayes classifier",
}


def head(requested: Head) -> tuple[Head, str]:
    """Take the head that is asked for, by default the U-Net."""
    if requested == "unet":
        return "unet", "a decoder that is trained; --head svm, softmax or bayes fits a classifier instead"
    why = (
        f"asked for {requested}: a {NAMES[requested]} of single voxels by the frozen encoder's features, fitted in "
        "seconds; decoder, budget, optimizer, augmentation and deep supervision are not used"
    )
    if requested == "svm":
        why += "; what it gives as probabilities is the softmax of its decision values"
    return requested, why


def tta_axes(chosen: Head, trained: tuple[MirrorAxes, str]) -> tuple[MirrorAxes, str]:
    """Axes mirrored at prediction: none for a classifier, which has never seen the features of mirrored images.

    Args:
        chosen: The head.
        trained: Those of a network that is trained on mirrored images, and why.
    """
    if chosen == "unet":
        return trained
    return (), "a classifier is fitted to images as they are: features of mirrored ones are others"


def check_data(chosen: Head, splits: Sequence[Split], *, has_regions: bool) -> None:
    """Refuse a classifier where classes overlap, or where there is no case to try it on.

    Args:
        chosen: The head.
        splits: The folds.
        has_regions: Whether regions are predicted in place of classes.

    Raises:
        UserError: If it is.
    """
    if chosen == "unet":
        return
    where = f"--head {chosen}"
    if has_regions:
        what = "a classifier decides for one class at each voxel, and this data set has regions, which may overlap"
        raise UserError(what, where=where, hint="leave --head away")
    for fold, split in enumerate(splits):
        if len(split.train) < 2:
            what = f"a classifier is tried on cases that it is not fitted to, and fold {fold} trains on a single one"
            raise UserError(what, where=where, hint="plan with more cases")
