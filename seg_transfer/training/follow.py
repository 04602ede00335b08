"""What the ranks of a training do that follow rank 0: the same steps on their own samples, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.store import Store
from seg_transfer.training.batches import ReadAhead, sampler_of
from seg_transfer.training.manifest import Cases
from seg_transfer.training.ranks import Ranks
from seg_transfer.training.trainer import Trainer
from seg_transfer.util.environment import training_workers


@dataclass(frozen=True)
class Following:
    """The training to take part in.

    Attributes:
        plan: The plan that is trained.
        store: Folder of the preprocessed cases.
        cases: Those of the run.
        seed: Random seed.
        workers: As the user says.
        step: Steps done before.
        progress: Share of the budget used before.
        validation_batches: Batches that every epoch is validated on.
        tensors: State of rank 0's trainer, on the CPU.
    """

    plan: Plan
    store: Path
    cases: Cases
    seed: int
    workers: int | None
    step: int
    progress: float
    validation_batches: int
    tensors: dict[str, Tensor]

    def __call__(self, ranks: Ranks) -> None:
        """Take the steps that rank 0 takes, until it says that the budget is used or that all stop."""
        assert ranks.device is not None, "of several ranks"
        trainer = Trainer(self.plan, seed=self.seed, device=ranks.device, load=False, ranks=ranks)
        trainer.load(self.tensors)
        make_sampler = partial(
            sampler_of, self.plan, Store.open(self.store, self.plan.data), seed=self.seed, processes=ranks.here
        )
        sampler = make_sampler(self.cases.train)
        validation = make_sampler(self.cases.validation) if self.cases.validation else None
        batches = ReadAhead(
            partial(sampler.batch, rows=ranks.rows()),
            workers=training_workers(ranks.device, self.workers),
            pinned=ranks.device.startswith("cuda"),
        )
        step, progress, stop = self.step, self.progress, False
        try:
            while progress < 1 and not stop:
                trainer.step(batches(step), step, progress)
                step += 1
                progress, stop = ranks.agree(progress, ranks.asked_to_stop)
                if step % self.plan.recipe.steps_per_epoch == 0 or progress >= 1:
                    if validation is not None:
                        steps = range(self.validation_batches)[ranks.rows()]
                        trainer.validate(validation.batch(each, "validate") for each in steps)
                    progress, stop = ranks.agree(progress, ranks.asked_to_stop)
        finally:
            batches.close()
