"""`segtl serve`: the HTTP service as one object that starts, serves and leaves nothing behind."""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import socket
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from seg_transfer.errors import UserError
from seg_transfer.options.serving_options import ServeOptions
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.serving.jobs import Jobs
from seg_transfer.serving.service_folder import service_folder
from seg_transfer.serving.tls import server_context
from seg_transfer.serving.worker import Worker, started_worker
from seg_transfer.util.extras import check_extra
from seg_transfer.workflow.source import find_source

logger = logging.getLogger(__name__)

TOKEN_VARIABLE = "SEGTL_TOKEN"
SHORTEST_TOKEN = 16
"""Characters."""
TIME_TO_END = 3
"""Seconds that requests under way have when the server is told to end."""


def serve(options: ServeOptions) -> Server:
    """Check everything that can be checked before, and make a server, which starts when it is entered.

    Raises:
        UserError: If there is no model, a package is missing, the token cannot be read or is too short, or TLS cannot
            be had with these files.
    """
    check_extra("serve", "the server")
    server_context(options)
    data = find_source(options).data
    local = is_loopback(options.host)
    token = read_token(options.token_file)
    made = token is None and not local
    return Server(options, data, secrets.token_urlsafe(24) if made else token, show_token=made)


class Server:
    """A worker with its models, the queue, and the socket.

    Attributes:
        token: What requests have to bring; None: nothing.
        show_token: Whether nobody knows the token yet.
    """

    def __init__(self, options: ServeOptions, data: DataPlan, token: str | None, *, show_token: bool) -> None:
        self._options, self._data = options, data
        self.token, self.show_token = token, show_token
        self._stack = ExitStack()

    def __enter__(self) -> Server:
        """Listen, and load the models.

        Raises:
            UserError: If the address is taken, or the models cannot be loaded.
        """
        import uvicorn

        options = self._options
        with ExitStack() as stack:
            listening = stack.enter_context(_listen(options.host, options.port))
            folder = stack.enter_context(service_folder("serve"))
            worker = stack.enter_context(started_worker(options, tta=options.tta))
            jobs = Jobs(worker, folder, most=options.queue, keep=options.keep)
            stack.callback(jobs.close)
            self._port = listening.getsockname()[1]
            config = uvicorn.Config(
                self._app(jobs, worker),
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=TIME_TO_END,
                server_header=False,
                ssl_certfile=options.tls_cert,
                ssl_keyfile=options.tls_key,
            )
            self._server, self._socket = uvicorn.Server(config), listening
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the worker, and remove every file."""
        self._stack.close()

    @property
    def address(self) -> str:
        """Where it listens."""
        host, scheme = self._options.host, "http" if self._options.tls_cert is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self._port}"

    def serve_forever(self) -> None:
        """Answer until a signal comes."""
        self._server.run(sockets=[self._socket])

    def _app(self, jobs: Jobs, worker: Worker) -> Any:
        from seg_transfer.serving.app import ServedModel, make_app
        from seg_transfer.serving.guard import Guard
        from seg_transfer.serving.monai_label import make_router

        data, options = self._data, self._options
        model = ServedModel(
            name=(options.work.absolute().name if options.model is None else options.model.stem) or "segtl",
            labels=data.written_names,
            channels=tuple(channel.name for channel in data.channels),
            dimension=data.dimension,
        )
        app = make_app(jobs, worker, model)
        app.include_router(make_router(jobs, model, self.token))
        names = {self.address.partition("://")[2], f"localhost:{self._port}"}
        hosts = names if self.token is None else None
        return Guard(app, jobs=jobs, token=self.token, hosts=hosts, largest=options.upload_limit)


def read_token(file: Path | None) -> str | None:
    """The token of a file, or of the environment; None without one.

    Raises:
        UserError: If the file cannot be read, or the token is too short or has spaces.
    """
    where: Path | str = TOKEN_VARIABLE
    text = os.environ.get(TOKEN_VARIABLE)
    if file is not None:
        where = file
        try:
            text = file.read_text(encoding="utf-8").partition("\n")[0]
        except (OSError, UnicodeDecodeError):
            raise UserError("the token cannot be read", where=file, hint="name a text file") from None
    if text is None:
        return None
    token = text.strip()
    if len(token) < SHORTEST_TOKEN or not token.isascii() or len(token.split()) != 1:
        hint = "make one: python -c 'import secrets; print(secrets.token_urlsafe(24))'"
        what = f"a token has at least {SHORTEST_TOKEN} characters of ASCII without spaces"
        raise UserError(what, where=where, hint=hint)
    return token


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError):
        raise UserError("there is no such address", where=f"--host {host}", hint="give one of this machine") from None
    listening = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(64)
    except OSError as error:
        listening.close()
        where = f"--host {host} --port {port}"
        raise UserError(f"cannot listen: {error.strerror}", where=where, hint="give another --port") from None
    return listening
