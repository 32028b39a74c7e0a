"""A browser plays what was written, from the artifact server: a person sees the video behind a link."""

import http.server
import json
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resources.artifact_server as artifact_server
from io_managers.artifacts import ArtifactStore
from resources.artifact_server import ArtifactServer
from science.robots.captions import BAR_PX, Caption, captioned
from science.robots.mp4 import write_mp4

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")

N_FRAMES, FPS, SIZE = 100, 20, 192
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=640,480",
]

PAGE = """<!doctype html><video muted src="{url}"></video><script>
const video = document.querySelector("video"), told = {{}};
const tell = () => fetch("/told", {{method: "POST", body: JSON.stringify(told)}});
video.onerror = () => {{ told.error = video.error.message; tell(); }};
video.ontimeupdate = () => {{
  if (video.currentTime <= 0.5 || told.played) return;
  Object.assign(told, {{played: video.currentTime, duration: video.duration, width: video.videoWidth,
                        height: video.videoHeight}});
  video.pause();
  video.currentTime = video.duration - 0.2;
  video.onseeked = () => {{ told.sought = video.currentTime; tell(); }};
}};
video.play().catch(error => {{ told.error = String(error); tell(); }});
</script>"""


class SlowFile:
    """Reads as over a network, about 0.8 MB/s: over the loopback a browser has the whole file before it seeks."""

    def __init__(self, file):
        self.file = file

    def seek(self, *arguments):
        return self.file.seek(*arguments)

    def read(self, size: int) -> bytes:
        time.sleep(0.02)
        return self.file.read(size)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[tuple[str, list]]:
    """Address of a video of noise, and the requests that were made for it."""
    folder = tmp_path_factory.mktemp("video")
    noise = np.random.default_rng(0).integers(0, 255, (N_FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    frames = (captioned(frame, Caption((f"step {step}",))) for step, frame in enumerate(noise))
    write_mp4(folder / "noise.mp4", frames, FPS)
    store = ArtifactStore(folder / "artifacts")
    server = ArtifactServer(store, 0)
    requests: list = []
    handler, stream = artifact_server._Handler, artifact_server._Handler._stream
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            handler, "log_request", lambda self, code, size="-": requests.append((self.headers.get("Range"), int(code)))
        )
        patch.setattr(handler, "_stream", lambda self, file, part: stream(self, SlowFile(file), part))
        patch.setattr(artifact_server, "_CHUNK_BYTES", 1 << 14)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"{server.url}/artifacts/{store.take(folder / 'noise.mp4')}", requests
        server.shutdown()
        server.server_close()


@contextmanager
def page(content: str) -> Iterator[tuple[str, queue.Queue]]:
    """A page of another origin than the artifacts, and what its script tells."""
    told: queue.Queue = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content.encode())

        def do_POST(self):
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", told
    server.shutdown()
    server.server_close()


@contextmanager
def chromium(folder: Path, *arguments: str) -> Iterator[subprocess.Popen]:
    """A browser of its own, ended with all of its processes."""
    with (folder / "chromium.log").open("w") as log:
        browser = subprocess.Popen(
            [CHROMIUM, *OPTIONS, f"--user-data-dir={folder / 'profile'}", *arguments],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield browser
    finally:
        if browser.poll() is None:
            os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()


def test_a_browser_plays_the_video_from_another_origin_and_seeks_by_ranges(served, tmp_path):
    url, requests = served
    with page(PAGE.format(url=url)) as (address, told), chromium(tmp_path, address):
        found = told.get(timeout=60)
    assert "error" not in found
    assert found["played"] > 0.5 and found["duration"] == pytest.approx(N_FRAMES / FPS, abs=0.1)
    assert (found["width"], found["height"]) == (SIZE, SIZE + BAR_PX)
    assert found["sought"] == pytest.approx(found["duration"] - 0.2, abs=0.06)
    assert {code for _, code in requests} <= {200, 206}
    starts = {int(asked.removeprefix("bytes=").split("-")[0]) for asked, code in requests if code == 206}
    assert max(starts) > 0, "the end was fetched before what lies between"


def test_a_browser_shows_a_video_that_is_opened_by_its_link(served, tmp_path):
    picture = tmp_path / "picture.png"
    with chromium(tmp_path, "--timeout=5000", f"--screenshot={picture}", served[0]) as browser:
        assert browser.wait(timeout=60) == 0
    middle = np.asarray(Image.open(picture).convert("L"))[200:280, 280:360]
    assert middle.std() > 20, "noise is seen, not a black page or a grey player"
