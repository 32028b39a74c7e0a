"""Fetching the public DLPFC sections (Maynard et al., Nature Neuroscience 2021) in the shape of a Space Ranger folder.

Counts and images come from the bucket of spatialLIBD; positions, scale factors and labels from the HumanPilot
repository (Artistic-2.0) at a fixed commit. The SHA-256 of each file is recorded when it is first fetched and holds
from then on. What is in the files is not looked at here: `science/spatial/load.py` reads and checks them.
"""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

SECTION_IDS = (
    *("151507", "151508", "151509", "151510"),  # donor Br5292
    *("151669", "151670", "151671", "151672"),  # donor Br5595
    *("151673", "151674", "151675", "151676"),  # donor Br8100
)
COUNTS_URL = "https://spatial-dlpfc.s3.us-east-2.amazonaws.com"
HUMANPILOT_COMMIT = "044446d6bd8fc154aa74f7be62ec67effb1ec376"
POSITIONS_URL = f"https://raw.githubusercontent.com/LieberInstitute/HumanPilot/{HUMANPILOT_COMMIT}/10X"
LABELS = "barcode_level_layer_map.tsv"
LABELS_SHA256 = "b5d81f0e61810bb74d8a02495eda8f84e0eb9335211dcdd03513d747036e5ca9"
RECORD = "sources.json"


class FetchError(ValueError):
    """A file that could not be fetched or is not the recorded one. Files that were there before are kept."""


@dataclass(frozen=True)
class DlpfcSection:
    """A fetched section: `folder` and `labels` are what ``load_section(folder, section_id, labels=labels)`` takes."""

    section_id: str
    folder: Path
    labels: Path


def fetch_dlpfc(
    section_id: str,
    folder: Path,
    *,
    counts_url: str = COUNTS_URL,
    positions_url: str = POSITIONS_URL,
    labels_sha256: str | None = LABELS_SHA256,
    progress: bool = True,
) -> DlpfcSection:
    """Fetch one section into ``folder/<section_id>``; what is there already is verified and not fetched again.

    A file appears under its name only when it is complete and its hash is recorded, so an interrupted call leaves no
    half-written file, and the next call goes on with the files that lack. Once all are there no network is needed.

    Parameters
    ----------
    section_id : one of the twelve in `SECTION_IDS`.
    folder : holds one folder for each section.
    counts_url : mirror of the bucket with ``h5/`` and ``images/``.
    positions_url : mirror of HumanPilot's folder ``10X``.
    labels_sha256 : hash of the table of labels; None for a mirror with another table, recorded on first use.
    progress : show a progress bar for each download.

    Raises
    ------
    FetchError : unknown section, no network, an address that does not exist, a download that breaks off, or a file,
        here or there, whose hash is not the recorded one.
    """
    if section_id not in SECTION_IDS:
        raise FetchError(f"found section {section_id!r}; expected one of the DLPFC sections: {', '.join(SECTION_IDS)}.")
    here = folder / section_id
    (here / "spatial").mkdir(parents=True, exist_ok=True)
    addresses = {  # small files first: a wrong mirror shows before the long download
        LABELS: f"{positions_url}/{LABELS}",
        "spatial/scalefactors_json.json": f"{positions_url}/{section_id}/scalefactors_json.json",
        "spatial/tissue_positions_list.csv": f"{positions_url}/{section_id}/tissue_positions_list.txt",
        "spatial/tissue_lowres_image.png": f"{counts_url}/images/{section_id}_tissue_lowres_image.png",
        "filtered_feature_bc_matrix.h5": f"{counts_url}/h5/{section_id}_filtered_feature_bc_matrix.h5",
    }
    recorded = _read_record(here / RECORD)
    for name, url in addresses.items():
        known = recorded[name]["sha256"] if name in recorded else None
        if (here / name).exists():
            _verify(here / name, known)
            continue
        if known is None and name == LABELS:
            known = labels_sha256
        _download(url, here, name, known, recorded, progress=progress)
    return DlpfcSection(section_id, here, here / LABELS)


def _verify(file: Path, known: str | None) -> None:
    """Hold a file that is there against its record."""
    import pooch

    if known is None:
        raise FetchError(
            f"{file}: found a file that no record speaks of; expected one fetched by this function ({RECORD}). "
            "Move it away, or fetch into another folder."
        )
    found = pooch.file_hash(str(file))
    if found != known:
        raise FetchError(
            f"{file}: found SHA-256 {found}; expected {known}, recorded when it was fetched. "
            "The file was changed since; it was left as it is. Move it away to fetch it again."
        )


def _download(url: str, here: Path, name: str, known: str | None, recorded: dict, *, progress: bool) -> None:
    """Download to a temporary folder, check, record the hash, and only then give the file its name."""
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)  # it would advise to paste the hash into the code
    with tempfile.TemporaryDirectory(dir=here, prefix=".incoming-") as incoming:
        try:
            pooch.retrieve(
                url,
                known_hash=None,
                fname="file",
                path=incoming,
                downloader=pooch.HTTPDownloader(progressbar=progress, chunk_size=2**20),
            )
        except requests.exceptions.RequestException as error:
            raise FetchError(
                f"{url}: found {type(error).__name__} ({error}); expected the file {name}. Check the network and the "
                f"address, then call again: complete files in {here} are kept. Without a network give a mirror "
                "(counts_url, positions_url)."
            ) from error
        received = Path(incoming) / "file"
        found = pooch.file_hash(str(received))
        if known is not None and found != known:
            raise FetchError(
                f"{url}: found a file of SHA-256 {found}; expected {known}, the recorded one. Nothing was replaced. "
                f"If the new file is right, remove the entry {name!r} from {here / RECORD} (the labels of a "
                "mirror: pass labels_sha256) and call again."
            )
        recorded[name] = {"url": url, "sha256": found, "bytes": received.stat().st_size}
        record = Path(incoming) / RECORD
        record.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        record.replace(here / RECORD)
        received.replace(here / name)


def _read_record(path: Path) -> dict[str, dict]:
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(entry["sha256"], str) for entry in record.values()):
            return record
        raise ValueError("an entry without a hash")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FetchError(
            f"{path}: found no record of fetched files ({error}); expected the JSON that this function wrote. "
            "Move the folder away and fetch the section again."
        ) from error
