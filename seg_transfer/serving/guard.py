"""What every request passes before anything of it is read: who asks, from where, how much, and whether there is room.

Uploads are counted while they arrive, so that one that is too large ends when it is.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import HTTPException

from seg_transfer.serving.jobs import Jobs, QueueFull
from seg_transfer.util.units import bytes_text

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
OPEN = {"/health", "/auth/", "/auth"}
"""Answered without a token: these tell nothing, or ask for it."""
LOGIN = "/auth/token"
LARGEST_LOGIN = 4096
RETRY_AFTER = 30
"""Seconds after which to try again when the queue is full."""


class Guard:
    """Middleware of the application (ASGI).

    Args:
        app: The application.
        jobs: Where uploads go.
        token: What a request has to bring as ``Authorization: Bearer TOKEN``; None asks for none.
        hosts: Names by which the server may be called; None allows all. Without a token this keeps web sites away whose
            name leads to loopback (DNS rebinding).
        largest: Bytes of a request.
    """

    def __init__(self, app: Any, *, jobs: Jobs, token: str | None, hosts: set[str] | None, largest: int) -> None:
        self._app, self._jobs, self._hosts, self._largest = app, jobs, hosts, largest
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if refused := self._refused(scope["path"], headers):
            await _answer(send, *refused)
            return
        largest = LARGEST_LOGIN if scope["path"].rstrip("/") == LOGIN else self._largest
        what = {"detail": f"the upload is larger than {bytes_text(largest)}, which is the most"}
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            await _answer(send, 400, {"detail": "the length of the request is no number"})
            return
        if int(length) > largest:
            await _answer(send, 413, what)
            return
        uploads = scope["method"] in ("POST", "PUT") and headers.get(b"content-type", b"").startswith(b"multipart/")
        try:
            if uploads:
                self._jobs.begin_upload()
        except QueueFull:
            await _answer(send, *FULL)
            return
        body = _Body(receive, largest, what["detail"], self._jobs.end_upload if uploads else _nothing)
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.end()

    def _refused(self, path: str, headers: dict[bytes, bytes]) -> tuple[Any, ...] | None:
        host = headers.get(b"host", b"").decode("latin-1")
        if self._hosts is not None and host not in self._hosts:
            return 421, {"detail": "the server is not called by this name"}
        if self._token is None:
            origin = headers.get(b"origin", b"").decode("latin-1")
            if origin and origin.partition("://")[2] != host:
                return 403, {"detail": "a page of another site may not ask; start the server with a token"}
            return None
        if path in OPEN or path.rstrip("/") == LOGIN:
            return None
        if not matches(headers.get(b"authorization", b""), self._token):
            return 401, {"detail": "a token is needed: Authorization: Bearer TOKEN"}, {b"www-authenticate": b"Bearer"}
        return None


FULL: tuple[Any, ...] = (
    503,
    {"detail": "the queue is full; try again later"},
    {b"retry-after": str(RETRY_AFTER).encode()},
)


def matches(given: bytes, token: bytes) -> bool:
    """Compare a header ``Bearer TOKEN`` with the token, in a time that does not depend on where they differ."""
    scheme, _, value = given.partition(b" ")
    return hmac.compare_digest(value.strip(), token) and scheme.lower() == b"bearer"


class _Body:
    """Counts what arrives, and tells once when it is over."""

    def __init__(self, receive: Receive, largest: int, too_large: str, over: Callable[[], None]) -> None:
        self._receive, self._largest, self._too_large, self._over = receive, largest, too_large, over
        self._read, self._ended = 0, False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            if self._read > self._largest:
                raise HTTPException(413, self._too_large, {"connection": "close"})
            if not message.get("more_body", False):
                self.end()
        return message

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self._over()


def _nothing() -> None:
    """Nothing was begun."""


async def _answer(send: Send, status: int, content: object, headers: dict[bytes, bytes] | None = None) -> None:
    body = json.dumps(content).encode()
    fields = {b"content-type": b"application/json", b"content-length": str(len(body)).encode(), b"connection": b"close"}
    await send({"type": "http.response.start", "status": status, "headers": [*(fields | (headers or {})).items()]})
    await send({"type": "http.response.body", "body": body})
