"""From images in class folders to an encoder's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seg_transfer.options.calls import takes
from seg_transfer.options.pretrain_options import PretrainOptions
from seg_transfer.util import environment

if TYPE_CHECKING:
    from seg_transfer.pretraining.fit import Pretrained


@takes(PretrainOptions)
def pretrain(options: PretrainOptions) -> Pretrained:
    """Pretrain an encoder as a classifier of images in class folders; ``--weights`` of `segtl plan` takes the result.

    Interrupted, the same call resumes.

    Returns:
        The files written, and the figures on the card.

    Raises:
        UserError: If images or options are unusable, another job was started with this output, the result exists
            already, or the loss is not finite.
        KeyboardInterrupt: If the user asked to stop; a checkpoint was written.
    """
    environment.check_torch()
    from seg_transfer.pretraining.fit import fit
    from seg_transfer.pretraining.job import Job

    return fit(Job(options))
