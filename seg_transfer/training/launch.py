"""Starts the other processes of a training, or finds those that torchrun or Slurm has started, and connects them.

Fabric's own launcher is not used: when a process ends it kills the first one, which then cannot say why. In a script
in Python it would run the whole script once more for each device.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from seg_transfer.errors import UserError
from seg_transfer.training.ranks import ALONE, RankLost, Ranks, SeveralRanks, training_with

if TYPE_CHECKING:
    from lightning_fabric.plugins.environments import ClusterEnvironment

JOIN = timedelta(minutes=10)
"""Within which all processes have to be there."""
WAIT = timedelta(days=100)
"""Longer than rank 0 works alone, such as preprocessing."""
END = 10.0
"""Seconds within which a process ends after its connection is closed."""
SOON = 2.0
"""Seconds within which a process whose connection is lost is seen to have ended."""
KILLED = ", as the system does when memory runs out"


@dataclass(frozen=True)
class Place:
    """Where this process is among those of its training.

    Attributes:
        by: What starts the processes: this command, torchrun or Slurm.
        rank: Number of this process, from 0.
        here: Processes on each machine.
        machines: Number of machines.
    """

    by: Literal["segtl", "torchrun", "slurm"]
    rank: int
    here: int
    machines: int = 1

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.here * self.machines


def place_of(devices: int | None, environment: Mapping[str, str] = os.environ) -> Place | None:
    """Where this process is; None: it trains alone.

    Slurm counts only with ``devices``, so that its tasks can be trainings of their own.

    Args:
        devices: Devices of each machine, as the user says.
        environment: Variables of the environment.

    Raises:
        UserError: If the number of processes is another one.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        rank, size, here = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        if devices not in (None, here):
            what = f"torchrun has started {here} process(es) on this machine, not {devices}"
            raise UserError(what, where="--devices", hint="omit it: torchrun's --nproc-per-node decides")
        return None if size == 1 else Place("torchrun", rank, here, size // here)
    if devices is None:
        return None
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", 1))  # of srun; outside of it this command starts processes
    if tasks > 1:
        machines = int(environment.get("SLURM_STEP_NUM_NODES", 1))
        if devices * machines != tasks or environment.get("SLURM_NTASKS_PER_NODE") != str(devices):
            what = f"Slurm has started {tasks} tasks on {machines} machine(s)"
            hint = f"start them by `srun --nodes {machines} --ntasks-per-node {devices}`"
            raise UserError(what, where=f"--devices {devices}", hint=hint)
        return Place("slurm", int(environment["SLURM_PROCID"]), devices, machines)
    return None if devices == 1 else Place("segtl", int(environment.get("LOCAL_RANK", 0)), devices)


def follows(devices: int | None) -> bool:
    """Whether another process runs the command that this one only takes part in."""
    place = place_of(devices)
    return place is not None and place.rank > 0


@contextmanager
def joined(devices: int | None, device: str, command: Sequence[str]) -> Iterator[Ranks]:
    """Train with the processes that belong to this one, or alone; rank 0 ends them.

    Args:
        devices: Devices of each machine, as the user says.
        device: ``cpu`` or ``cuda:N``.
        command: Arguments of segtl for the processes that are started here.

    Raises:
        UserError: If there are fewer devices, or a process ends before all are connected.
    """
    place = place_of(devices)
    if place is None:
        yield ALONE
        return
    kind, _, index = device.partition(":")
    _check_devices(kind, int(index or 0), place)
    started: list[subprocess.Popen[bytes]] = []
    with ExitStack() as last:
        if place.by == "segtl" and place.rank == 0:
            last.callback(_end, started)
            last.enter_context(_restored_environment())
            started += _start(place.here, command)
        ranks = last.enter_context(_connected(place, kind, lambda: _why(started)))
        with training_with(ranks):
            try:
                yield ranks
            finally:
                if ranks.rank == 0:
                    ranks.end()


def _check_devices(kind: str, index: int, place: Place) -> None:
    import torch

    count = place.here
    if not torch.distributed.is_available():
        raise UserError("this torch cannot train over several devices", where="--devices", hint="train on one")
    if index:
        hint = "use --device cuda; CUDA_VISIBLE_DEVICES says which ones there are"
        raise UserError(f"cuda:{index} is one device, not {count}", where="--device", hint=hint)
    if kind == "mps" or (kind == "cuda" and torch.cuda.device_count() < count):
        there = 1 if kind == "mps" else torch.cuda.device_count()
        hint = "use fewer, or --device cpu"
        raise UserError(f"{count} devices of kind {kind}: there are {there}", where="--devices", hint=hint)
    cores = max(2, os.cpu_count() or 1)  # two can be tried anywhere
    if kind == "cpu" and place.by == "segtl" and count > cores:
        what = f"{count} processes on a machine of {cores} cores would wait for each other, and take its memory"
        raise UserError(what, where="--devices", hint=f"use at most {cores}; one process uses all cores as well")


def _start(count: int, command: Sequence[str]) -> list[subprocess.Popen[bytes]]:
    """Start the other ranks of this machine."""
    from lightning_fabric.plugins.environments.lightning import find_free_network_port

    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port())}
    os.environ |= address | {"NODE_RANK": "0", "LOCAL_RANK": "0"}
    line = [sys.executable, "-m", "seg_transfer", *command]
    return [
        subprocess.Popen(line, env=os.environ | {"LOCAL_RANK": str(rank)}, stdin=subprocess.DEVNULL)
        for rank in range(1, count)
    ]


@contextmanager
def _connected(place: Place, kind: str, why: Callable[[], str | None]) -> Iterator[SeveralRanks]:
    """Connect the processes by Fabric, which knows the variables of torchrun and Slurm."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
    from lightning_fabric.strategies import DDPStrategy
    from torch import distributed

    environments: dict[str, type[ClusterEnvironment]] = {
        "segtl": LightningEnvironment,
        "torchrun": TorchElasticEnvironment,
        "slurm": SLURMEnvironment,
    }
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=kind,
        devices=place.here,
        num_nodes=place.machines,
        strategy=DDPStrategy(timeout=JOIN),
        plugins=environments[place.by](),
    )
    try:
        fabric.launch()
        talk = distributed.new_group(backend="gloo", timeout=WAIT)
        assert isinstance(talk, distributed.ProcessGroup), "every process is a member"
    except RuntimeError as error:
        raise RankLost(str(error).splitlines()[0], where=f"rank {place.rank} of {place.size}") from error
    try:
        yield SeveralRanks(str(fabric.device), place.here, talk, why)
    finally:
        distributed.destroy_process_group()


@contextmanager
def _restored_environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _why(started: Sequence[subprocess.Popen[bytes]]) -> str | None:
    """Why a process that was started here has ended, first of all one that a signal killed."""
    deadline = time.monotonic() + SOON
    codes: dict[int, int] = {}
    while time.monotonic() < deadline and len(codes) < len(started):
        codes = {rank: code for rank, process in enumerate(started, 1) if (code := process.poll()) is not None}
        for rank, code in codes.items():
            if code < 0:
                name = signal.Signals(-code).name
                return f"the process of rank {rank} was killed by {name}" + (KILLED if name == "SIGKILL" else "")
        time.sleep(0.05)
    for rank, code in codes.items():
        return f"the process of rank {rank} has ended with exit code {code}"
    return None


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait for the processes, which end when their connection does, and kill those that hang."""
    deadline = time.monotonic() + END
    for process in started:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
