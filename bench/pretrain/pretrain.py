"""Trains an encoder for segtl from random weights on a folder of pictures, one sub-folder per class.

    python bench/pretrain/pretrain.py --data PICTURES --arch resnet18 --minutes 100 -o my_encoder

writes my_encoder.safetensors and its card my_encoder.md; docs/pretrain.md says more. With --for photos it does what the
card of the bundled weights describes. Interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from seg_transfer.cli.console import shown_on_stderr  # before torch, to set how OpenMP's threads wait

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for bench/cells.py
import card
import numpy as np
import torch
from augment import VARIETIES
from cells import commit, machine
from job import Data, Job, State
from learner import Learner, known_architecture
from safetensors.torch import save_file
from schedule import rate_factor, side_at

from seg_transfer.catalogue.encoders import EncoderEntry
from seg_transfer.cli.app import INTERRUPTED, OF_THE_MACHINE, USER_ERROR
from seg_transfer.errors import UserError
from seg_transfer.planning.cost import FEWEST_GAIN
from seg_transfer.training.checkpoint import load_state, save_state
from seg_transfer.training.interrupt import stop_requests
from seg_transfer.util.environment import bfloat16_gain, resolve_device
from seg_transfer.util.files import whole_file, write_text
from seg_transfer.util.progress import meter

logger = logging.getLogger("seg_transfer.pretrain")

SECONDS_BETWEEN_CHECKPOINTS = 180.0
STATISTICS = 9984
"""Pictures that BatchNorm's statistics are estimated from at the end, where there are so many."""

Clock = Callable[[], float]


def pretrain(job: Job, *, device: str = "auto", restart: bool = False, clock: Clock = time.perf_counter) -> card.Facts:
    """Train an encoder, or go on with it, and write its weights and card.

    Args:
        job: What is asked for.
        device: ``auto``, ``cpu``, ``cuda:N`` or ``mps``.
        restart: Throw away what is there and start over.
        clock: Seconds; only what passes during steps counts.

    Raises:
        UserError: If pictures or options cannot be worked with, something else was trained here, the result is there
            already, or the loss is not finite.
        KeyboardInterrupt: If somebody asked to stop; a checkpoint was written.
    """
    known = known_architecture(job.arch, side_at(0, job.side))
    device = resolve_device(device)
    if restart:
        for path in (job.resume_file, job.weights_file, job.card_file):
            path.unlink(missing_ok=True)
    if job.weights_file.exists() and not job.resume_file.exists():
        raise UserError(
            "is there already", where=job.weights_file, hint="name another -o, or start over with --restart"
        )
    data = Data.of(job)
    task, state = job.task(data), State()
    bfloat16 = bfloat16_gain(device) > FEWEST_GAIN
    learner = Learner(known, len(data.pictures.classes), seed=job.seed, device=device, bfloat16=bfloat16)
    if job.resume_file.exists():
        tensors, header = load_state(job.resume_file, "resume")
        state = State.resumed(header, task, job.resume_file)
        learner.load(tensors)
        logger.info(f"going on after step {state.step}")

    def save() -> None:
        save_state(job.resume_file, "resume", learner.tensors(), state.header(task))

    learn(learner, job, data, state, save, clock)
    facts = finish(learner, known, job, data, state, "bfloat16" if bfloat16 else "float32")
    job.resume_file.unlink()
    return facts


def learn(learner: Learner, job: Job, data: Data, state: State, save: Callable[[], None], clock: Clock) -> None:
    """Take steps until the time is used up, with a checkpoint every few minutes and at the end."""
    budget, saved = 60 * job.minutes, state.seconds
    with stop_requests() as stop, meter(total=1.0, title="training") as show:
        while state.seconds < budget:
            share, started = state.seconds / budget, clock()
            side = side_at(share, job.side)
            pictures, labels = data.batch(job, state.step, side, learner.device)
            drawn = clock()
            loss = learner.step(pictures, labels, job.peak * rate_factor(share))
            ended = clock()
            if not np.isfinite(loss):
                hint = f"start over with --restart and a --rate below {job.peak:g}"
                raise UserError(f"the loss is not finite after {state.step} steps", where="--rate", hint=hint)
            state.step, state.seconds = state.step + 1, state.seconds + ended - started
            state.drawing += drawn - started
            epochs = state.step * job.batch / len(data.train)
            show(min(1.0, state.seconds / budget), f"epoch {epochs:.1f}, side {side}, loss {loss:.2f}")
            if stop.requested or state.seconds - saved >= SECONDS_BETWEEN_CHECKPOINTS:
                save()
                saved = state.seconds
            if stop.requested:
                raise KeyboardInterrupt
    save()


