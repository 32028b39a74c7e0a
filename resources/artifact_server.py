"""Artifacts over HTTP on the loopback, so that a link in Dagster's UI plays a video or saves a checkpoint.

    python -m resources.artifact_server --port 3001 [--parent PID]

`GET` and `HEAD` of `/artifacts/<sha256>.<suffix>` and nothing else: no listing, no other path, no writing. Only the
types of `TYPES` are served, none of which a browser runs as a script; what is not shown is a download. The name is the
hash of the bytes, so an answer never goes stale, and a file whose bytes do not match its name is refused. Requests
that name another host are refused too: a web page elsewhere cannot reach this server through a name of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from io_managers.artifacts import ArtifactStore

HOST = "127.0.0.1"
DEFAULT_PORT = 3001
URL_VARIABLE = "TRACEBED_ARTIFACT_URL"
PORT_VARIABLE = "TRACEBED_ARTIFACT_PORT"

DOWNLOAD = "application/octet-stream"
TYPES: Mapping[str, str] = {
    "mp4": "video/mp4",
    "png": "image/png",
    "jpg": "image/jpeg",
    "json": "application/json",
    "hdf5": DOWNLOAD,
    "npz": DOWNLOAD,
    "pth": DOWNLOAD,
    "safetensors": DOWNLOAD,
}

_PATH = re.compile(r"/artifacts/([0-9a-f]{64})\.([a-z0-9]+)")
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
# No script, form or pop-up whatever the bytes are. Without an origin of its own a video that is opened directly would
# not be 'self', and Chromium would not play it.
_POLICY = "default-src 'none'; img-src 'self'; media-src 'self'; sandbox allow-same-origin"
_CHUNK_BYTES = 1 << 18
_IDLE_S = 60.0
_PARENT_POLL_S = 0.5
_START_S = 30.0


class ArtifactServerError(OSError):
    """The server did not start."""


def artifact_url(name: str) -> str:
    """Where the server shows the artifact ``<sha256>.<suffix>``.

    The base is ``$TRACEBED_ARTIFACT_URL``, or the loopback with ``$TRACEBED_ARTIFACT_PORT`` (3001).

    Raises
    ------
    ValueError
        For a name that the server would not serve.
    """
    path = f"/artifacts/{name}"
    match = _PATH.fullmatch(path)
    if match is None or match[2] not in TYPES:
        raise ValueError(f"found artifact name {name!r}, expected <sha256>.<suffix> with a suffix of {sorted(TYPES)}")
    base = os.environ.get(URL_VARIABLE) or f"http://{HOST}:{os.environ.get(PORT_VARIABLE) or DEFAULT_PORT}"
    return base.rstrip("/") + path


def start_artifact_server(artifacts: Path, port: int) -> str:
    """Start the server as a child that ends with this process (and survives its `exec`); returns its address.

    Raises
    ------
    ArtifactServerError
        When it did not start, for example because the port is in use.
    """
    command = [sys.executable, "-m", "resources.artifact_server", "--root", str(artifacts), "--port", str(port)]
    child = subprocess.Popen(
        [*command, "--parent", str(os.getpid())],
        cwd=Path(__file__).resolve().parents[1],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    watchdog = threading.Timer(_START_S, child.kill)
    watchdog.start()
    address = child.stdout.readline().strip()
    watchdog.cancel()
    if not address:
        raise ArtifactServerError(
            f"the artifact server did not start on port {port} (its own message stands above); "
            f"${PORT_VARIABLE} names another port"
        )
    return address


class ArtifactServer(ThreadingTCPServer):
    """Serves the artifacts of one store on the loopback; port 0 takes any free port."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, store: ArtifactStore, port: int) -> None:
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise ArtifactServerError(
                f"cannot listen on {HOST}:{port}: {error.strerror or error}; end what listens there, or name another "
                f"port with ${PORT_VARIABLE}"
            ) from error
        self.store = store
        self.port: int = self.server_address[1]
        self.hosts = frozenset(f"{name}:{self.port}" for name in (HOST, "localhost"))
        self._whole: set[tuple[str, int, int, int]] = set()

    @property
    def url(self) -> str:
        """The address without a path."""
        return f"http://{HOST}:{self.port}"

    @contextmanager
    def open(self, digest: str, suffix: str) -> Iterator[tuple[BinaryIO, int]]:
        """The artifact's bytes from the start, and how many there are; no link is followed on the way.

        Raises
        ------
        FileNotFoundError
            When no plain file lies there.
        ValueError
            When its bytes are not those that its name promises.
        """
        name = f"{digest}.{suffix}"
        try:
            folder = os.open(self.store.path(name).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
            finally:
                os.close(folder)
        except OSError as error:  # a link, a missing file, a folder that may not be read: none of them is shown
            raise FileNotFoundError(name) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise FileNotFoundError(name)
        with os.fdopen(descriptor, "rb") as stream:
            known = (name, status.st_ino, status.st_size, status.st_mtime_ns)
            if known not in self._whole:
                if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                    raise ValueError(f"{name} holds other bytes than its name says: materialise what made it again")
                self._whole.add(known)
                stream.seek(0)
            yield stream, status.st_size

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing about a client that went away; everything else is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: ArtifactServer
    protocol_version = "HTTP/1.1"
    server_version = "tracebed"
    sys_version = ""
    timeout = _IDLE_S

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self.server.hosts:
            return self.send_error(HTTPStatus.FORBIDDEN, f"this server answers to {self.server.url} only")
        match = _PATH.fullmatch(self.path)
        if match is None or match[2] not in TYPES:
            return self.send_error(HTTPStatus.NOT_FOUND, "artifacts are at /artifacts/<sha256>.<suffix>")
        try:
            with self.server.open(match[1], match[2]) as (stream, size):
                self._send(stream, size, match[1], match[2], with_body)
        except FileNotFoundError:
            self.send_error(HTTPStatus.NOT_FOUND, "there is no such artifact here")
        except ValueError as error:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))

    def _send(self, stream: BinaryIO, size: int, digest: str, suffix: str, with_body: bool) -> None:
        tag = f'"{digest}"'
        if tag in (each.strip().removeprefix("W/") for each in self.headers.get("If-None-Match", "").split(",")):
            self.send_response(HTTPStatus.NOT_MODIFIED)
            self._describe(tag)
            return self.end_headers()
        # A range is of a GET (RFC 9110, 14.2); with another If-Range than this tag the whole file is meant.
        asked = self.headers.get("Range") if with_body and self.headers.get("If-Range", tag) == tag else None
        part = byte_range(asked, size) if asked else None
        if part is not None and not part:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT)
        if part is not None:
            self.send_header("Content-Range", f"bytes {part.start}-{part.stop - 1}/{size}")
        part = range(size) if part is None else part
        self.send_header("Content-Type", TYPES[suffix])
        self.send_header("Content-Length", str(len(part)))
        if TYPES[suffix] == DOWNLOAD:
            self.send_header("Content-Disposition", f'attachment; filename="{digest}.{suffix}"')
        self._describe(tag)
        self.end_headers()
        if with_body:
            self._stream(stream, part)

    def _describe(self, tag: str) -> None:
        self.send_header("ETag", tag)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Cache-Control", "private, max-age=31536000, immutable")

    def _stream(self, stream: BinaryIO, part: range) -> None:
        stream.seek(part.start)
        left = len(part)
        while left:
            chunk = stream.read(min(_CHUNK_BYTES, left))
            if not chunk:  # the file became shorter: the client sees an answer that breaks off
                self.close_connection = True
                return
            self.wfile.write(chunk)
            left -= len(chunk)

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", _POLICY)
        super().end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """One line of plain text, and the connection ends: whatever the client sent besides is not read."""
        body = f"{code} {message or HTTPStatus(code).phrase}\n".encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged."""


def byte_range(asked: str, size: int) -> range | None:
    """The bytes that a `Range` header asks for, of a file of ``size`` bytes: empty where it has none of them.

    One range is understood (``a-b``, ``a-``, ``-n``). Anything else, such as several ranges or another unit, is None:
    the whole file is meant, as RFC 9110 allows.
    """
    match = _RANGE.fullmatch(asked.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return range(max(size - int(match[2]), 0), size)
    first, last = int(match[1]), int(match[2] or size)
    if match[2] and last < first:
        return None
    return range(first, min(last + 1, size))


def _end_with(parent: int, server: ArtifactServer) -> None:
    pause = threading.Event()
    while os.getppid() == parent:
        pause.wait(_PARENT_POLL_S)
    server.shutdown()


def main() -> None:
    """Serve until interrupted, or until the parent is gone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=int(os.environ.get(PORT_VARIABLE) or DEFAULT_PORT))
    parser.add_argument("--root", type=Path, help="folder of artifacts; default: that of $TRACEBED_HOME")
    parser.add_argument("--parent", type=int, help="end when this is no longer the parent process")
    options = parser.parse_args()
    from home import Home
    from io_managers.artifacts import ArtifactStore

    try:
        server = ArtifactServer(ArtifactStore(options.root or Home.from_env().artifacts), options.port)
    except ArtifactServerError as error:
        sys.exit(str(error))
    if options.parent is not None:
        threading.Thread(target=_end_with, args=(options.parent, server), daemon=True).start()
    print(server.url, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


if __name__ == "__main__":
    main()
