"""What the user wishes, as far as it concerns the plan; checked before any rule runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, get_args

from seg_transfer.catalogue.encoders import entry, volume_encoders
from seg_transfer.errors import UserError
from seg_transfer.planning.cost import BFLOAT16_GAIN, Configuration, DeviceKind, Machine
from seg_transfer.planning.evidence_record import TransferEvidence
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.plan import Head, Split
from seg_transfer.planning.rules import encoder as encoder_rule
from seg_transfer.planning.rules import head as head_rule
from seg_transfer.planning.rules.classic import CLASSIC
from seg_transfer.planning.rules.earlier_model import Carry, EarlierModel
from seg_transfer.planning.rules.normalization import NormalizationKind
from seg_transfer.planning.rules.race import NO_RACE, RACE_HINT, SHARE
from seg_transfer.planning.rules.strategy import STRATEGIES

T = TypeVar("T", bound=str)
AUTO, RACE = "auto", "race"
NAMED_WEIGHTS = (AUTO, "bundled", "imagenet", "none")


def never_cached(_: str) -> bool:
    """No encoder's ImageNet weights are in the cache."""
    return False


@dataclass(frozen=True)
class PlanRequest:
    """The user's wishes.

    Attributes:
        splits: The folds.
        config: ``auto``, ``2d``, ``2.5d`` or ``3d``.
        encoder: ``auto`` or a name in the catalogue.
        weights: ``auto``, ``bundled``, ``imagenet``, ``none``, or the path of a file.
        strategy: ``auto``, a name in ``STRATEGIES``, ``classic`` for the textbook's choice, or ``race`` for the one
            that wins a short training of several in each fold.
        race_share: Of a fold's budget, for the race; None: a tenth.
        head: ``unet``, or the classifier of single voxels that is fitted in its place: ``softmax``, ``svm``, ``bayes``.
        memory_bytes: What a training step may take.
        epochs: Training budget in epochs, or None.
        time_budget: Training budget in seconds per fold, or None; not both.
        normalization: Channel name -> kind, for channels the user decides.
        device: Kind of device to plan for: ``cpu``, ``cuda`` or ``mps``.
        cores: CPU cores at hand.
        bfloat16_gain: How many times faster convolutions are in bfloat16 than in float32 on that device.
        imagenet_cached: Whether the ImageNet weights of an encoder (by name) are in the local cache.
        offline: Whether connections are forbidden: weights then have to be on this machine.
        earlier: Model of the user's own to start from, in place of ``weights``.
        carry: What to take from it: ``auto``, ``encoder``, or ``all`` for encoder and decoder.
        groups: Case -> group (a patient, say), where cases have some: a race keeps a group together.
        evidence: What was measured about transfer, if anything.
        seed: Of the training.
    """

    splits: tuple[Split, ...]
    config: str = AUTO
    encoder: str = AUTO
    weights: str = AUTO
    strategy: str = AUTO
    race_share: float | None = None
    head: str = "unet"
    memory_bytes: int = 8_000_000_000
    epochs: int | None = None
    time_budget: float | None = None
    normalization: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    cores: int = 2
    bfloat16_gain: float = BFLOAT16_GAIN
    imagenet_cached: Callable[[str], bool] = never_cached
    offline: bool = False
    earlier: EarlierModel | None = None
    carry: str = AUTO
    groups: Mapping[str, str] | None = None
    evidence: TransferEvidence | None = None
    seed: int = 0


@dataclass(frozen=True)
class Wishes:
    """A request found possible for a data set; None where the rules decide.

    ``race`` is the share of the budget that a race is to take; None: no race.
    """

    config: Configuration | None
    strategy: str | None
    race: float | None
    head: Head
    weights: str
    carry: Carry | None
    normalization: Mapping[str, NormalizationKind]
    machine: Machine


def check_options(request: PlanRequest, channels: Sequence[str]) -> None:
    """Refuse what is impossible whatever is measured, so that a wrong option is said before long measuring.

    Args:
        request: Its splits are not looked at.
        channels: Names of the data set's channels.

    Raises:
        UserError: Naming the option and what can be done.
    """
    _choice(request.config, get_args(Configuration), "--config")
    _strategy(request)
    head_rule.check_options(request.head, strategy=request.strategy, carry=request.carry)
    if request.encoder != AUTO and not entry(request.encoder).volumes and request.config == "3d":
        raise UserError(
            f"{request.encoder} does not convert to 3D",
            where="--config 3d",
            hint=f"take --config 2.5d, or another --encoder: {', '.join(volume_encoders())}",
        )
    _earlier(request)
    for name, kind in request.normalization.items():
        where = f"--normalization {name}={kind}"
        if name not in channels:
            raise UserError(f"there is no channel {name!r}", where=where, hint=f"channels: {', '.join(channels)}")
        _choice(kind, get_args(NormalizationKind), where)
    _weights(request)
    check_budget(request.epochs, request.time_budget)
    if request.memory_bytes <= 0:
        raise UserError(f"{request.memory_bytes} bytes are no memory", where="--memory", hint="give more than 0")


