"""Clusters of Dask that a command starts for itself: worker processes of this machine, or jobs of a queue.

Jobs are described by a configuration file of Dask, whose part ``jobqueue`` is that of dask-jobqueue.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seg_transfer.errors import UserError, cause_of
from seg_transfer.util.environment import cores
from seg_transfer.util.extras import check_extra
from seg_transfer.util.starting import starting_process
from seg_transfer.util.text_files import read_bytes

if TYPE_CHECKING:
    from distributed.deploy.spec import SpecCluster

logger = logging.getLogger(__name__)

LOCAL = "local"
ENDINGS = (".yaml", ".yml")
LONGEST = 300
"""Characters of what Dask says about an error."""
HINT = (
    "give a configuration file of Dask, such as `jobqueue: {slurm: {cores: 1, memory: 4GB}}` and "
    "`distributed: {adaptive: {maximum: 20}}`, the number of workers"
)


@contextmanager
def started(name: str) -> Iterator[SpecCluster | str]:
    """Start what the option names, and end it with the context.

    Args:
        name: ``local``: one process for each core that this one may use; a file ``*.yaml``: jobs of a queue. Any
            other is the address of a scheduler, which is returned.

    Raises:
        UserError: If the file is none of Dask, or the processes or jobs cannot be started.
    """
    if name == LOCAL:
        with _opened(_local, name) as cluster:
            yield cluster
    elif name.lower().endswith(ENDINGS):
        with _jobs(Path(name)) as cluster:
            yield cluster
    else:
        yield name


def _local() -> SpecCluster:
    import distributed

    with starting_process():
        return distributed.LocalCluster(
            n_workers=cores(), threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
        )


@contextmanager
def _jobs(file: Path) -> Iterator[SpecCluster]:
    """Jobs as a file says."""
    check_extra("cluster", "a cluster of jobs", only="dask_jobqueue", where=file)
    from dask import config
    from distributed import Status

    content = _read(file)
    kind, system = _kind(content, file)
    most, least = _workers(content, file)
    merged = config.merge(config.config, content)
    with config.set({name: merged[name] for name in content}), _opened(kind, file) as cluster:
        with _told(file):

            async def submit() -> None:
                cluster.scale(least)
                try:
                    await cluster  # before the loop submits them, which would drop what the queue says
                except Exception:
                    for job in cluster.workers.values():
                        job.status = Status.failed  # a cluster with jobs that neither run nor failed cannot be closed
                    raise

            cluster.sync(submit)
        cluster.adapt(minimum=least, maximum=most)  # also starts a job anew that the queue has ended
        logger.info(f"{file}: jobs of {system} are submitted; waiting for the first to start")
        yield cluster


@contextmanager
def _opened(start: Callable[[], SpecCluster], where: Path | str) -> Iterator[SpecCluster]:
    with _told(where):
        cluster = start()
    with cluster:
        yield cluster


@contextmanager
def _told(where: Path | str) -> Iterator[None]:
    """Turn what Dask or a queue's command raises, which may be anything, into a UserError."""
    try:
        yield
    except Exception as error:
        what = f"Dask cannot start these workers: {cause_of(error, LONGEST)}"
        raise UserError(what, where=where, hint=HINT if isinstance(where, Path) else None) from None


def _read(file: Path) -> dict[str, Any]:
    from dask import config

    read_bytes(file, HINT)  # Dask skips a file that it cannot read
    try:
        content = next(config.collect_yaml([str(file)]), {})
    except ValueError as error:
        raise UserError(cause_of(error, LONGEST), where=file, hint=HINT) from None
    return dict(content)


def _kind(content: dict[str, Any], file: Path) -> tuple[Callable[[], SpecCluster], str]:
    """The class of the only queue of a file, and its name.

    Raises:
        UserError: If there is not one that dask-jobqueue knows, or it has settings that dask-jobqueue does not know.
    """
    import dask_jobqueue
    from dask import config
    from dask_jobqueue.local import LocalCluster

    classes = [each for each in vars(dask_jobqueue).values() if getattr(each, "job_cls", None) is not None]
    kinds = {each.job_cls.config_name: each for each in (*classes, LocalCluster)}
    queues = content.get("jobqueue")
    if not isinstance(queues, dict) or len(queues) != 1 or next(iter(queues)) not in kinds:
        raise UserError(f"`jobqueue` has to name one of: {', '.join(sorted(kinds))}", where=file, hint=HINT)
    (system, settings), *_ = queues.items()
    known = [name.replace("_", "-") for name in config.get(f"jobqueue.{system}")]
    if not isinstance(settings, dict):
        raise UserError(f"`{system}` has no settings", where=file, hint=HINT)
    unknown = [str(name) for name in settings if str(name).replace("_", "-") not in known]
    if unknown:
        what = f"dask-jobqueue has no setting {unknown[0][:60]!r} of {system}"
        raise UserError(what, where=file, hint=f"it has: {', '.join(sorted(known))}")
    return kinds[system], system


def _workers(content: dict[str, Any], file: Path) -> tuple[int, int]:
    """Most and least workers. Dask's default of the least, 0, would be for ever: it sees few of the tasks."""
    from dask import config

    most = config.get("distributed.adaptive.maximum", None, config=content)
    least = config.get("distributed.adaptive.minimum", most, config=content)
    for name, number in (("maximum", most), ("minimum", least)):
        if type(number) is not int or number < 1:
            what = f"`distributed.adaptive.{name}` has to be a number of workers from 1, not {str(number)[:60]}"
            raise UserError(what, where=file, hint=HINT)
    if least > most:
        what = f"`distributed.adaptive.minimum` is {least}, above its maximum {most}"
        raise UserError(what, where=file, hint=HINT)
    return most, least
