"""A model hub of one process on a local port: the calls that huggingface_hub makes to push and to pull, over LFS."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Keeps files by repository.

    Attributes:
        files: Repository -> path -> content.
        private: Repository -> whether it was made private.
        tokens: Authorization headers of all requests but those for uploaded content.
        refuses: Status with which everything is refused; None: nothing is.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.tokens: set[str | None] = set()
        self.uploaded: dict[str, bytes] = {}
        self.refuses: int | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.tokens.add(self.headers.get("Authorization"))
        path = self.path.partition("?")[0]
        if self.server.refuses is not None:
            self._answer(self.server.refuses, {"error": "you may not do this"})
        elif path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
            known = name in self.server.files
            self.server.files.setdefault(name, {})
            if not known:
                self.server.private[name] = wanted.get("private") or wanted.get("visibility") == "private"
            self._answer(409 if known else 200, {"url": f"{self.server.address}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for each in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.server.address}/upload/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404, {"error": path})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.uploaded[oid] = content
        self._answer(200, {})

    def do_HEAD(self) -> None:
        self._file(body=False)

    def do_GET(self) -> None:
        self._file(body=True)

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.server.files[repository][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.files[repository][value["path"]] = self.server.uploaded[value["oid"]]
        url = f"{self.server.address}/{repository}/commit/{COMMIT}"
        self._answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": url})

    def _file(self, *, body: bool) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        found = re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", self.path)
        content = self.server.files.get(found[1], {}).get(found[3]) if found and found[2] == "main" else None
        if content is None:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}, body=body)
            return
        etag = hashlib.sha256(content).hexdigest()
        if content.startswith(b"cut off"):
            etag = "0" * 64
        self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, body=body)

    def _answer(
        self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None, *, body: bool = True
    ) -> None:
        given = {"Content-Type": "application/json", **(headers or {})}
        self._send(status, json.dumps(content).encode(), given, body=body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)
