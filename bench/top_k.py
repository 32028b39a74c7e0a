"""Exact top-k of 200 query spots against 100,000 spots and more: CPU time, memory, and how both grow.

    python bench/top_k.py [--data DIR] [--sizes N ...]

DIR holds dlpfc/ and dlpfc_geometry/. The label maps of the eleven real sections are placed side by side, not
connected, as often as needed; then every spot changes its layer with probability 0.05 (fixed seed), so that niches
are not simply repeated. Each size is measured in a process of its own, after one warm-up that compiles the kernels.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from rm_ideal import (
    DEFAULT_DATA,
    labelled_spots,
    load_graphs,
    measured_in_child,
    peak_rss_gb,
    save_graphs,
    section_file,
    tiny_graph,
)
from scipy import sparse

from science.spatial.labelled_graph import LabelledGraph
from science.spatial.niches import niche_histograms
from science.spatial.rm_ideal import FactoredSimilarity, niche_similarity, top_k
from science.spatial.section import CORTEX_LAYERS

SECTIONS = (
    "151507",
    "151508",
    "151509",
    "151510",
    "151669",
    "151670",
    "151671",
    "151672",
    "151673",
    "151674",
    "151676",
)
SIZES = (25_000, 50_000, 100_000, 200_000)
CHANGED, SEED = 0.05, 0
QUERIES, K, CHECKED = 200, 50, 20
FAR = 1_000_000


def tiled(sections: list[LabelledGraph], n_spots: int) -> LabelledGraph:
    """At least so many spots: the sections side by side, again and again, with some layers changed."""
    tiles: list[LabelledGraph] = []
    while sum(tile.n_spots for tile in tiles) < n_spots:
        tiles.append(sections[len(tiles) % len(sections)])
    label = np.concatenate([tile.label for tile in tiles])
    rng = np.random.default_rng(SEED)
    changed = rng.random(len(label)) < CHANGED
    others = rng.integers(1, len(CORTEX_LAYERS), changed.sum())
    label[changed] = (label[changed] + others) % len(CORTEX_LAYERS)
    return LabelledGraph(sparse.block_diag([tile.adjacency for tile in tiles], format="csr"), label)


def measure(path: str, n_spots: int) -> dict:
    """Child process: prepare one target, then ask."""
    tiny = tiny_graph()
    top_k(tiny, niche_histograms(tiny), [0], 1)
    graph = tiled(load_graphs(Path(path)), n_spots)
    queries = np.random.default_rng(SEED).choice(graph.n_spots, QUERIES, replace=False)
    start_s = time.process_time()
    prepared = niche_histograms(graph)
    for derived in ("by_label", "compositions", "niches_by_composition", "spots_by_niche"):
        getattr(prepared, derived)  # built on first use, which is preparation and not the query
    prepared_s = time.process_time()
    spot, similarity = top_k(graph, prepared, queries, K)
    end_s, peak_gb = time.process_time(), peak_rss_gb()
    asked = niche_histograms(graph, spots=queries[:CHECKED], labels_of=prepared)
    rows = FactoredSimilarity(niche_similarity(asked, prepared, dtype=np.float64), asked.niche, prepared.niche).dense()
    expected = np.argsort(-rows, axis=1, kind="stable")[:, :K]
    exact = np.array_equal(spot[:CHECKED], expected) and np.array_equal(
        similarity[:CHECKED], np.take_along_axis(rows, expected, axis=1)
    )
    return {
        "n_spots": graph.n_spots,
        "niches": prepared.n_niches,
        "compositions": len(prepared.compositions.size),
        "labels": prepared.n_labels,
        "prepare_s": prepared_s - start_s,
        "query_s": end_s - prepared_s,
        "peak_gb": peak_gb,
        "exact": exact,
    }


def growth(sizes: list[dict], figure: str) -> tuple[float, float]:
    """Exponent of a figure in the number of spots (least squares on logarithms), and the figure at a million."""
    x, y = (np.log([size[name] for size in sizes]) for name in ("n_spots", figure))
    exponent, constant = np.polyfit(x, y, 1)
    return float(exponent), float(np.exp(constant + exponent * np.log(FAR)))


def memory_growth(sizes: list[dict]) -> tuple[float, float]:
    """GB per million spots (straight line: the interpreter takes a constant share), and GB at a million spots."""
    slope, constant = np.polyfit([size["n_spots"] / FAR for size in sizes], [size["peak_gb"] for size in sizes], 1)
    return float(slope), float(constant + slope)


def report(sizes: list[dict]) -> None:
    """Print the tables."""
    print(
        f"Exact top-{K} of {QUERIES} queries against all spots, k=3, H=3; CPU-seconds of one thread after one warm-up"
    )
    print("(JIT compilation). Targets at 100,000 spots: queries <= 5 s after preparation, peak memory <= 4 GB.\n")
    print("| spots | distinct niches | compositions | labels | preparation, s | queries, s | peak, GB | exact |")
    print("|---|---|---|---|---|---|---|---|")
    for size in sizes:
        counts = " | ".join(f"{size[name]:,}" for name in ("n_spots", "niches", "compositions", "labels"))
        exact = f"{CHECKED} of {CHECKED} rows" if size["exact"] else "NO"
        print(f"| {counts} | {size['prepare_s']:.2f} | {size['query_s']:.2f} | {size['peak_gb']:.2f} | {exact} |")
    if len(sizes) < 2:
        return
    print(f"\n| figure | grows as | at {FAR:,} spots, from this fit |\n|---|---|---|")
    for name, unit in (("prepare_s", "s"), ("query_s", "s"), ("niches", "distinct niches")):
        exponent, far = growth(sizes, name)
        print(f"| {name.partition('_')[0]} | n^{exponent:.2f} | {far:,.0f} {unit} |")
    slope, far = memory_growth(sizes)
    print(f"| peak memory | {slope:.1f} GB per million spots | {far:.1f} GB |")
    print(
        "\nPreparation looks up at most 37 labels at each of 4 levels for each spot, whatever the size; cache misses\n"
        "in the growing dictionary add to that. A query walks the lists of its own labels and all compositions, so it\n"
        "grows with the distinct niches; tissue that does not repeat as these tiles do has more of those."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="at least so many spots each")
    parser.add_argument("--measure", metavar=("NPZ", "N"), nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        path, n_spots = arguments.measure
        print(json.dumps(measure(path, int(n_spots))))
        return
    files = [section_file(arguments.data, key) for key in SECTIONS]
    sections = [labelled_spots(file) for file in files]
    tiny = tiny_graph()
    top_k(tiny, tiny, [0], 1)  # leaves the compiled kernels in the cache, for the children
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graphs.npz"
        save_graphs(sections, path)
        report([measured_in_child(__file__, "--measure", str(path), str(n)) for n in arguments.sizes])


if __name__ == "__main__":
    main()