def check(request: PlanRequest, fingerprint: Fingerprint) -> Wishes:
    """Narrow a request to what is possible for this data set.

    Raises:
        UserError: If it is not; the message names the option and what can be done.
    """
    check_options(request, [channel.name for channel in fingerprint.channels])
    config = _choice(request.config, get_args(Configuration), "--config")
    strategy, race = _strategy(request)
    device = _choice(request.device, get_args(DeviceKind), "--device")
    if device is None:
        raise UserError("planning needs to know the device", where="--device", hint="choose one of: cpu, cuda, mps")
    if fingerprint.dimension == 2 and config in ("2.5d", "3d"):
        raise UserError(
            f"the cases of {fingerprint.dataset} have a single slice: there is no {config}",
            where="--config",
            hint="take --config 2d",
        )
    _check_splits(request, fingerprint)
    head = head_rule.check_options(request.head, strategy=request.strategy, carry=request.carry)
    head_rule.check_data(head, request.splits, has_regions=bool(fingerprint.regions))
    return Wishes(
        config=config,
        strategy=strategy if head == "unet" else "frozen",
        race=race,
        head=head,
        weights=_weights(request),
        carry=_choice(request.carry, get_args(Carry), "--carry") if head == "unet" else "encoder",
        normalization=_normalization(request, fingerprint),
        machine=Machine(device, request.cores, request.bfloat16_gain),
    )


def _choice(value: str, allowed: tuple[T, ...], where: str) -> T | None:
    if value == AUTO:
        return None
    for candidate in allowed:
        if candidate == value:
            return candidate
    raise UserError(f"unknown choice {value!r}", where=where, hint=f"choose one of: auto, {', '.join(allowed)}")


def _strategy(request: PlanRequest) -> tuple[str | None, float | None]:
    """The strategy that the user wants, and the share of the budget for a race."""
    wanted = _choice(request.strategy, (*STRATEGIES, CLASSIC, RACE), "--strategy")
    share = request.race_share
    if wanted != RACE:
        if share is not None:
            raise UserError("there is no race to spend it on", where="--race-share", hint="add --strategy race")
        return wanted, None
    if share is not None and not 0 < share < 1:
        hint = "give a share of the budget, such as 0.1"
        raise UserError(f"{share:g} leaves nothing to race or to train with", where="--race-share", hint=hint)
    return None, SHARE if share is None else share


def _earlier(request: PlanRequest) -> None:
    carry = _choice(request.carry, get_args(Carry), "--carry")
    if request.earlier is None:
        if carry is not None:
            raise UserError("there is no model to carry over from", where="--carry", hint="name one with --from")
        return
    for option, value, impossible in (
        ("--weights", request.weights, request.weights != AUTO),
        ("--strategy", request.strategy, request.strategy == "scratch"),
    ):
        if impossible:
            what = f"--from starts from an earlier model's weights, and {option} {value} is asked for"
            raise UserError(what, where=option, hint=f"leave one of --from and {option} away")


def _weights(request: PlanRequest) -> str:
    if request.strategy == "scratch":
        if request.weights not in (AUTO, "none"):
            raise UserError(
                f"scratch starts from random weights, and {request.weights} are asked for",
                where="--weights",
                hint="leave one of --strategy scratch and --weights away",
            )
        return "none"
    if request.strategy == RACE and request.weights == "none":
        raise UserError(NO_RACE, where="--weights none", hint=RACE_HINT)
    if request.weights not in NAMED_WEIGHTS and not Path(request.weights).is_file():
        raise UserError(
            "there is no such file of weights",
            where=Path(request.weights),
            hint=f"give a file, or one of: {', '.join(NAMED_WEIGHTS)}",
        )
    encoder, _ = encoder_rule.encoder(request.encoder)
    if request.weights == "imagenet" and request.offline and not request.imagenet_cached(encoder):
        raise UserError(
            f"the ImageNet weights of {encoder} are not on this machine, and --offline forbids to fetch them",
            where="--weights",
            hint=f"`segtl encoders fetch {encoder}` with a network, or take --weights bundled or a file",
        )
    return request.weights


def _normalization(request: PlanRequest, fingerprint: Fingerprint) -> dict[str, NormalizationKind]:
    channels = {channel.name: channel for channel in fingerprint.channels}
    chosen: dict[str, NormalizationKind] = {}
    for name, wanted in request.normalization.items():
        where = f"--normalization {name}={wanted}"
        kind = _choice(wanted, get_args(NormalizationKind), where)
        if kind is None:
            continue
        channel = channels[name]
        figures = channel.foreground
        if kind == "clip_zscore" and (figures is None or figures.percentile_00_5 >= figures.percentile_99_5):
            raise UserError("the channel's foreground has no range to clip to", where=where, hint="take zscore")
        if kind == "minmax" and channel.minimum >= channel.maximum:
            raise UserError(f"the channel is {channel.minimum:g} everywhere", where=where, hint="take none")
        chosen[name] = kind
    return chosen


def check_budget(epochs: int | None, time_budget: float | None) -> None:
    """Refuse two budgets, and one that is no training.

    Raises:
        UserError: Naming the option.
    """
    if epochs is not None and time_budget is not None:
        raise UserError("two budgets are given", where="--epochs and --time-budget", hint="leave one of them away")
    if epochs is not None and epochs < 1:
        raise UserError(f"{epochs} epochs are no training", where="--epochs", hint="give 1 or more")
    if time_budget is not None and time_budget <= 0:
        raise UserError(f"{time_budget} s are no training", where="--time-budget", hint="give more than 0 s")


def _check_splits(request: PlanRequest, fingerprint: Fingerprint) -> None:
    known = {case.id for case in fingerprint.cases}
    for fold, split in enumerate(request.splits):
        unknown = sorted({*split.train, *split.validation} - known)
        if unknown:
            raise UserError(
                f"fold {fold} names cases that are not among the labelled ones: {', '.join(unknown[:5])}",
                where="--splits",
                hint=f"cases are called such as {fingerprint.cases[0].id}",
            )
    if not request.splits:
        raise UserError("there are no folds", where="--splits", hint="give at least one")
