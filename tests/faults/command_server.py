"""A process that has imported everything and forks one child for each command; see :mod:`commands`.

Each line of standard input is a request as JSON. The answers are the child's number, and how it ended.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import multiprocessing.popen_fork  # now, since another user may not be able to read the library
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import seg_transfer
from seg_transfer.util import environment
from seg_transfer.util.files import write_text

NOT_ALLOWED = 77
"""Exit code of a child that could not be prepared, since the machine does not allow it."""
UNUSED = ("__main__", "exporting.onnx", "evidence.", "nnunet.", "pretraining.", "serving.", "transfer.timm_modules")
"""Modules that no command of these tests needs; some take seconds to import."""
_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000


def limit(name: str, value: int) -> None:
    """Lower a limit of the child, such as NOFILE."""
    number = getattr(resource, f"RLIMIT_{name}")
    resource.setrlimit(number, (value, value))


def memory_left(size: int) -> None:
    """Allow this many bytes on top of what the child has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit("AS", pages * resource.getpagesize() + size)


def user(number: int) -> None:
    """Become another user, for whom permission bits and the limit of processes count."""
    os.setgroups([])
    os.setgid(number)
    os.setuid(number)


def read_only(path: str) -> None:
    """Make a folder read-only, for this child and its children."""
    mounts = ctypes.CDLL(None, use_errno=True)
    ids = os.getuid(), os.getgid()
    if mounts.unshare(_NEW_MOUNTS | (_NEW_USER if ids[0] else 0)):
        os._exit(NOT_ALLOWED)
    if ids[0]:
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        for name, inside in zip(("uid_map", "gid_map"), ids, strict=True):
            Path(f"/proc/self/{name}").write_text(f"0 {inside} 1", encoding="ascii")
    for options in (["--make-rprivate", "/"], ["--bind", path, path], ["-o", "remount,bind,ro", path]):
        if subprocess.run(["mount", *options], capture_output=True).returncode:
            os._exit(NOT_ALLOWED)


def environ(changes: dict[str, str | None]) -> None:
    """Set variables of the environment; None removes one."""
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def forked_workers() -> None:
    """Fork workers, which need not import everything again."""
    forks = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: forks  # type: ignore[assignment,return-value]


def killed_in(place: str, folder: str, times: int) -> None:
    """Let a process that calls ``module:function`` be killed, the first so many times."""
    module, _, name = place.partition(":")
    owner, function = import_module(module), getattr(import_module(module), name)

    def killed(*arguments: Any, **options: Any) -> Any:
        count = len(list(Path(folder).iterdir()))
        if count < times:
            (Path(folder) / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    setattr(owner, name, killed)


def save_always() -> None:
    """Save a training after every step, and draw nothing, so that most of its time is work that can be lost."""
    loop, validate = (import_module(f"seg_transfer.{name}") for name in ("training.loop", "workflow.validate"))
    loop.SECONDS_BETWEEN_SAVES = 0.0
    loop.draw_progress = validate.save_overlay = lambda path, *_, **__: write_text(path, "drawn")


PREPARATIONS: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (limit, memory_left, user, read_only, environ, forked_workers, killed_in, save_always)
}


def run(request: dict[str, Any], output: int) -> int:
    """Run one command in this process, as a shell would."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(output)
    os.close(nothing)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    os.chdir(request["folder"])
    for name, *arguments in request["prepare"]:
        PREPARATIONS[name](*arguments)
    sys.argv = ["segtl", *request["arguments"]]
    return import_module("seg_transfer.__main__").main()


def child(request: dict[str, Any], output: int) -> None:
    code = 1
    try:
        code = run(request, output)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def serve() -> None:
    import torch

    torch.set_num_threads(1)  # a thread would not survive the fork
    gc.disable()
    for module in pkgutil.walk_packages(seg_transfer.__path__, "seg_transfer."):
        if not module.name.removeprefix("seg_transfer.").startswith(UNUSED):
            import_module(module.name)
    environment.cores = lambda: 1
    environment.bfloat16_gain = lambda device: 1.0
    gc.freeze()  # else the first full round of each child copies the whole memory
    gc.enable()
    answers = os.fdopen(os.dup(1), "w")
    requests = os.fdopen(os.dup(0), "r")
    print("ready", file=answers, flush=True)
    for line in requests:
        printed, output = os.pipe()
        number = os.fork()
        if number == 0:
            answers.close()
            requests.close()
            os.close(printed)
            child(json.loads(line), output)
        os.close(output)
        print(number, file=answers, flush=True)
        with os.fdopen(printed, "rb") as pipe:
            text = pipe.read().decode(errors="replace")  # until its workers have ended too
        _, status = os.waitpid(number, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), text]), file=answers, flush=True)


if __name__ == "__main__":
    serve()
