"""TLS of the services: contexts from files in PEM, which are checked before anything starts."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any, NamedTuple

from seg_transfer.errors import UserError, cause_of
from seg_transfer.options.serving_options import DicomNodeOptions, TlsOptions

PATIENCE = 10.0
"""Seconds that a caller may leave a record, or the handshake, unfinished."""


def server_context(options: TlsOptions) -> ssl.SSLContext | None:
    """What a service shows its callers; None without ``--tls-cert``.

    Raises:
        UserError: If a file is missing, cannot be read or holds nothing of its kind, the key is encrypted, or it is not
            the certificate's.
    """
    if options.tls_cert is None or options.tls_key is None:
        return None
    context = _PatientContext(ssl.PROTOCOL_TLS_SERVER)
    _load_own(context, options.tls_cert, options.tls_key)
    return context


class NodeContexts(NamedTuple):
    """For associations that peers open, and for those to peers."""

    accepting: ssl.SSLContext
    opening: ssl.SSLContext


def node_contexts(options: DicomNodeOptions) -> NodeContexts | None:
    """What a node and its peers show each other; None without ``--tls-cert``.

    Peers are known by the certificates of ``--tls-ca``, not by the names in them: they are often called by address.

    Raises:
        UserError: As of :func:`server_context`.
    """
    accepting = server_context(options)
    if accepting is None or options.tls_cert is None or options.tls_key is None or options.tls_ca is None:
        return None
    opening = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    opening.check_hostname = False
    _load_own(opening, options.tls_cert, options.tls_key)
    for context in (accepting, opening):
        _load_certificates(context, options.tls_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return NodeContexts(accepting, opening)


class _PatientContext(ssl.SSLContext):
    """Shakes hands when a connection is first read from, which pynetdicom does in the association's own thread.

    Otherwise a caller that says nothing would keep all others waiting, and the node from ending.
    """

    def wrap_socket(self, sock: socket.socket, *args: Any, **options: Any) -> ssl.SSLSocket:
        sock.settimeout(PATIENCE)
        return super().wrap_socket(sock, *args, **options | {"do_handshake_on_connect": False})


def _load_own(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    _load_certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate)
    _check_readable(key)

    def no_password() -> str:
        hint = "decrypt it into a file that only this user reads: openssl pkey -in KEY -out FILE"
        raise UserError("the key is encrypted", where=key, hint=hint)

    try:
        context.load_cert_chain(certificate, key, no_password)
    except ssl.SSLError as error:
        hint, reason = "give the key of the certificate, as PEM", error.reason or "PEM_LIB"
        if reason.endswith("MISMATCH") or reason == "NO_CERTIFICATE_ASSIGNED":
            what = f"not the key of the first certificate in {certificate}"
        elif reason in ("PEM_LIB", "NO_START_LINE"):
            what = "no private key in PEM"
        else:
            what = f"certificate and key cannot be used: {cause_of(error)}"
        raise UserError(what, where=key, hint=hint) from None


def _load_certificates(context: ssl.SSLContext, file: Path) -> None:
    _check_readable(file)
    try:
        context.load_verify_locations(file)
    except ssl.SSLError:
        raise UserError("no certificate in PEM", where=file, hint="give PEM: -----BEGIN CERTIFICATE-----") from None


def _check_readable(file: Path) -> None:
    if not file.is_file():  # a pipe could be read only once
        raise UserError("there is no such file", where=file, hint="name a file in PEM")
    try:
        file.open("rb").close()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=file, hint="name a file in PEM") from None
