"""Pretrains an encoder on images in class folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seg_transfer.options.calls import takes
from seg_transfer.options.pretrain_options import PretrainOptions
from seg_transfer.util import environment
from seg_transfer.workflow.output_files import check_not_kept

if TYPE_CHECKING:
    from seg_transfer.pretraining.fit import Pretrained


@takes(PretrainOptions)
def pretrain(options: PretrainOptions) -> Pretrained:
    """Pretrain an encoder as a classifier of images in class folders; `segtl plan --weights` takes the result.

    The same call resumes an interrupted one.

    Returns:
        The files written, and the figures on the card.

    Raises:
        UserError: If images or options are unusable, another job was started with this output, the result exists
            already, a work folder keeps it, or the loss is not finite.
        KeyboardInterrupt: If the user interrupted; a checkpoint was written.
    """
    check_not_kept(options.output)
    environment.check_torchvision()
    from seg_transfer.pretraining.fit import fit
    from seg_transfer.pretraining.job import Job

    return fit(Job(options))
