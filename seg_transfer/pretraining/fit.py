"""Train a classifier within a time budget and write its weights and card; an interrupted job can be resumed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from seg_transfer.catalogue.encoders import EncoderEntry
from seg_transfer.errors import UserError
from seg_transfer.planning.cost import SMALLEST_GAIN
from seg_transfer.pretraining import weights_card
from seg_transfer.pretraining.job import Job, PretrainState, SplitImages
from seg_transfer.pretraining.learner import Learner, trainable_encoder
from seg_transfer.pretraining.time_schedule import rate_factor, side_at
from seg_transfer.training.checkpoint import load_state, save_state
from seg_transfer.training.interrupt import stop_requests
from seg_transfer.util.environment import bfloat16_gain, machine_text, resolve_device
from seg_transfer.util.files import whole_file, write_text
from seg_transfer.util.progress import meter
from seg_transfer.version import VERSION

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_CHECKPOINTS = 180.0
MOST_FOR_STATISTICS = 9984
"""Images from which BatchNorm statistics are estimated at the end."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class Pretrained:
    """Files of a pretrained encoder, and the figures on its card."""

    weights: Path
    card: Path
    facts: weights_card.Facts


def fit(job: Job, *, clock: Clock = time.perf_counter) -> Pretrained:
    """Train an encoder, or resume its training, and write its weights and card.

    Args:
        job: Options and files.
        clock: Clock in seconds; only time spent in steps counts.

    Raises:
        UserError: If images or options are unusable, another job was started here, the result exists already, or the
            loss is not finite.
        KeyboardInterrupt: If the user asked to stop; a checkpoint was written.
    """
    options = job.options
    encoder = trainable_encoder(options.encoder, side_at(0, options.side))
    device = resolve_device(options.device)
    if options.restart:
        for path in (job.resume_file, job.weights_file, job.card_file):
            path.unlink(missing_ok=True)
    if job.weights_file.exists() and not job.resume_file.exists():
        raise UserError("exists already", where=job.weights_file, hint="give another -o, or start over with --restart")
    data = SplitImages.of(job)
    task, state = job.task(data), PretrainState()
    bfloat16 = bfloat16_gain(device) > SMALLEST_GAIN
    learner = Learner(encoder, len(data.folders.classes), seed=options.seed, device=device, bfloat16=bfloat16)
    if job.resume_file.exists():
        tensors, header = load_state(job.resume_file, "resume")
        state = PretrainState.resumed(header, task, job.resume_file)
        learner.load(tensors)
        logger.info(f"resuming after step {state.step}")

    def save() -> None:
        save_state(job.resume_file, "resume", learner.tensors(), {"task": task, "state": asdict(state)})

    learn(learner, job, data, state, save, clock)
    facts = finish(learner, encoder, job, data, state, "bfloat16" if bfloat16 else "float32")
    job.resume_file.unlink()
    return Pretrained(job.weights_file, job.card_file, facts)


def learn(
    learner: Learner, job: Job, data: SplitImages, state: PretrainState, save: Callable[[], None], clock: Clock
) -> None:
    """Take steps until the time budget is used up, with a checkpoint every few minutes and at the end."""
    budget, saved = job.options.time_budget, state.seconds
    with stop_requests() as stop, meter(total=1.0, title="training") as show:
        while state.seconds < budget:
            share, started = state.seconds / budget, clock()
            side = side_at(share, job.options.side)
            images, labels = data.batch(job, state.step, side, learner.device)
            loaded = clock()
            loss = learner.step(images, labels, job.peak * rate_factor(share))
            ended = clock()
            if not np.isfinite(loss):
                hint = f"start over with --restart and a --rate below {job.peak:g}"
                raise UserError(f"the loss is not finite after {state.step} steps", where="--rate", hint=hint)
            state.step, state.seconds = state.step + 1, state.seconds + ended - started
            state.drawing += loaded - started
            epochs = state.step * job.options.batch_size / len(data.train)
            show(min(1.0, state.seconds / budget), f"epoch {epochs:.1f}, side {side}, loss {loss:.2f}")
            if stop.requested or state.seconds - saved >= SECONDS_BETWEEN_CHECKPOINTS:
                save()
                saved = state.seconds
            if stop.requested:
                raise KeyboardInterrupt
    save()


def finish(
    learner: Learner, encoder: EncoderEntry, job: Job, data: SplitImages, state: PretrainState, precision: str
) -> weights_card.Facts:
    """Recalibrate BatchNorm, measure the accuracy, and write weights and card."""
    size = job.options.batch_size
    rows = statistics_rows(data.train, size, job.options.seed) if encoder.batchnorm else data.train[:0]
    logger.info("recalibrating BatchNorm and measuring the accuracy")
    learner.recalibrate(images for images, _ in data.full_size_batches(rows, size))
    learner.network.load_state_dict(learner.float16_state())  # accuracy is measured on the weights that are saved
    top1, top5 = learner.accuracy(data.full_size_batches(data.validation, size))
    facts = weights_card.Facts(
        encoder=encoder,
        state=state,
        parameters=sum(parameter.numel() for parameter in learner.network.parameters()),
        statistics=len(rows),
        top1=top1,
        top5=top5,
        chance=np.bincount(data.labels[data.validation]).max() / len(data.validation),
        precision=precision,
        machine=machine_text(),
        versions=f"torch {torch.__version__}, segtl {VERSION}",
        date=time.strftime("%Y-%m-%d"),
    )
    halves = learner.float16_state()
    needed = sum(tensor.nbytes for tensor in halves.values())
    with whole_file(job.weights_file, needed=needed, apart=True) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(halves, temporary, metadata=weights_card.metadata(job, data, facts))
        temporary.chmod(mode)  # safetensors makes files that only the owner can read
    write_text(job.card_file, weights_card.text(job, data, facts))
    return facts


def statistics_rows(train: np.ndarray, batch: int, seed: int) -> np.ndarray:
    """Shuffled rows of training images for BatchNorm statistics, in full batches, since each batch counts the same.

    A batch of a single class would have other statistics.
    """
    count = min(len(train), MOST_FOR_STATISTICS)
    if count > batch:
        count -= count % batch
    return np.random.default_rng(seed).permutation(train)[:count]
