"""Head on the encoder: a decoder that is trained, or a classifier of single voxels that is fitted."""

from __future__ import annotations

from collections.abc import Sequence

from seg_transfer.data.splits import Split
from seg_transfer.errors import UserError
from seg_transfer.options.choices import Head

FIT_SECONDS = 30.0
"""Expected time to fit a classifier: about what 20 hippocampus cases in 2D took on a busy core (``bench/head.py``)."""
NAMES: dict[Head, str] = {
    "unet": "U-Net",
    "softmax": "softmax regression",
    "svm": "linear support vector machine",
    "bayes": "Gaussian naive Bayes classifier",
}


def head(requested: Head) -> tuple[Head, str]:
    """Take the requested head, by default the U-Net."""
    if requested == "unet":
        return "unet", "a decoder that is trained; --head svm, softmax or bayes fits a classifier instead"
    why = (
        f"requested: a {NAMES[requested]} of single voxels on the frozen encoder's features, fitted in seconds; "
        "decoder, budget, optimizer, augmentation and deep supervision are not used"
    )
    if requested == "svm":
        why += "; its probabilities are the softmax of its decision values"
    return requested, why


def check_data(chosen: Head, splits: Sequence[Split], *, has_regions: bool) -> None:
    """Refuse a classifier where classes overlap, or where a fold has no case to evaluate it on.

    Args:
        chosen: The head.
        splits: The folds.
        has_regions: Whether regions are predicted in place of classes.

    Raises:
        UserError: If the head is a classifier that does not fit the data.
    """
    if chosen == "unet":
        return
    where = f"--head {chosen}"
    if has_regions:
        what = "a classifier predicts one class per voxel, but this data set has regions, which may overlap"
        raise UserError(what, where=where, hint="omit --head")
    for fold, split in enumerate(splits):
        if len(split.train) < 2:
            what = (
                f"a classifier is evaluated on cases that it is not fitted to, but fold {fold} trains on a single one"
            )
            raise UserError(what, where=where, hint="plan with more cases")
