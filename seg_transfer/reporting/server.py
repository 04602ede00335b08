"""Serves a page and its files to this machine's browser.

Only loopback listens. The address holds a random token, without which nothing is answered; the Host header is compared,
so that no web site can reach the page by a name of its own that leads to loopback (DNS rebinding).
"""

from __future__ import annotations

import hmac
import secrets
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOOPBACK = "127.0.0.1"
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self' data: blob:; worker-src blob:; font-src data:"
)


class PageServer(ThreadingHTTPServer):
    """Answers requests for a few contents in memory.

    Args:
        contents: Name, which is the last part of an address -> type and content; "" is the page.
    """

    daemon_threads = True

    def __init__(self, contents: Mapping[str, tuple[str, bytes]]) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        self.token = secrets.token_urlsafe(24)
        self.contents = dict(contents)

    @property
    def address(self) -> str:
        """The page's address, with the token."""
        return f"http://{self.host}/{self.token}/"

    @property
    def host(self) -> str:
        """Name and port."""
        return f"{LOOPBACK}:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that leaves before it has everything is nothing to tell."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        found = self._found()
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        kind, content = found
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def _found(self) -> tuple[str, bytes] | None:
        if self.headers.get("Host") != self.server.host:
            return None
        parts = self.path.split("/")
        if len(parts) != 3 or not hmac.compare_digest(parts[1].encode(), self.server.token.encode()):
            return None
        return self.server.contents.get(parts[2])

    def log_message(self, format: str, *values: object) -> None:
        """Requests are not logged: they hold the token."""
