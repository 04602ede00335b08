"""Random transforms of whole batches on the training device: what happens to each sample is drawn, then carried out.

The usual transforms, their order and ranges are nnU-Net's (Isensee et al., Nature Methods 2021, supplementary note 4,
as its published code has them); how likely and how strong each is stands in the plan. One simplification: a patch is
not read larger than the network needs, so that what spatial transforms bring in from outside is zero, as padding is,
and ignored by the loss.

A transform is a class in ``intensity.py`` or ``spatial.py`` and an entry in the tuple at the end of that file. Each
draws from a random generator of its own, so that adding or removing one leaves the draws of the others as they are.
"""

from seg_transfer.training.augment.registry import apply, sample_transforms

__all__ = ["apply", "sample_transforms"]
