"""The machine: a torch that works, the device, memory and cores.

torch is imported inside the functions that need it, so that commands without it start at once.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib import import_module
from pathlib import Path

import psutil

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from seg_transfer.errors import UserError
from seg_transfer.util.limits import limit_reached
from seg_transfer.util.local_files import content_bytes
from seg_transfer.util.machine_speed import lacks_bfloat16, processor, remembered
from seg_transfer.util.texts import version_of

GB = 10**9
_CGROUP = Path("/sys/fs/cgroup")
_DRIVERS = [Path(path) for path in ("/dev/nvidiactl", "/dev/nvidia0", "/proc/driver/nvidia", "/dev/dxg", "/dev/kfd")]
_DRIVERS += [Path("/dev/nvhost-ctrl"), Path("/dev/nvmap")]
"""Files of the drivers that torch's CUDA and ROCm builds need: NVIDIA's, also in WSL and of Jetson, and AMD's."""
_SECONDS_PER_FILE, _SECONDS_PER_BYTE = 0.002, 1e-8
"""What reading and measuring take, roughly: a second for a CT of 84 MB with its label of 42 MB (bench/vs_nnunet.py)."""
_STARTING = 6.0
"""Seconds of work from which on workers pay: each imports for a second before it begins."""
_REPEATS = 5
_LONG = 0.5
"""Seconds that repeats may take; bfloat16 that a CPU emulates takes half a second each."""


def check_torch() -> None:
    """Import torch.

    Raises:
        UserError: If it is missing or cannot be imported.
    """
    _check("torch")


def check_torchvision() -> None:
    """Import torch and torchvision, which only work as a pair; timm needs both, and seconds to import them.

    Raises:
        UserError: If one is missing, or they were built for different versions or devices: torchvision then fails
            with ``operator torchvision::nms does not exist`` or an undefined symbol.
    """
    _check("torch", "torchvision")


@cache
def _check(*names: str) -> None:
    for name in names:
        try:
            import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            if limit_reached(error) is not None:
                raise
            raise UserError(
                f"{name} cannot be imported: {str(error).splitlines()[0]}",
                where=f"torch {version_of('torch')}, torchvision {version_of('torchvision')}",
                hint="the two must be a pair from one source: `pip uninstall -y torch torchvision`, then install both "
                "in one command, `pip install torch torchvision` (for a machine without GPU see "
                "https://pytorch.org/get-started/locally, choose CPU, and install both from that index)",
            ) from None


def resolve_device(name: str) -> str:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps`` into the name of an available device.

    Args:
        name: Name of a device; ``auto`` takes CUDA, else MPS, else the CPU.

    Returns:
        ``cpu``, ``cuda:N`` or ``mps``.

    Raises:
        UserError: If the device is unknown or not available.
    """
    kind, _, index = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (index and (kind != "cuda" or not index.isdecimal())):
        raise UserError(f"unknown device {name!r}", where="--device", hint="use auto, cpu, cuda, cuda:1 or mps")
    if kind == "cpu" or (kind == "auto" and not _may_have_gpu()):
        return "cpu"
    check_torch()
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if kind == "auto":
        return "cuda:0" if count else "mps" if mps else "cpu"
    if kind == "mps":
        if not mps:
            raise UserError("this machine or this torch has no MPS", where="--device", hint="use --device auto")
        return "mps"
    if not count:
        cause = "this torch is built without CUDA" if torch.version.cuda is None else "no CUDA device is visible"
        raise UserError(f"{name}: {cause}", where="--device", hint="use --device auto, or install torch for your GPU")
    if int(index or 0) >= count:
        hint = f"use cuda:0 to {count - 1}"
        raise UserError(f"{name}: there are {count} CUDA device(s)", where="--device", hint=hint)
    return f"cuda:{int(index or 0)}"


def _may_have_gpu() -> bool:
    """Whether torch could find a GPU; on Linux its driver's files are looked for, which takes no second to import."""
    return platform.system() != "Linux" or any(path.exists() for path in _DRIVERS)


@cache
def bfloat16_gain(device: str) -> float:
    """Measure how many times faster a convolution is in bfloat16 than in float32.

    The fastest of several repeats counts, on a CPU in one thread and by process time, so that other work on the machine
    does not decide; a CPU is measured once (:func:`~seg_transfer.util.machine_speed.remembered`). One without
    instructions for bfloat16 computes it several times more slowly than float32: it is not measured and counts as 0.
    MPS is not measured either and counts as 1: older systems refuse bfloat16.
    """
    if device == "mps":
        return 1.0
    if device == "cpu":
        return 0.0 if lacks_bfloat16() else remembered("bfloat16_gain", partial(_bfloat16_gain, device))
    return _bfloat16_gain(device)


