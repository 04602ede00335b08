"""Random transforms of whole batches on the training device: parameters are drawn per sample, then applied.

The transforms, their order and ranges are nnU-Net's (Isensee et al., Nature Methods 2021, supplementary note 4, and its
published code); probabilities and strengths are in the plan. One simplification: patches are not read larger than the
network needs. Voxels that spatial transforms move in from outside are zero and ignored by the loss, as padding is.

A transform is a class in ``intensity.py`` or ``spatial.py`` and an entry in the tuple at the end of that file; those
that read the label as well, mirroring and ``structures.py`` (not nnU-Net's), are named in ``registry.py``. Each has a
random generator of its own, so that adding or removing one does not change the draws of the others.
"""

from seg_transfer.training.augment.registry import apply, sample_transforms

__all__ = ["apply", "sample_transforms"]
