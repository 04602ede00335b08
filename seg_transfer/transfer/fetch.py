"""ImageNet weights from the network into the usual caches, with the sha256 of every file on record.

A record (``segtl-weights.json``) says which sha256 a file had when segtl fetched it. One lies in the user's cache,
keyed by source and revision; one beside the files that ``segtl encoders fetch --to`` wrote, keyed by their names. A
file on record that has changed since is refused.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seg_transfer.catalogue.encoders import (
    BUNDLED_ENCODER,
    WEIGHTS_FILE,
    EncoderEntry,
    cached_weights,
    entry,
    is_of_torchvision,
    torch_cache,
)
from seg_transfer.errors import UserError
from seg_transfer.util.files import check_folder, file_digest, whole_file, write_text

logger = logging.getLogger(__name__)

OFFLINE = "HF_HUB_OFFLINE"
"""Environment variable that forbids every connection. It is the hub client's own, and worker processes inherit it."""
RECORD = "segtl-weights.json"
PATIENCE = 5.0
"""Seconds for the server's first answer, asked for once: the hub's client alone tries six times and waits between."""


@dataclass(frozen=True)
class Fetched:
    """Weights of one encoder on this machine.

    Attributes:
        encoder: Name in the catalogue.
        path: The file.
        sha256: Of the file, in hexadecimal.
    """

    encoder: str
    path: Path
    sha256: str


def is_offline() -> bool:
    """Whether connections are forbidden, by ``--offline`` or by the environment."""
    return os.environ.get(OFFLINE, "").upper() in {"1", "ON", "YES", "TRUE"}


def fetch(names: Sequence[str], to: Path | None = None) -> list[Fetched]:
    """Have the ImageNet weights of encoders on this machine, checked, and on record.

    What is in the cache already is not fetched again, unless it has changed since it was recorded.

    Args:
        names: In the catalogue.
        to: Folder that gets a copy of each, named after its encoder, and a record, for a machine without a network.

    Raises:
        UserError: If an encoder is unknown, or its weights cannot be fetched.
    """
    entries = [entry(name) for name in names]  # all names are looked up before anything is fetched
    if to is not None:
        check_folder(to)
    return [_fetch(known, to) for known in entries]


def weights_file(source: str, revision: str, encoder: str) -> Path:
    """The file of ImageNet weights: from the cache, else from the network in one quick attempt.

    Args:
        source: As in the catalogue.
        revision: As in the catalogue.
        encoder: Name in the catalogue, for messages.

    Raises:
        UserError: If the file is not in the cache and cannot be fetched, or is not what was recorded.
    """
    path = cached_weights(source, revision)
    if path is None:
        path = _download(source, revision, encoder)
    check_sha256(path, _recorded(_cache_record(), _key(source, revision)), encoder)
    return path


def check_beside(path: Path) -> None:
    """Refuse a file of weights that differs from the record beside it; without a record nothing is checked.

    Raises:
        UserError: If it does.
    """
    check_sha256(path, _recorded(path.with_name(RECORD), path.name), path.stem)


def check_sha256(path: Path, recorded: str | None, encoder: str) -> None:
    """Refuse a file whose sha256 is not the recorded one; None is not checked.

    Raises:
        UserError: If it is not.
    """
    if recorded is not None and (found := file_digest(path)) != recorded:
        raise UserError(
            f"this file has changed since it was fetched: its sha256 is {found}, on record is {recorded}",
            where=path,
            hint=f"fetch it anew: `segtl encoders fetch {encoder}`, on a machine with a network",
        )


def is_recorded(known: EncoderEntry) -> bool:
    """Whether the cache's record has an encoder's ImageNet weights; reads no weights."""
    return _recorded(_cache_record(), _key(known.source, known.revision)) is not None