def finish(learner: Learner, known: EncoderEntry, job: Job, data: Data, state: State, precision: str) -> card.Facts:
    """Re-estimate BatchNorm's statistics, measure the accuracy, and write weights and card."""
    rows = statistics_rows(data.train, job.batch, job.seed) if known.batchnorm else data.train[:0]
    logger.info("re-estimating BatchNorm's statistics and measuring the accuracy")
    learner.reestimate(pictures for pictures, _ in data.plain(rows, job.batch))
    learner.round()
    top1, top5 = learner.accuracy(data.plain(data.validation, job.batch))
    facts = card.Facts(
        known=known,
        state=state,
        parameters=sum(parameter.numel() for parameter in learner.network.parameters()),
        statistics=len(rows),
        top1=top1,
        top5=top5,
        chance=np.bincount(data.labels[data.validation]).max() / len(data.validation),
        precision=precision,
        machine=machine(),
        versions=f"torch {torch.__version__}, segtl {commit()}",
        date=time.strftime("%Y-%m-%d"),
    )
    with whole_file(job.weights_file) as temporary:
        temporary.touch()
        usual = temporary.stat().st_mode
        save_file(learner.kept(), temporary, metadata=card.metadata(job, data, facts))
        temporary.chmod(usual)  # safetensors lets the owner alone read
    write_text(job.card_file, card.text(job, data, facts))
    return facts


def statistics_rows(train: np.ndarray, batch: int, seed: int) -> np.ndarray:
    """Training pictures for BatchNorm's statistics, as whole batches, since each batch counts the same.

    They are shuffled: a batch of one class alone would have other statistics.
    """
    count = min(len(train), STATISTICS)
    whole = count - count % batch if count > batch else count
    return np.random.default_rng(seed).permutation(train)[:whole]


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with one sub-folder of pictures per class")
    add("-o", "--output", type=Path, required=True, help="the result, without ending")
    add("--arch", default=Job.arch, help="encoder of `segtl encoders` that is one of timm's (default: %(default)s)")
    add("--minutes", type=float, default=Job.minutes, help="of training (default: %(default)g)")
    split = parser.add_mutually_exclusive_group()
    split.add_argument("--val", type=Path, help="folder like --data to measure the accuracy on")
    split.add_argument(
        "--held-out",
        type=float,
        default=Job.held_out,
        help="share of each class held out for it (default: %(default)g)",
    )
    add("--for", dest="purpose", choices=VARIETIES, default=Job.purpose, help="what the encoder is to see")
    add("--side", type=int, default=Job.side, help="pixels of the squares at the end (default: %(default)s)")
    add("--batch", type=int, default=Job.batch, help="pictures in a batch (default: %(default)s)")
    add("--rate", type=float, help="peak learning rate (default: 0.4 at a batch of 256, in proportion to it)")
    add("--seed", type=int, default=Job.seed, help="of all chance (default: %(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    add("--restart", action="store_true", help="throw away what is there and start over")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Run and return the exit code: 0 done, 2 the user's error, 130 interrupted."""
    options = vars(arguments(given))
    with shown_on_stderr():
        return _exit_code(options)


def _exit_code(options: dict[str, Any]) -> int:
    run = {name: options.pop(name) for name in ("device", "restart")}
    options["output"] = Path(str(options["output"]).removesuffix(".safetensors"))
    try:
        job = Job(**options)
        facts = pretrain(job, **run)
    except UserError as error:
        logger.error(str(error))
        return USER_ERROR
    except OSError as error:
        if error.errno not in OF_THE_MACHINE:
            raise
        hint = "free disk space, or see to the permissions; then run the same command again"
        logger.error(str(UserError(f"cannot be read or written: {error.strerror}", where=error.filename, hint=hint)))
        return USER_ERROR
    except KeyboardInterrupt:
        logger.error("interrupted; run the same command again to go on")
        return INTERRUPTED
    chance = f"always the most frequent class: {facts.chance:.3f}"
    print(f"{job.weights_file}, {job.card_file}: top-1 {facts.top1:.3f} ({chance}), {facts.state.step} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
