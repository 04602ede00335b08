"""Puts exported models into repositories of a model hub, and fetches them, by huggingface_hub.

A connection is opened only by these two commands. Tokens are found by huggingface_hub itself, and are not logged.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seg_transfer.errors import UserError, cause_of, printable
from seg_transfer.options.calls import takes
from seg_transfer.options.hub_options import PullOptions, PushOptions
from seg_transfer.planning.model_file import read_model_file
from seg_transfer.util.files import file_digest, whole_file
from seg_transfer.workflow.output_files import MODEL_FILE, check_output

MODEL, CARD = "model.safetensors", "README.md"
"""Files in a repository. The model file is one of safetensors, and hubs show its tensors by the ending."""
TIMEOUT = 10.0
"""Seconds for the first answer when fetching."""
LONGEST_CAUSE = 400
"""Characters shown of the hub's message."""
NOT_ALLOWED = {401, 403, 404}
"""HTTP status of a repository that does not exist or may not be seen or written to."""


@takes(PushOptions)
def push(options: PushOptions) -> str:
    """Put an exported model and its card into a repository, which is made if it does not exist.

    Returns:
        Address of the commit.

    Raises:
        UserError: If the file is no exported model, or the hub refuses it or cannot be reached.
    """
    header = read_model_file(options.model).header
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=options.endpoint)
    files = [
        CommitOperationAdd(CARD, printable(header.card, keep="\n").encode()),
        CommitOperationAdd(MODEL, str(options.model)),
    ]
    with _told(options.repository, api.endpoint):
        api.create_repo(options.repository, private=not options.public, exist_ok=True)
        message = f"Model of segtl {header.segtl}"
        return str(api.create_commit(options.repository, files, commit_message=message).commit_url)


@takes(PullOptions)
def pull(options: PullOptions) -> Path:
    """Fetch the model of a repository into a file, whole or not at all.

    Returns:
        The file.

    Raises:
        UserError: If the hub does not have it or cannot be reached, or the file is damaged or no model of segtl.
    """
    check_output(options.output, MODEL_FILE)
    from huggingface_hub import HfApi, hf_hub_url

    api = HfApi(endpoint=options.endpoint)
    with (
        whole_file(options.output, apart=True) as temporary,
        tempfile.TemporaryDirectory(dir=temporary.parent) as folder,
    ):
        with _told(options.repository, api.endpoint):
            address = hf_hub_url(options.repository, MODEL, revision=options.revision, endpoint=api.endpoint)
            expected = api.get_hf_file_metadata(url=address, timeout=TIMEOUT).etag or ""
            path = Path(api.hf_hub_download(options.repository, MODEL, revision=options.revision, local_dir=folder))
        if re.fullmatch("[0-9a-f]{64}", expected) and file_digest(path) != expected:
            hint = "fetch it again"
            raise UserError("its sha256 is not that of the hub: it was cut off", where=options.repository, hint=hint)
        try:
            read_model_file(path)
        except UserError as error:
            hint = "name a repository that `segtl push` wrote"
            raise UserError(error.what, where=f"{options.repository}: {MODEL}", hint=hint) from None
        path.replace(temporary)
    return options.output


@contextmanager
def _told(repository: str, endpoint: str) -> Iterator[None]:
    """Turn the hub's errors, which share no base, into one of the user."""
    try:
        yield
    except Exception as error:
        cause = cause_of(error, LONGEST_CAUSE)
        status = getattr(getattr(error, "response", None), "status_code", None)
        hint = "check the address and the network, and run the same command again"
        if status in NOT_ALLOWED:
            hint = "check the name; `hf auth login` or HF_TOKEN gives access to what is not public"
        raise UserError(f"{endpoint} says: {cause}", where=repository, hint=hint) from None