def _fetch(known: EncoderEntry, to: Path | None) -> Fetched:
    key = _key(known.source, known.revision)
    path = cached_weights(known.source, known.revision)
    recorded = _recorded(_cache_record(), key)
    if path is None or recorded not in (None, file_digest(path)):
        path = _download(known.source, known.revision, known.name, again=path is not None)
        check_sha256(path, _recorded(_cache_record(), key), known.name)
    elif recorded is None:
        _note(_cache_record(), key, path, file_digest(path))
    sha256 = file_digest(path)
    if to is not None:
        copy = to / f"{known.name}{path.suffix}"
        with whole_file(copy) as temporary:
            shutil.copyfile(path, temporary)
        _note(to / RECORD, copy.name, path, sha256, source=key)
        path = copy
    return Fetched(known.name, path, sha256)


def _download(source: str, revision: str, encoder: str, *, again: bool = False) -> Path:
    """Fetch a file into its cache, and record the sha256 that the server names, else that of what came."""
    if is_offline():
        raise UserError(
            f"these ImageNet weights of {encoder} are not on this machine, and connections are forbidden "
            f"(--offline, or {OFFLINE})",
            where=_key(source, revision),
            hint=f"`segtl encoders fetch {encoder}` with a network, or plan with --weights bundled (encoder "
            f"{BUNDLED_ENCODER}) or a file",
        )
    logger.info(f"fetching the ImageNet weights of {encoder}: {source}")
    try:
        path, sha256 = (
            _from_torchvision(source, revision) if is_of_torchvision(source) else _from_hub(source, revision, again)
        )
    except Exception as error:  # the clients' errors share no base: no network, no such source, no disk space
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"these ImageNet weights of {encoder} could not be fetched: {cause}",
            where=_key(source, revision),
            hint=f"plan with --weights bundled (encoder {BUNDLED_ENCODER}), try again with a network, or fetch them "
            f"where there is one with `segtl encoders fetch {encoder} --to FOLDER` and plan with --weights FILE",
        ) from error
    _note(_cache_record(), _key(source, revision), path, sha256)
    return path


def _from_hub(source: str, revision: str, again: bool) -> tuple[Path, str]:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    about = get_hf_file_metadata(hf_hub_url(source, WEIGHTS_FILE, revision=revision), timeout=PATIENCE)
    path = Path(hf_hub_download(source, WEIGHTS_FILE, revision=revision, force_download=again))
    return path, about.etag if about.etag and re.fullmatch("[0-9a-f]{64}", about.etag) else file_digest(path)


def _from_torchvision(source: str, revision: str) -> tuple[Path, str]:
    from urllib.request import urlopen

    from torchvision.models import get_weight

    path, address = torch_cache(source), get_weight(revision).url
    with whole_file(path) as temporary:
        with urlopen(address, timeout=PATIENCE) as response, temporary.open("wb") as file:
            shutil.copyfileobj(response, file)
        sha256 = file_digest(temporary)
        # torch's own convention: the name of a file ends with the first digits of its sha256.
        named = re.search(r"-([0-9a-f]{8,})\.", path.name)
        if named and not sha256.startswith(named[1]):
            raise ValueError(f"what came has sha256 {sha256}, its name says {named[1]}")
    return path, sha256


def _key(source: str, revision: str) -> str:
    return f"{source}@{revision}"


def _cache_record() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE) / "segtl" / RECORD


def _recorded(record: Path, key: str) -> str | None:
    return _read(record).get(key, {}).get("sha256")


def _note(record: Path, key: str, path: Path, sha256: str, **more: str) -> None:
    """Add a file to a record; of a hub's file also the commit, which is the name of its folder there."""
    known = {"commit": path.parent.name} if path.parent.parent.name == "snapshots" else {}
    write_text(record, json.dumps(_read(record) | {key: {"sha256": sha256, **known, **more}}, indent=1) + "\n")


def _read(record: Path) -> dict[str, dict[str, str]]:
    if not record.is_file():
        return {}
    try:
        content: dict[str, dict[str, str]] = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"not readable as JSON: {error}", where=record, hint="delete it and fetch anew") from None
    return content
