"""A real HTTP server on loopback that serves an archive and misbehaves on request."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

type Fault = tuple[str, str]
"""What to do instead of answering: ``("status", "503")``, ``("wait", "0")``, ``("drop", "")`` …"""


class Archive:
    """The files that are served, the faults to commit first, and the requests that came.

    Faults of a path are committed one a request, in order; after them it is served as it should.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.always: dict[str, Fault] = {}
        self.requests: Counter[str] = Counter()
        self.most_at_once = 0
        self.base_url = ""
        self._now = 0
        self._lock = threading.Lock()

    def put(self, path: str, data: bytes) -> None:
        """Publish a file and its checksum."""
        self.files[path] = data
        digest = hashlib.sha256(data).hexdigest()
        self.files[f"{path}.CHECKSUM"] = f"{digest}  {path.rsplit('/', 1)[-1]}\n".encode()

    def downloads(self) -> int:
        """Return how many zips were asked for."""
        return sum(count for path, count in self.requests.items() if path.endswith(".zip"))

    def enter(self, path: str) -> Fault | None:
        """Note a request; return the fault to commit."""
        with self._lock:
            self.requests[path] += 1
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            if path in self.always:
                return self.always[path]
            return self.faults[path].pop(0) if self.faults[path] else None

    def leave(self) -> None:
        """Note that a request has ended."""
        with self._lock:
            self._now -= 1


class _Server(ThreadingHTTPServer):
    def __init__(self, archive: Archive) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.archive = archive


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        archive, path = self.server.archive, self.path.lstrip("/")
        kind, value = archive.enter(path) or ("", "")
        data = archive.files.get(path)
        try:
            if kind == "status":
                self._refuse(*value.split(" ", 1))
            elif kind == "hang up":
                self._break()
            elif data is None:
                self._send(404, b"not found")
            else:
                self._serve(kind, value, data)
        finally:
            archive.leave()

    def _serve(self, kind: str, value: str, data: bytes) -> None:
        if kind == "drop":
            self._send(200, data, sent=len(data) // 2)
            self._break()
        elif kind == "corrupt":
            spoiled = bytearray(data)
            spoiled[len(data) // 2] ^= 0xFF
            self._send(200, bytes(spoiled))
        else:
            self._send(200, value.encode() if kind == "text" else data)

    def _refuse(self, status: str, retry_after: str = "") -> None:
        self._send(int(status), b"busy", {"Retry-After": retry_after} if retry_after else None)

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        sent: int | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body[:sent])

    def _break(self) -> None:
        """Break the connection as a network does."""
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@contextmanager
def serving() -> Iterator[Archive]:
    """Serve an archive on a free port of 127.0.0.1."""
    archive = Archive()
    server = _Server(archive)
    archive.base_url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield archive
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
