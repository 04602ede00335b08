"""What reads the encoder's features: a decoder that is trained, or a classifier of single voxels that is fitted."""

from __future__ import annotations

from seg_transfer.planning.plan import Head

NAMES: dict[Head, str] = {
    "unet": "U-Net",
    "softmax": "softmax regression",
    "svm": "linear support vector machine",
    "bayes": "Gaussian naive Bayes classifier",
}


def head(requested: Head) -> tuple[Head, str]:
    """Take the head that is asked for, by default the U-Net."""
    if requested == "unet":
        return "unet", "a decoder is trained; --head svm, softmax or bayes fits a classifier instead"
    why = (
        f"asked for {requested}: a {NAMES[requested]} of single voxels by the frozen encoder's features, fitted in "
        "seconds; decoder, budget, optimizer, augmentation and deep supervision are not used"
    )
    if requested == "svm":
        why += "; what it gives as probabilities is the softmax of its decision values"
    return requested, why
