"""Random changes of whole batches on the training device: parameters are sampled apart from being applied.

The usual transforms, their order and ranges are nnU-Net's (Isensee et al., Nature Methods 2021, supplementary note 4,
as its published code has them); how likely and how strong each is stands in the plan. One simplification: a patch is
not read larger than the network needs, so that what spatial transforms bring in from outside is zero, as padding is,
and ignored by the loss.
"""

from seg_transfer.training.augment.apply import apply
from seg_transfer.training.augment.parameters import Parameters, sample_parameters

__all__ = ["Parameters", "apply", "sample_parameters"]
