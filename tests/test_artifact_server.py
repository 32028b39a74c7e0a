"""The artifact server, asked over real sockets."""

import hashlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import ROOT

from cli import main
from io_managers.artifacts import ArtifactStore
from resources.artifact_server import (
    PORT_VARIABLE,
    URL_VARIABLE,
    ArtifactServer,
    ArtifactServerError,
    artifact_url,
    byte_range,
)

BYTES = bytes(range(256)) * 40


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


@pytest.fixture
def server(store) -> Iterator[ArtifactServer]:
    server = ArtifactServer(store, 0)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def put(store: ArtifactStore, content: bytes = BYTES, suffix: str = ".mp4") -> str:
    source = store.root.parent / f"source{suffix}"
    source.write_bytes(content)
    return store.put(source)


def ask(server: ArtifactServer, path: str, method: str = "GET", **headers: str):
    """Status, headers and body; a keyword `If_Range` is the header `If-Range`."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def test_an_artifact_is_served_whole_with_its_hash_as_tag(server, store):
    name = put(store)
    status, headers, body = ask(server, f"/artifacts/{name}")
    assert (status, body) == (200, BYTES)
    assert headers["Content-Type"] == "video/mp4" and headers["ETag"] == f'"{Path(name).stem}"'
    assert "immutable" in headers["Cache-Control"] and headers["Accept-Ranges"] == "bytes"
    assert headers["X-Content-Type-Options"] == "nosniff" and "sandbox" in headers["Content-Security-Policy"]
    assert "allow-scripts" not in headers["Content-Security-Policy"]
    status, headers, body = ask(server, f"/artifacts/{name}", "HEAD", Range="bytes=0-9")
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(BYTES)))
    assert ask(server, f"/artifacts/{name}", If_None_Match=f'"x", {headers["ETag"]}')[::2] == (304, b"")


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=-99999999", 206, slice(None)),
        ("bytes=10200-99999999", 206, slice(10200, None)),
        ("bytes=10240-", 416, slice(0)),
        ("bytes=-0", 416, slice(0)),
        ("bytes=9-3", 200, slice(None)),
        ("bytes=0-1,5-6", 200, slice(None)),
        ("lines=0-1", 200, slice(None)),
        ("bytes=-", 200, slice(None)),
    ],
)
def test_one_range_of_bytes_is_answered(server, store, asked, status, part):
    found, headers, body = ask(server, f"/artifacts/{put(store)}", Range=asked)
    assert (found, body) == (status, BYTES[part])
    if status == 206:
        start = part.indices(len(BYTES))[0]
        assert headers["Content-Range"] == f"bytes {start}-{start + len(body) - 1}/{len(BYTES)}"
    if status == 416:
        assert headers["Content-Range"] == f"bytes */{len(BYTES)}"


def test_a_range_of_another_version_is_the_whole_file(server, store):
    name = put(store)
    assert ask(server, f"/artifacts/{name}", Range="bytes=0-9", If_Range=f'"{Path(name).stem}"')[0] == 206
    assert ask(server, f"/artifacts/{name}", Range="bytes=0-9", If_Range='"other"')[::2] == (200, BYTES)


def test_no_range_reaches_outside_a_file():
    for size in (0, 1, 7):
        for first in ("", *map(str, range(9))):
            for last in ("", *map(str, range(9))):
                part = byte_range(f"bytes={first}-{last}", size)
                assert part is None or all(0 <= index < size for index in part)


def test_a_web_page_of_another_name_is_refused(server, store):
    path = f"/artifacts/{put(store)}"
    for host in (f"evil.example:{server.port}", "127.0.0.1", f"127.0.0.1:{server.port + 1}", ""):
        status, _, body = ask(server, path, Host=host)
        assert status == 403 and server.url.encode() in body
    assert ask(server, path, Host=f"LOCALHOST:{server.port}")[0] == 200
    assert raw(server, f"GET {path} HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 403")
    two = f"Host: 127.0.0.1:{server.port}\r\nHost: evil.example\r\n"
    assert raw(server, f"GET {path} HTTP/1.1\r\n{two}\r\n").startswith(b"HTTP/1.1 403")


def raw(server: ArtifactServer, text: str) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(text.encode())
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return received


def test_nothing_but_artifacts_is_there(server, store, tmp_path):
    name = put(store)
    (tmp_path / "secret.json").write_text("{}")
    digest = Path(name).stem
    for path in (
        "/",
        "/artifacts",
        "/artifacts/",
        f"/artifacts/{name[:2]}/",
        f"/artifacts/{name[:2]}/{name}",
        "/artifacts/../secret.json",
        "/artifacts/..%2fsecret.json",
        "//etc/passwd",
        f"/artifacts/{name}/",
        f"/artifacts/{name}?x",
        f"/artifacts/{digest.upper()}.mp4",
        f"/artifacts/{digest}.png",
        f"/artifacts/{digest}",
        f"/artifacts/{'0' * 64}.mp4",
    ):
        status, _, body = ask(server, path)
        assert status == 404 and name.encode() not in body and b"{}" not in body, path
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(server, f"/artifacts/{name}", method)[0] == 501
    proxied = f"GET http://evil.example/artifacts/{name} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n"
    assert raw(server, proxied).startswith(b"HTTP/1.1 404")
    assert raw(server, "nonsense\r\n\r\n").startswith(b"400 Bad request")


def test_what_a_browser_would_run_is_not_served_and_models_are_downloads(server, store):
    for suffix in (".svg", ".html", ".js"):
        assert ask(server, f"/artifacts/{put(store, b'<script>', suffix)}")[0] == 404
    name = put(store, suffix=".pth")
    headers = ask(server, f"/artifacts/{name}")[1]
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Disposition"] == f'attachment; filename="{name}"'


def test_links_lead_nowhere(server, store, tmp_path):
    secret = tmp_path / "outside.mp4"
    secret.write_bytes(b"secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    link = store.path(f"{digest}.mp4")
    link.parent.mkdir(parents=True)
    link.symlink_to(secret)
    assert ask(server, f"/artifacts/{digest}.mp4")[0] == 404
    link.unlink()
    link.parent.rmdir()
    (tmp_path / "elsewhere").mkdir()
    secret.rename(tmp_path / "elsewhere" / f"{digest}.mp4")
    link.parent.symlink_to(tmp_path / "elsewhere")
    assert ask(server, f"/artifacts/{digest}.mp4")[0] == 404


def test_a_pipe_or_folder_under_an_artifacts_name_is_not_waited_for(server, store):
    for make in (os.mkfifo, os.mkdir):
        name = hashlib.sha256(make.__name__.encode()).hexdigest() + ".mp4"
        store.path(name).parent.mkdir(parents=True)
        make(store.path(name))
        assert ask(server, f"/artifacts/{name}")[0] == 404


def test_bytes_other_than_the_name_promises_are_refused_even_after_a_good_answer(server, store):
    name = put(store)
    assert ask(server, f"/artifacts/{name}")[0] == 200
    store.path(name).write_bytes(BYTES[::-1])
    status, _, body = ask(server, f"/artifacts/{name}")
    assert status == 500 and b"holds other bytes" in body


def test_a_big_file_is_streamed_and_a_client_that_leaves_disturbs_nobody(store, tmp_path, capfd):
    big = tmp_path / "big.npz"
    with big.open("wb") as stream:
        stream.truncate(150 << 20)
        stream.seek(-3, os.SEEK_END)
        stream.write(b"end")
    name = store.take(big)
    code = (
        "import resource, sys, threading; from pathlib import Path; from resources.artifact_server import *\n"
        "from io_managers.artifacts import ArtifactStore\n"
        "server = ArtifactServer(ArtifactStore(Path(sys.argv[1])), 0)\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(server.port, flush=True); sys.stdin.readline()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(store.root)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        port = int(child.stdout.readline())
        for _ in range(3):  # clients that go away in the middle
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", f"/artifacts/{name}")
            assert connection.getresponse().read(1000) == bytes(1000)
            connection.close()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", f"/artifacts/{name}")
        answer = connection.getresponse()
        received = 0
        while chunk := answer.read(1 << 20):
            received += len(chunk)
            last = chunk
        connection.request("GET", f"/artifacts/{name}", headers={"Range": "bytes=-3"})  # the connection lives on
        assert (received, last[-3:], connection.getresponse().read()) == (150 << 20, b"end", b"end")
        grown_kb = int(child.communicate("\n", timeout=30)[0])
    assert grown_kb < 20_000
    assert "Traceback" not in capfd.readouterr().err


def test_only_the_loopback_is_listened_on(server):
    assert server.server_address[0] == "127.0.0.1"


def test_a_port_in_use_is_named_with_its_cure(server, store):
    with pytest.raises(
        ArtifactServerError, match=rf"127\.0\.0\.1:{server.port}: Address already in use.*{PORT_VARIABLE}"
    ):
        ArtifactServer(store, server.port)


def test_the_ui_does_not_start_beside_a_port_in_use(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACEBED_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home" / "dagster"))
    monkeypatch.setenv(PORT_VARIABLE, str(server.port))
    refused = CliRunner().invoke(main, ["ui"])
    assert refused.exit_code == 1 and f"did not start on port {server.port}" in refused.output


def test_the_server_survives_its_parents_exec_and_ends_with_it(store):
    name = put(store)
    code = (
        "import os, sys; from pathlib import Path; from resources.artifact_server import start_artifact_server\n"
        "address = start_artifact_server(Path(sys.argv[1]), int(sys.argv[2]))\n"
        "os.execvp('sh', ['sh', '-c', f'echo {address}; exec sleep 60'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(store.root), str(free_port())], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        port = int(parent.stdout.readline().rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", f"/artifacts/{name}")
        assert connection.getresponse().read() == BYTES
        connection.close()
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except ConnectionResetError:  # it is ending just now
            continue
        except ConnectionRefusedError:
            break
        assert time.monotonic() < deadline, "the server outlives its parent"
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_links_follow_the_environment_and_only_name_what_is_served(monkeypatch):
    name = f"{'ab' * 32}.mp4"
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    monkeypatch.delenv(PORT_VARIABLE, raising=False)
    assert artifact_url(name) == f"http://127.0.0.1:3001/artifacts/{name}"
    monkeypatch.setenv(PORT_VARIABLE, "4001")
    assert artifact_url(name) == f"http://127.0.0.1:4001/artifacts/{name}"
    monkeypatch.setenv(URL_VARIABLE, "https://lab.example/")
    assert artifact_url(name) == f"https://lab.example/artifacts/{name}"
    for other in (f"{'ab' * 32}.svg", "../x.mp4", "x.mp4"):
        with pytest.raises(ValueError, match="expected <sha256>"):
            artifact_url(other)
