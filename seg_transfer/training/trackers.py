"""Programs that show the progress of trainings: TensorBoard, MLflow and Weights & Biases.

Each gets the rows of the history, the run's name and no paths. Where a run goes on, it goes on in the program too: its
identifier there is made of the path of its folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from seg_transfer.errors import UserError, cause_of
from seg_transfer.options.choices import TrackerName
from seg_transfer.training.history import Row, TensorBoard, scalars
from seg_transfer.training.run_folder import RunFolder
from seg_transfer.util.extras import check_extra

logger = logging.getLogger(__name__)

PROJECT = "segtl"
"""MLflow's experiment and the project at Weights & Biases, unless their environment variables name another."""
ADDRESS = "MLFLOW_TRACKING_URI"
LONGEST_CAUSE = 400
"""Characters shown of a program's message."""


class Tracker(Protocol):
    """One program."""

    def add(self, row: Row) -> None: ...

    def close(self) -> None: ...


class Mlflow:
    """A run of MLflow, on the server that ``MLFLOW_TRACKING_URI`` names."""

    def __init__(self, run: RunFolder) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=os.environ[ADDRESS])
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        tags = {"segtl.run": _identifier(run)}
        found = self._client.search_runs([experiment], f"tags.`segtl.run` = '{_identifier(run)}'")
        started = found[0] if found else self._client.create_run(experiment, run_name=_name(run), tags=tags)
        self._run: str = started.info.run_id

    def add(self, row: Row) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        # MLflow refuses other characters, and its file store a name that is the folder of another.
        figures = {re.sub(r"[^\w\-. :]", "_", name.replace("/", " ")): value for name, value in scalars(row).items()}
        metrics = [Metric(name, value, now, row["step"]) for name, value in figures.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run)


class WeightsAndBiases:
    """A run of Weights & Biases; its files are in ``wandb/`` of the run's folder. Nothing about the machine is sent."""

    def __init__(self, run: RunFolder) -> None:
        import wandb

        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_meta=True,
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=_identifier(run),
            name=_name(run),
            dir=str(run.path),
            resume="allow",
            settings=settings,
        )

    def add(self, row: Row) -> None:
        self._run.log(scalars(row), step=row["step"])

    def close(self) -> None:
        self._run.finish()


class Trackers:
    """The trackers of one run. One that fails after the first epoch is left out, with a warning.

    Args:
        names: The programs; None: TensorBoard where it is installed.
        run: The run.
        first_step: Step that the training starts with.

    Raises:
        UserError: If one cannot be reached.
    """

    def __init__(self, names: Sequence[TrackerName] | None, run: RunFolder, first_step: int) -> None:
        self._trackers: list[Tracker] = []
        if names is None or "tensorboard" in names:
            self._trackers.append(TensorBoard(run.tensorboard, first_step))
        for name, make in _REMOTE.items():
            if names is not None and name in names:
                try:
                    self._trackers.append(make(run))
                except Exception as error:  # of the network, the server or its permissions; they share no base
                    cause = cause_of(error, LONGEST_CAUSE)
                    hint = "check its address and login, or train without it"
                    raise UserError(f"{name} cannot be reached: {cause}", where="--track", hint=hint) from None

    def add(self, row: Row) -> None:
        """Show one more row."""
        self._each(lambda tracker: tracker.add(row))

    def close(self) -> None:
        """End the run in each program."""
        self._each(lambda tracker: tracker.close())

    def _each(self, call: Callable[[Tracker], Any]) -> None:
        for tracker in list(self._trackers):
            try:
                call(tracker)
            except UserError:  # a full disk
                raise
            except Exception as error:
                if isinstance(tracker, TensorBoard):
                    raise
                self._trackers.remove(tracker)
                cause = cause_of(error, LONGEST_CAUSE)
                logger.warning(f"{type(tracker).__name__} gets no more figures of this training: {cause}")


def check_trackers(names: Sequence[TrackerName] | None) -> None:
    """Check before training that the named programs are installed, and that MLflow's server is named.

    Raises:
        UserError: If not.
    """
    for name in names or ():
        check_extra("tracking", f"--track {name}", only=name, where="--track")
        if name == "mlflow" and not os.environ.get(ADDRESS):
            hint = f"set {ADDRESS}, such as http://127.0.0.1:5000"
            raise UserError("no server of MLflow is named", where="--track", hint=hint)


_REMOTE: dict[TrackerName, Callable[[RunFolder], Tracker]] = {"mlflow": Mlflow, "wandb": WeightsAndBiases}


def _identifier(run: RunFolder) -> str:
    return hashlib.sha256(str(run.path.absolute()).encode()).hexdigest()[:16]


def _name(run: RunFolder) -> str:
    return f"{run.path.parent.name}/{run.path.name}"
