"""Downloads ImageNet weights into the caches of their libraries, and records the sha256 of every file.

A record (``segtl-weights.json``) holds the sha256 that a file had when segtl fetched it: in the user's cache by source
and revision, and beside the files that ``segtl encoders fetch --to`` wrote by file name. A recorded file that has
changed since is refused.
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
    BUNDLED,
    WEIGHTS_FILE,
    EncoderEntry,
    cached_weights,
    is_of_torchvision,
    torch_cache,
)
from seg_transfer.errors import UserError
from seg_transfer.transfer.encoder_entry import encoder_entry
from seg_transfer.util.files import file_digest, whole_file, write_text
from seg_transfer.util.local_files import check_folder
from seg_transfer.util.text_files import read_json

logger = logging.getLogger(__name__)

OFFLINE = "HF_HUB_OFFLINE"
"""Environment variable of the hub client that forbids connections; worker processes inherit it."""
RECORD = "segtl-weights.json"
TIMEOUT = 5.0
"""Seconds for the server's first answer. One attempt: the hub's client alone retries six times with waits between."""


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
    """Fetch the ImageNet weights of encoders, check and record them.

    Cached files are fetched again only if they have changed since they were recorded.

    Args:
        names: Encoders of the catalogue.
        to: Folder for a copy of each, named after its encoder, and a record, for machines without a network.

    Raises:
        UserError: If an encoder is unknown, or its weights cannot be fetched.
    """
    entries = [encoder_entry(name, "NAME") for name in names]  # refuses unknown names before anything is fetched
    if to is not None:
        check_folder(to)
    return [_fetch(each, to) for each in entries]


def weights_file(source: str, revision: str, encoder: str) -> Path:
    """The file of ImageNet weights, from the cache or else from the network.

    Args:
        source: Repository or torchvision weights, as in the catalogue.
        revision: Revision, as in the catalogue.
        encoder: Name in the catalogue, for messages.

    Raises:
        UserError: If the file is not in the cache and cannot be fetched, or differs from the record.
    """
    path = cached_weights(source, revision)
    if path is None:
        path = _download(source, revision, encoder)
    _check_sha256(path, _recorded(_cache_record(), _key(source, revision)), encoder)
    return path


def check_beside(path: Path) -> None:
    """Check a weights file against the record beside it, if there is one.

    Raises:
        UserError: If the file has changed since it was recorded.
    """
    _check_sha256(path, _recorded(path.with_name(RECORD), path.name), path.stem)


def is_recorded(encoder: EncoderEntry) -> bool:
    """Whether the cache's record has an encoder's ImageNet weights; reads no weights."""
    return _recorded(_cache_record(), _key(encoder.source, encoder.revision)) is not None


def _check_sha256(path: Path, recorded: str | None, encoder: str) -> None:
    if recorded is not None and (sha256 := file_digest(path)) != recorded:
        raise UserError(
            f"this file has changed since it was fetched: its sha256 is {sha256}, on record is {recorded}",
            where=path,
            hint=f"fetch it again: `segtl encoders fetch {encoder}`, on a machine with a network",
        )


def _fetch(encoder: EncoderEntry, to: Path | None) -> Fetched:
    key = _key(encoder.source, encoder.revision)
    path = cached_weights(encoder.source, encoder.revision)
    recorded = _recorded(_cache_record(), key)
    if path is None or recorded not in (None, file_digest(path)):
        path = _download(encoder.source, encoder.revision, encoder.name, again=path is not None)
        _check_sha256(path, _recorded(_cache_record(), key), encoder.name)
    elif recorded is None:
        _add_to_record(_cache_record(), key, path, file_digest(path))
    sha256 = file_digest(path)
    if to is not None:
        copy = to / f"{encoder.name}{path.suffix}"
        with whole_file(copy) as temporary:
            shutil.copyfile(path, temporary)
        _add_to_record(to / RECORD, copy.name, path, sha256, source=key)
        path = copy
    return Fetched(encoder.name, path, sha256)


def _download(source: str, revision: str, encoder: str, *, again: bool = False) -> Path:
    """Fetch a file into its cache; record the server's sha256, or else that of the file."""
    if is_offline():
        raise UserError(
            f"these ImageNet weights of {encoder} are not on this machine, and connections are forbidden "
            f"(--offline, or {OFFLINE})",
            where=_key(source, revision),
            hint=f"`segtl encoders fetch {encoder}` with a network, or plan with a file or an encoder whose "
            f"weights come with the package: {', '.join(BUNDLED)}",
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
            hint=f"plan with an encoder whose weights come with the package ({', '.join(BUNDLED)}), try again with a "
            f"network, or fetch them where there is one with `segtl encoders fetch {encoder} --to FOLDER` and plan "
            "with --weights FILE",
        ) from error
    _add_to_record(_cache_record(), _key(source, revision), path, sha256)
    return path


def _from_hub(source: str, revision: str, again: bool) -> tuple[Path, str]:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    metadata = get_hf_file_metadata(hf_hub_url(source, WEIGHTS_FILE, revision=revision), timeout=TIMEOUT)
    path = Path(hf_hub_download(source, WEIGHTS_FILE, revision=revision, force_download=again))
    etag = metadata.etag
    return path, etag if etag and re.fullmatch("[0-9a-f]{64}", etag) else file_digest(path)


def _from_torchvision(source: str, revision: str) -> tuple[Path, str]:
    from urllib.request import urlopen

    from torchvision.models import get_weight

    path, address = torch_cache(source), get_weight(revision).url
    with whole_file(path) as temporary:
        with urlopen(address, timeout=TIMEOUT) as response, temporary.open("wb") as file:
            shutil.copyfileobj(response, file)
        sha256 = file_digest(temporary)
        # torch's file names end with the first digits of the sha256
        expected = re.search(r"-([0-9a-f]{8,})\.", path.name)
        if expected and not sha256.startswith(expected[1]):
            raise ValueError(f"the file has sha256 {sha256}, its name says {expected[1]}")
    return path, sha256


def _key(source: str, revision: str) -> str:
    return f"{source}@{revision}"


def _cache_record() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE) / "segtl" / RECORD


def _recorded(record: Path, key: str) -> str | None:
    return _read(record).get(key, {}).get("sha256")


def _add_to_record(record: Path, key: str, path: Path, sha256: str, **more: str) -> None:
    """Add a file to a record, with its commit if it is in the hub's cache, where the commit names its folder."""
    commit = {"commit": path.parent.name} if path.parent.parent.name == "snapshots" else {}
    write_text(record, json.dumps(_read(record) | {key: {"sha256": sha256, **commit, **more}}, indent=1) + "\n")


def _read(record: Path) -> dict[str, dict[str, str]]:
    if not record.is_file():
        return {}
    hint = "delete it and fetch again"
    content = read_json(record, hint)
    if not isinstance(content, dict) or not all(map(_is_entry, content.values())):
        raise UserError("not a record of fetched files", where=record, hint=hint)
    return content


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and re.fullmatch("[0-9a-f]{64}", str(entry.get("sha256"))) is not None
