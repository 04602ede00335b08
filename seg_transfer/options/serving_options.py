"""Options of the services: HTTP and DICOM."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from seg_transfer.errors import UserError
from seg_transfer.options.base import Cli, Command, Options
from seg_transfer.options.common import Bytes, Seconds, VerbosityOptions
from seg_transfer.options.model_options import SegmenterOptions

LOOPBACK = "127.0.0.1"
DAY = 86400.0
Modality = Literal["CT", "MR", "PT"]
"""Modalities of which a series can be a volume."""


class TlsOptions(Options):
    """Certificate and key of a service."""

    tls_cert: Annotated[Path | None, Cli(metavar="FILE")] = Field(
        None, description="Encrypt with TLS: the certificate, as PEM, followed by those that it rests on."
    )
    tls_key: Annotated[Path | None, Cli(metavar="FILE")] = Field(
        None, description="Its private key, as PEM without a password."
    )

    @model_validator(mode="after")
    def _is_whole(self) -> TlsOptions:
        names = [name for name in type(self).model_fields if name.startswith("tls_")]
        missing = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is None]
        if 0 < len(missing) < len(names):
            raise UserError("TLS needs this option too", where=missing[0], hint="give all --tls options, or none")
        return self


class ServeOptions(SegmenterOptions, TlsOptions, VerbosityOptions):
    """Options of ``segtl serve``."""

    command = Command(
        "serve",
        "Segment images that are uploaded over HTTP, also by MONAI Label's clients.",
        "Example: [bold]segtl serve -m model.segtl[/]; Ctrl-C ends it.\n\n"
        "Then [bold]curl -F file=@ct.nii.gz http://127.0.0.1:8000/jobs[/] gives the identifier of a job, and "
        "/jobs/ID/result its label map; /openapi.json has the rest. On another --host every request needs a token: "
        "that of --token-file, of the variable SEGTL_TOKEN, or one that is made and printed. --tls-cert and "
        "--tls-key make it HTTPS. It needs the extra segtl\\[serve]. Not a medical device.",
        function="seg_transfer.serving.server:serve",
    )

    host: Annotated[str, Cli(metavar="ADDRESS")] = Field(LOOPBACK, description="Address to listen on.")
    port: Annotated[int, Cli(metavar="N")] = Field(8000, ge=0, le=65535, description="Port; 0: any free one.")
    token_file: Annotated[Path | None, Cli(metavar="FILE")] = Field(
        None, description="File whose first line is the token that requests have to bring."
    )
    queue: Annotated[int, Cli(metavar="N")] = Field(8, ge=1, le=1000, description="Most jobs that may wait.")
    upload_limit: Annotated[Bytes, Cli(metavar="SIZE")] = Field(2 * 10**9, gt=0, description="Largest upload.")
    keep: Annotated[Seconds, Cli(metavar="TIME")] = Field(
        3600.0, ge=1, le=30 * DAY, description="Time after which results are removed, such as 1h."
    )
    tta: bool = Field(True, description="Average over mirrored copies, along the plan's axes.")


class DicomNodeOptions(SegmenterOptions, TlsOptions, VerbosityOptions):
    """Options of ``segtl dicom-node``."""

    command = Command(
        "dicom-node",
        "Receive DICOM series, segment them, and send DICOM segmentations back.",
        "Example: [bold]segtl dicom-node -m model.segtl --peer ORTHANC@127.0.0.1:4242[/]; Ctrl-C ends it.\n\n"
        "Only peers may send, by their AE title, and each gets the segmentations of its own series. An AE title is no "
        "password: use a network that you trust, or the --tls options, with which peers show a certificate. It needs "
        "the extra segtl\\[dicom]. "
        "Not a medical device.",
        function="seg_transfer.serving.dicom_node:dicom_node",
    )

    peers: Annotated[tuple[str, ...], Cli("--peer", metavar="AET@HOST:PORT", repeated=True)] = Field(
        min_length=1, description="Who may send, and where segmentations go; repeatable."
    )
    ae_title: Annotated[str, Cli(metavar="AET")] = Field("SEGTL", description="AE title of this node.")
    host: Annotated[str, Cli(metavar="ADDRESS")] = Field(LOOPBACK, description="Address to listen on.")
    port: Annotated[int, Cli(metavar="N")] = Field(11112, ge=0, le=65535, description="Port; 0: any free one.")
    tls_ca: Annotated[Path | None, Cli(metavar="FILE")] = Field(
        None, description="Certificates, as PEM, that those of the peers are, or rest on."
    )
    modality: Annotated[Modality | None, Cli()] = Field(
        None, description="Modality that is accepted. Default: by the name of the model's channel."
    )
    wait: Annotated[Seconds, Cli(metavar="TIME")] = Field(
        5.0, ge=0.1, le=3600, description="Time without a new file after which a series is whole, such as 5s."
    )
    tta: bool = Field(True, description="Average over mirrored copies, along the plan's axes.")
