"""Work that is one task per case, on a cluster of Dask in place of processes on this machine.

The scheduler and its workers are started by others, or by the command (:mod:`~seg_transfer.util.own_cluster`). They
need the same files under the same names, and the same version of segtl.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from seg_transfer.errors import UserError, cause_of
from seg_transfer.util.extras import check_extra
from seg_transfer.util.own_cluster import LONGEST, started
from seg_transfer.version import VERSION

if TYPE_CHECKING:
    from distributed import Client, Future

T = TypeVar("T", bound=Callable[[], object])
CONNECT = 20.0
"""Seconds in which the scheduler has to answer and to have a worker."""
AHEAD = 2
"""Tasks sent per thread of the workers: enough that none waits, and 100,000 cases never are on the way at once."""
LOOK = 1.0
"""Seconds between two looks at whether there are workers."""
_LOST = "the connection to the scheduler was lost"
_RESUME = "see whether it runs, then run the same command again: what is finished is kept"
_client: ContextVar[Client | None] = ContextVar("client", default=None)


class WorkerDied(Exception):
    """Workers died with a task as often as the scheduler allows."""


def client() -> Client | None:
    """The cluster that is worked on now; None: this machine."""
    return _client.get()


@contextmanager
def on_cluster(name: str | None) -> Iterator[None]:
    """Work on a cluster.

    Args:
        name: Address of its scheduler, such as ``tcp://head:8786``, or what :func:`~.own_cluster.started` starts; None:
            this process and its own workers.

    Raises:
        UserError: If no scheduler answers there, it has no worker, or a worker has another version of segtl.
    """
    if name is None:
        yield
        return
    check_extra("cluster", "a cluster", only="distributed", where="--cluster")
    import distributed

    with ExitStack() as quiet:  # they tell of lost connections at length; the message below says it once
        for logger in map(logging.getLogger, ("distributed", "tornado.application")):
            quiet.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        with started(name) as cluster:
            try:
                opened = distributed.Client(cluster, timeout=CONNECT)
            except (OSError, TimeoutError, ValueError) as error:
                hint = "start one by `dask scheduler`, which prints its address, and workers by `dask worker ADDRESS`"
                what = f"no scheduler of Dask answers: {cause_of(error, LONGEST)}"
                raise UserError(what, where=name, hint=hint) from None
            with opened:
                _check_workers(opened, name)
                token = _client.set(opened)
                try:
                    yield
                finally:
                    _client.reset(token)


def completed(tasks: Sequence[T], on: Client) -> Iterator[tuple[T, object]]:
    """Run tasks on a cluster.

    Args:
        tasks: Functions without arguments, which the workers can import.
        on: The cluster.

    Yields:
        Each task with its result, or with a :class:`WorkerDied`, in order of completion.

    Raises:
        UserError: If the scheduler is lost, or all workers are.
        Exception: What a task raised; the others are cancelled.
    """
    from distributed import CancelledError, KilledWorker
    from distributed.client import FutureCancelledError

    waiting = iter(tasks)
    running: dict[Future, T] = {}
    looked = -math.inf
    try:
        while True:
            if time.monotonic() - looked > LOOK:  # asking the scheduler takes as long as a small task
                threads, looked = _threads(on), time.monotonic()
            room = AHEAD * threads - len(running)
            running |= {on.submit(task, pure=False): task for task in islice(waiting, max(0, room))}
            if not running:
                return
            for future in _finished(list(running), on):
                task = running.pop(future)
                try:
                    result = future.result()
                except KilledWorker:
                    result = WorkerDied("its worker died, as did those that tried again")
                yield task, result
    except (CancelledError, FutureCancelledError, OSError, TimeoutError) as error:
        raise UserError(f"{_LOST}: {cause_of(error, LONGEST)}", where="--cluster", hint=_RESUME) from None
    finally:
        with suppress(OSError, TimeoutError):  # the scheduler is lost
            on.cancel(list(running))


def _threads(on: Client) -> int:
    """Threads of all workers; those that the command itself has started are waited for, as jobs may wait in a queue.

    Raises:
        UserError: If there is no worker of another's cluster for :data:`CONNECT` seconds.
    """
    until = time.monotonic() + _patience(on)
    while not (threads := sum(on.nthreads().values())):
        if time.monotonic() > until:
            raise UserError("the scheduler has no worker any more", where="--cluster", hint=_RESUME)
        time.sleep(LOOK)
    return threads


def _patience(on: Client) -> float:
    return CONNECT if on.cluster is None else math.inf


def _finished(running: list[Future], on: Client) -> Iterable[Future]:
    """Those that are finished, once there is one."""
    from distributed import wait

    while True:
        try:
            return wait(running, timeout=LOOK, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            _threads(on)


def _check_workers(opened: Client, name: str) -> None:
    try:
        opened.wait_for_workers(1, timeout=None if math.isinf(patience := _patience(opened)) else patience)
    except TimeoutError:
        what = f"the scheduler has no worker, nor got one in {CONNECT:g} s"
        raise UserError(what, where=name, hint=f"start workers by `dask worker {name}`") from None
    found = opened.run(_version, on_error="return")
    others = {worker: version for worker, version in found.items() if version != VERSION}
    if others:
        worker, version = next(iter(others.items()))
        has = f"segtl {version}" if isinstance(version, str) else f"no segtl that works ({cause_of(version, LONGEST)})"
        what = f"{len(others)} of {len(found)} workers differ from this segtl {VERSION}: {worker} has {has}"
        raise UserError(what, where=name, hint="install the same version for all of them, and start them again")


def _version() -> str:
    return VERSION