def _bfloat16_gain(device: str) -> float:
    check_torch()
    import torch

    image = torch.randn(8, 64, 56, 56, device=device).to(memory_format=torch.channels_last)
    kernel = torch.randn(64, 64, 3, 3, device=device).to(memory_format=torch.channels_last)

    def convolve(image: torch.Tensor, kernel: torch.Tensor) -> None:
        torch.nn.functional.conv2d(image, kernel, padding=1).float().sum().item()  # .item() waits for a GPU

    clock = time.process_time if device == "cpu" else time.perf_counter
    full, reduced = (
        fastest(partial(convolve, image.to(dtype), kernel.to(dtype)), clock)
        for dtype in (torch.float32, torch.bfloat16)
    )
    return full / reduced


def fastest(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of the fastest of several repeats, of two where these take long, in one thread of torch.

    By process time, the default, other work on the machine does not decide.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds: list[float] = []
    while len(seconds) < _REPEATS and (len(seconds) < 2 or sum(seconds) < _LONG):
        start = clock()
        work()
        seconds.append(clock() - start)
    torch.set_num_threads(threads)
    return min(seconds)


def device_memory(device: str) -> int:
    """Bytes that a plan may use on a device: 0.9 of a GPU's memory, half of the host's, which other programs share."""
    if device.startswith("cuda"):
        import torch

        return int(0.9 * torch.cuda.get_device_properties(device).total_memory)
    return host_memory() // 2


def host_memory() -> int:
    """Bytes of memory of this machine, or of the container it runs in."""
    limit = _read(_CGROUP / "memory.max")
    total = psutil.virtual_memory().total
    return min(total, int(limit)) if limit.isdecimal() else total


def free_memory() -> int:
    """Bytes of memory that this process can still get: from the machine, its container and its own limit."""
    free = [psutil.virtual_memory().available]
    limit, used = _read(_CGROUP / "memory.max"), _read(_CGROUP / "memory.current")
    if limit.isdecimal() and used.isdecimal():
        statistics = dict(line.split() for line in _read(_CGROUP / "memory.stat").splitlines())
        free.append(int(limit) - int(used) + int(statistics.get("inactive_file", 0)))  # files' pages can be dropped
    if resource is not None:
        own = resource.getrlimit(resource.RLIMIT_AS)[0]
        if own != resource.RLIM_INFINITY:
            free.append(own - psutil.Process().memory_info().vms)
    return max(0, min(free))


def cores() -> int:
    """CPU cores this process may use, by affinity and a container's quota; torch ignores both."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    return max(1, min(count, round(int(quota) / int(period)))) if quota.isdecimal() else count


def machine_text() -> str:
    """Cores in use, processor with the instructions that torch uses, and GPU as text."""
    check_torch()
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    known = torch.backends.cpu.get_cpu_capability() + (" without bfloat16" if lacks_bfloat16() else "")
    return f"{cores()} of {os.cpu_count()} cores, {processor()} with {known}, {gpu}"


def case_workers(requested: int | None, files: Iterable[Path], *, seconds_each: float = 0.0) -> int:
    """Worker processes for work that is one task per case; 0 works in this process.

    Args:
        requested: The user's number; None for one per core, at most 8, with 2 GB of memory for each, or 0 where the
            work takes about as long as it takes to start processes.
        files: All that have to be read.
        seconds_each: What the work takes beside reading, for each file.
    """
    if requested is not None:
        return requested
    seconds = sum(seconds_each + _SECONDS_PER_FILE + _SECONDS_PER_BYTE * content_bytes(file) for file in files)
    return max(1, min(8, cores(), host_memory() // (2 * GB))) if seconds > _STARTING else 0


def training_workers(device: str, requested: int | None = None) -> int:
    """Worker processes that load batches during training.

    Args:
        device: Where the network trains.
        requested: The user's number; None for one core less than available, at most 8, and for none on the CPU, where
            they would compete with the network.
    """
    if requested is not None:
        return requested
    return 0 if device == "cpu" else min(8, max(1, cores() - 1))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
