"""Fetching DLPFC sections, against a loopback server with files of the same format."""

import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from section_files import small_section

from cli import main
from io_managers.tables import TableStore
from resources.dlpfc import LABELS, RECORD, SECTION_IDS, FetchError, fetch_dlpfc
from science.spatial.load import load_section
from science.spatial.simulate import write_space_ranger

KEY = "151673"
COUNTS = "filtered_feature_bc_matrix.h5"


class Mirror:
    """A server of the two public places; `served` counts answers by path, `cut` names files that break off half-way."""

    def __init__(self, root: Path):
        self.root = root
        self.served: list[str] = []
        self.cut: set[str] = set()
        mirror = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                mirror.served.append(self.path)
                if Path(self.path).name in mirror.cut:
                    whole = (root / self.path.lstrip("/")).read_bytes()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(whole)))
                    self.end_headers()
                    self.wfile.write(whole[: len(whole) // 2])
                    self.close_connection = True
                    return
                super().do_GET()

            def log_message(self, *args):
                pass

        handler = functools.partial(Handler, directory=str(root))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def fetch(self, folder: Path, section_id: str = KEY):
        return fetch_dlpfc(
            section_id,
            folder,
            counts_url=f"{self.url}/bucket",
            positions_url=f"{self.url}/10X",
            labels_sha256=None,
            progress=False,
        )

    def file(self, name: str) -> Path:
        return next(path for path in self.root.rglob(f"*{name}"))


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Iterator[Mirror]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    written = tmp_path / "written"
    labels = write_space_ranger(small_section(), written)
    root = tmp_path / "public"
    for folder in ("bucket/h5", "bucket/images", f"10X/{KEY}"):
        (root / folder).mkdir(parents=True)
    (written / COUNTS).rename(root / "bucket" / "h5" / f"{KEY}_{COUNTS}")
    (written / "spatial" / "tissue_lowres_image.png").rename(
        root / "bucket" / "images" / f"{KEY}_tissue_lowres_image.png"
    )
    (written / "spatial" / "tissue_positions_list.csv").rename(root / "10X" / KEY / "tissue_positions_list.txt")
    (written / "spatial" / "scalefactors_json.json").rename(root / "10X" / KEY / "scalefactors_json.json")
    labels.rename(root / "10X" / LABELS)
    mirror = Mirror(root)
    yield mirror
    mirror.server.shutdown()
    mirror.server.server_close()


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_a_fetched_section_loads_with_its_labels(mirror, tmp_path):
    fetched = mirror.fetch(tmp_path / "data")
    section = load_section(fetched.folder, fetched.section_id, labels=fetched.labels)
    assert section.n_spots == small_section().n_spots and section.image is not None
    assert section.labelled.sum() == small_section().labelled.sum()
    assert (fetched.folder / "spatial" / "tissue_positions_list.csv").is_file()


def test_a_second_fetch_verifies_and_needs_no_network(mirror, tmp_path):
    mirror.fetch(tmp_path / "data")
    mirror.served.clear()
    mirror.fetch(tmp_path / "data")
    assert mirror.served == []
    record = json.loads((tmp_path / "data" / KEY / RECORD).read_text())
    assert len(record) == 5 and record[COUNTS]["url"] == f"{mirror.url}/bucket/h5/{KEY}_{COUNTS}"


def test_a_file_that_was_changed_is_refused_and_left_alone(mirror, tmp_path):
    folder = mirror.fetch(tmp_path / "data").folder
    (folder / COUNTS).write_bytes(b"edited")
    with pytest.raises(FetchError, match=rf"{COUNTS}: found SHA-256 \w+; expected \w+, recorded"):
        mirror.fetch(tmp_path / "data")
    assert (folder / COUNTS).read_bytes() == b"edited"


def test_a_public_file_that_changed_is_refused_and_replaces_nothing(mirror, tmp_path):
    folder = mirror.fetch(tmp_path / "data").folder
    before = files(folder)
    mirror.file("tissue_positions_list.txt").write_text("other")
    (folder / "spatial" / "tissue_positions_list.csv").unlink()
    with pytest.raises(FetchError, match=r"the recorded one\. Nothing was replaced"):
        mirror.fetch(tmp_path / "data")
    before.pop("spatial/tissue_positions_list.csv")
    assert files(folder) == before


def test_a_download_that_breaks_off_leaves_no_half_file_and_is_taken_up_again(mirror, tmp_path):
    mirror.cut.add(f"{KEY}_{COUNTS}")
    with pytest.raises(FetchError, match=rf"h5/{KEY}_{COUNTS}: found .*complete files in .* are kept"):
        mirror.fetch(tmp_path / "data")
    folder = tmp_path / "data" / KEY
    assert sorted(files(folder)) == [
        LABELS,
        RECORD,
        "spatial/scalefactors_json.json",
        "spatial/tissue_lowres_image.png",
        "spatial/tissue_positions_list.csv",
    ]
    assert not list(folder.glob(".incoming-*"))
    mirror.cut.clear()
    mirror.served.clear()
    mirror.fetch(tmp_path / "data")
    assert mirror.served == [f"/bucket/h5/{KEY}_{COUNTS}"]


def test_an_interrupt_in_the_download_leaves_no_half_file(mirror, tmp_path, monkeypatch):
    import pooch

    def interrupted(url, output_file, pooch):
        Path(output_file).write_bytes(b"half")
        raise KeyboardInterrupt

    # Ctrl-C cannot be timed from a test: the downloader writes a part, then raises what Ctrl-C raises.
    monkeypatch.setattr(pooch, "HTTPDownloader", lambda **options: interrupted)
    with pytest.raises(KeyboardInterrupt):
        mirror.fetch(tmp_path / "data")
    assert files(tmp_path / "data") == {}


def test_an_address_that_does_not_exist_is_named(mirror, tmp_path):
    mirror.file(f"{KEY}_tissue_lowres_image.png").unlink()
    with pytest.raises(FetchError, match=rf"{mirror.url}/bucket/images/{KEY}_tissue_lowres_image.png: found .*404"):
        mirror.fetch(tmp_path / "data")


def test_without_a_network_the_address_is_named(mirror, tmp_path):
    mirror.server.shutdown()
    mirror.server.server_close()
    with pytest.raises(FetchError, match=rf"{mirror.url}/10X/{LABELS}: found ConnectionError"):
        mirror.fetch(tmp_path / "data")


def test_labels_other_than_the_published_table_are_refused_by_default(mirror, tmp_path):
    with pytest.raises(FetchError, match="b5d81f0e61810bb7"):
        fetch_dlpfc(
            KEY,
            tmp_path / "data",
            counts_url=f"{mirror.url}/bucket",
            positions_url=f"{mirror.url}/10X",
            progress=False,
        )
    assert files(tmp_path / "data") == {}


def test_an_unknown_section_is_refused_with_the_twelve_known_ones(tmp_path):
    with pytest.raises(FetchError) as caught:
        fetch_dlpfc("151677", tmp_path)
    assert all(known in str(caught.value) for known in SECTION_IDS) and len(SECTION_IDS) == 12
    assert not list(tmp_path.iterdir())


def test_a_file_that_nobody_recorded_is_not_taken_over(mirror, tmp_path):
    folder = tmp_path / "data" / KEY
    folder.mkdir(parents=True)
    (folder / COUNTS).write_bytes(b"mine")
    with pytest.raises(FetchError, match="no record speaks of"):
        mirror.fetch(tmp_path / "data")
    assert (folder / COUNTS).read_bytes() == b"mine"


def test_a_broken_record_is_refused_by_name(mirror, tmp_path):
    folder = mirror.fetch(tmp_path / "data").folder
    for broken in ("{", "[]", '{"a": {}}'):
        (folder / RECORD).write_text(broken)
        with pytest.raises(FetchError, match=f"{RECORD}: found no record"):
            mirror.fetch(tmp_path / "data")


def test_downloads_show_a_progress_bar(mirror, tmp_path, capfd):
    fetch_dlpfc(
        KEY,
        tmp_path / "data",
        counts_url=f"{mirror.url}/bucket",
        positions_url=f"{mirror.url}/10X",
        labels_sha256=None,
    )
    assert "100%" in capfd.readouterr().err


def test_the_command_fetches_registers_and_says_what_is_next(mirror, tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("TRACEBED_HOME", str(home))
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    addresses = ["--counts-url", f"{mirror.url}/bucket", "--positions-url", f"{mirror.url}/10X"]
    runner = CliRunner()
    fetched = runner.invoke(main, ["section", "fetch", "dlpfc", KEY, *addresses])
    assert fetched.exit_code == 0, fetched.output
    source = TableStore(home / "tables").partition("section_source", (KEY,)).frame().row(0, named=True)
    assert set(json.loads(source["files"]).values()) >= {sha256_of(file) for file in home.rglob(COUNTS)}
    again = runner.invoke(main, ["section", "fetch", "dlpfc", KEY, *addresses])
    assert again.exit_code == 0
    refused = runner.invoke(main, ["section", "fetch", "dlpfc", "151999", *addresses])
    assert refused.exit_code == 1 and "expected one of the DLPFC sections" in refused.output


def sha256_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
