"""Options of push and pull: exported models in repositories of a model hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from seg_transfer.errors import UserError
from seg_transfer.options.base import Cli, Command
from seg_transfer.options.common import VerbosityOptions


def _address(endpoint: str | None) -> str | None:
    if endpoint is not None and not endpoint.startswith(("https://", "http://")):
        raise UserError(f"{endpoint!r} is no address", where="--endpoint", hint="give one such as https://hub.example")
    return endpoint


class HubOptions(VerbosityOptions):
    """The repository, and the hub that has it."""

    repository: Annotated[str, Cli(metavar="REPO", argument=True)] = Field(
        description="Repository, such as clinic/abdomen."
    )
    endpoint: Annotated[str | None, Cli(metavar="URL"), AfterValidator(_address)] = Field(
        None, description="Address of the hub. Default: that of huggingface_hub, or HF_ENDPOINT."
    )


class PushOptions(HubOptions):
    """Options of :func:`seg_transfer.workflow.hub.push`."""

    command = Command(
        "push",
        "Put an exported model and its card into a repository of a model hub.",
        "Example: [bold]segtl push clinic/abdomen -m model.segtl[/]\n\n"
        "Names of labels and channels become known to everyone who may see the repository, which is made private if it "
        "is new. The token is that of `hf auth login`, or HF_TOKEN, and goes to the hub of --endpoint.",
        function="seg_transfer.workflow.hub:push",
    )

    model: Annotated[Path, Cli("-m/--model", metavar="FILE")] = Field(description="Exported model.")
    public: bool = Field(False, description="Let everyone see the repository, if it is new.")


class PullOptions(HubOptions):
    """Options of :func:`seg_transfer.workflow.hub.pull`."""

    command = Command(
        "pull",
        "Fetch a model from a repository of a model hub.",
        "Example: [bold]segtl pull clinic/abdomen -o model.segtl[/]\n\n"
        "The file appears only if it is a model of segtl, whole and as the hub has it.",
        function="seg_transfer.workflow.hub:pull",
    )

    output: Annotated[Path, Cli("-o/--output", metavar="FILE")] = Field(description="Model file.")
    revision: Annotated[str | None, Cli(metavar="NAME")] = Field(
        None, description="Branch, tag or commit. Default: the newest."
    )
