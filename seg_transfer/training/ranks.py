"""The processes of one training: each has a device, and they share every batch.

Rank 0 runs the command as one process alone would: it alone decides and writes. The others wait for its calls, take
part in them, and end with it. Sample ``i`` of a batch belongs to rank ``i % size``. Losses and gradients are sums over
all ranks, so that a step is that of one process with the whole batch, up to rounding. Ranks keep the same weights,
since each applies the same sums to them.

Gradients are added by one call after the backward pass, not by ``DistributedDataParallel``: which parameters have
gradients changes when a stage is unfrozen, and Dice is not a mean over samples, so that its sums are added first.

BatchNorm that trains normalises with the samples of its own rank (``torch.nn.SyncBatchNorm`` has no CPU form), and its
running statistics are the mean over the ranks. Frozen BatchNorm is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

from seg_transfer.errors import UserError
from seg_transfer.training.interrupt import StopRequest, stop_requests

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed import ProcessGroup

T = TypeVar("T")


class RankLost(UserError):
    """Another process of the training has ended."""


class Ranks:
    """A process that trains alone: nothing is sent or received.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        here: How many of them are on this machine.
        device: ``cpu`` or ``cuda:N``; None: as the command says.
    """

    rank, size, here = 0, 1, 1
    device: str | None = None

    def call(self, work: Callable[[Ranks], object]) -> None:
        """From rank 0: let the others do this; it can be pickled. What it tells, rank 0 has to tell as well."""

    def done(self) -> None:
        """From rank 0: say that the work of :meth:`call` is done as agreed, so that the others wait for another one."""

    def follow(self) -> None:
        """From any other rank: take part in the calls of rank 0 until it ends."""

    def end(self) -> None:
        """From rank 0: let the others end, if they wait for its calls. Otherwise they notice that it has gone."""

    def rows(self) -> slice:
        """The samples of a batch, or other items, that belong to this rank."""
        return slice(None)

    def agree(self, progress: float, stop: bool) -> tuple[float, bool]:
        """Rank 0's progress, and whether any rank was asked to stop."""
        return progress, stop

    @property
    def asked_to_stop(self) -> bool:
        """Whether this rank, which follows, was asked to stop; rank 0 looks at its own signals."""
        return False

    def gather(self, part: T) -> list[T]:
        """The parts of all ranks, in their order."""
        return [part]

    def total(self, sums: Sequence[Tensor]) -> Sequence[Tensor]:
        """Sums over all ranks; each rank's gradients are those of its own samples."""
        return sums

    def combine(self, network: nn.Module) -> None:
        """Add the gradients of all ranks, and average the running statistics of BatchNorm that trains."""


ALONE = Ranks()
_current: ContextVar[Ranks] = ContextVar("ranks", default=ALONE)


def current() -> Ranks:
    """The ranks that this process trains with."""
    return _current.get()


@contextmanager
def training_with(ranks: Ranks) -> Iterator[None]:
    """Train with these ranks."""
    token = _current.set(ranks)
    try:
        yield
    finally:
        _current.reset(token)


class SeveralRanks(Ranks):
    """A process of several, once :mod:`torch.distributed` connects them.

    Args:
        device: ``cpu`` or ``cuda:N``.
        here: Ranks on this machine.
        talk: A group of gloo with a long timeout: there the others wait while rank 0 works alone. Tensors of a step
            are added in torch's default group.
        why: Says why another process ended, where this one has started it.
    """

    def __init__(self, device: str, here: int, talk: ProcessGroup, why: Callable[[], str | None]) -> None:
        from torch import distributed

        self.rank, self.size, self.here = distributed.get_rank(), distributed.get_world_size(), here
        self.device, self._talk, self._why = device, talk, why
        self._working = False
        self._stop: StopRequest | None = None

    def call(self, work: Callable[[Ranks], object]) -> None:
        self._tell(work)
        self._working = True

    def done(self) -> None:
        self._working = False

    def end(self) -> None:
        if not self._working:
            with suppress(RankLost):
                self._tell(None)

    def follow(self) -> None:
        with stop_requests() as stop:
            self._stop = stop
            while (work := self._tell(None)) is not None:
                work(self)

    @property
    def asked_to_stop(self) -> bool:
        return self._stop is not None and self._stop.requested

    def rows(self) -> slice:
        return slice(self.rank, None, self.size)

    def agree(self, progress: float, stop: bool) -> tuple[float, bool]:
        import torch
        from torch import distributed

        told = torch.tensor([progress if self.rank == 0 else 0.0, float(stop)], dtype=torch.float64)
        with self._together():
            distributed.all_reduce(told, group=self._talk)
        return float(told[0]), bool(told[1] > 0)

    def gather(self, part: T) -> list[T]:
        from torch import distributed

        parts: list[T] = [part] * self.size
        with self._together():
            distributed.all_gather_object(parts, part, group=self._talk)
        return parts

    def total(self, sums: Sequence[Tensor]) -> Sequence[Tensor]:
        mine = [each.float() for each in sums]
        of_all = self._added([each.detach() for each in mine])
        # the value is that of all, and its gradient that of this rank
        return [all_ + (own - own.detach()) for all_, own in zip(of_all, mine, strict=True)]

    def combine(self, network: nn.Module) -> None:
        import torch
        from torch.nn.modules.batchnorm import _BatchNorm

        norms = [child for child in network.modules() if isinstance(child, _BatchNorm) and child.training]
        statistics = [each for norm in norms for each in (norm.running_mean, norm.running_var) if each is not None]
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        added = self._added([*gradients, *statistics])
        torch._foreach_copy_(gradients, added[: len(gradients)])
        if statistics:
            torch._foreach_copy_(statistics, [each / self.size for each in added[len(gradients) :]])

    def _added(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sums over all ranks of float32 tensors, which are the same in each to the bit."""
        import torch
        from torch import distributed

        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with self._together():
            distributed.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def _tell(self, work: Callable[[Ranks], object] | None) -> Callable[[Ranks], object] | None:
        from torch import distributed

        told = [work]
        with self._together():
            distributed.broadcast_object_list(told, src=0, group=self._talk)
        return told[0]

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Turn the error of a lost connection into one that says what is known."""
        try:
            yield
        except RuntimeError as error:  # torch has no narrower one for all of its backends
            self._working = True  # nobody waits for a call any more
            known = self._why() or "another process of this training has ended, or cannot be reached"
            hint = "see its messages; run the same command again: it goes on from the last checkpoint"
            raise RankLost(known, where=f"rank {self.rank} of {self.size}", hint=hint) from error
