"""RM-IDEAL of all pairs of two real sections: CPU time, memory, and speed and error against optimal transport by POT.

    python bench/rm_ideal.py [--data DIR]

DIR holds dlpfc/151673.h5ad and dlpfc/151676.h5ad. Times are CPU-seconds of one thread after one warm-up on a tiny
graph, which compiles the kernels. All pairs are measured in a process of its own, so that its peak memory is theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import sparse

from science.spatial.labelled_graph import LabelledGraph
from science.spatial.niches import NicheHistograms, niche_histograms
from science.spatial.rm_ideal import FactoredSimilarity, niche_similarity, rm_ideal
from science.spatial.section import CORTEX_LAYERS
from science.spatial.wwl_oracle import niche_of, transport_problem, wl_labels

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_DATA = Path(os.environ.get("TRACEBED_TEST_DATA", ROOT.parent / "shared" / "data"))
SOURCE, TARGET = "151673", "151676"
HARD_BLOCK, RANDOM_BLOCK = 400, 200  # sources and targets of a block: all pairs of them are compared
RICH = 20  # distinct labels of the last level that make a niche hard
KERNEL_S = 2.0  # how long the kernel is repeated
SEED = 0


def section_file(data: Path, key: str) -> Path:
    """Path of a section, or exit status 2 with what is missing."""
    for folder in ("dlpfc", "dlpfc_geometry"):
        if (data / folder / f"{key}.h5ad").is_file():
            return data / folder / f"{key}.h5ad"
    print(
        f"Section {key} is missing: found neither dlpfc/{key}.h5ad nor dlpfc_geometry/{key}.h5ad in {data}. Give the "
        "folder with --data or TRACEBED_TEST_DATA.",
        file=sys.stderr,
    )
    sys.exit(2)


def labelled_spots(path: Path) -> LabelledGraph:
    """Hex graph and layers of the labelled spots; reads no counts (the geometry files have none)."""
    import h5py
    from anndata.io import read_elem

    from science.spatial.graph import neighbour_graph

    with h5py.File(path) as file:
        obs = read_elem(file["obs"])
    obs = obs[obs["layer"].isin(CORTEX_LAYERS)]
    row, column = (obs[name].to_numpy(np.int32) for name in ("array_row", "array_col"))
    pixel = obs[["pxl_col", "pxl_row"]].to_numpy(float)
    codes = np.array([CORTEX_LAYERS.index(layer) for layer in obs["layer"]], np.int32)
    return LabelledGraph(neighbour_graph(row, column, pixel, source=path), codes)


def save_graphs(graphs: list[LabelledGraph], path: Path) -> None:
    """Write graphs to one npz for a child process, which then needs none of the readers."""
    np.savez(path, *(part for g in graphs for part in (g.adjacency.indptr, g.adjacency.indices, g.label)))


def load_graphs(path: Path) -> list[LabelledGraph]:
    """Read what `save_graphs` wrote."""
    with np.load(path) as stored:
        arrays = [stored[f"arr_{i}"] for i in range(len(stored.files))]
    graphs = []
    for indptr, indices, label in zip(arrays[0::3], arrays[1::3], arrays[2::3], strict=True):
        parts = (np.ones(len(indices), bool), indices, indptr)
        graphs.append(LabelledGraph(sparse.csr_matrix(parts, shape=(len(label), len(label))), label))
    return graphs


def peak_rss_gb() -> float:
    """Peak resident memory of this process, GB. Not ru_maxrss, which inherits the peak of the parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def tiny_graph() -> LabelledGraph:
    """Two spots, to compile the kernels on."""
    return LabelledGraph(sparse.csr_matrix(np.array([[0, 1], [1, 0]])), np.array([0, 1], np.int32))


def measured_in_child(script: str, *arguments: str) -> dict:
    """Run a benchmark script again as a fresh process with one thread; it prints JSON."""
    one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "NUMBA")}
    command = [sys.executable, "-W", "ignore", script, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | one_thread, check=False)
    if ended.returncode:
        sys.exit(f"{' '.join(command)} ended with status {ended.returncode}:\n{ended.stderr}")
    return json.loads(ended.stdout)


def all_pairs(path: str) -> dict:
    """Child process: labels, all pairs and the dense float32 matrix."""
    source, target = load_graphs(Path(path))
    rm_ideal(tiny_graph(), tiny_graph()).dense()
    before_gb, start_s = peak_rss_gb(), time.process_time()
    prepared = niche_histograms(target)
    asked = niche_histograms(source, labels_of=prepared)
    labelled_s = time.process_time()
    factored = FactoredSimilarity(niche_similarity(asked, prepared), asked.niche, prepared.niche)
    compared_s = time.process_time()
    dense = factored.dense()
    end_s = time.process_time()
    assert dense.dtype == np.float32
    return {
        "shape": dense.shape,
        "niches": factored.similarity.shape,
        "labels_s": labelled_s - start_s,
        "pairs_s": compared_s - labelled_s,
        "dense_s": end_s - compared_s,
        "total_s": end_s - start_s,
        "before_gb": before_gb,
        "peak_gb": peak_rss_gb(),
    }


def median_s(call: Callable[[], object]) -> float:
    """Median CPU-seconds of a call, repeated for `KERNEL_S`."""
    times: list[float] = []
    while sum(times) < KERNEL_S:
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return float(np.median(times))


def hard_spots(graph: LabelledGraph, rng: np.random.Generator) -> np.ndarray:
    """Spots of distinct niches, each with many labels and with a spot of Layer3: pairs of them share something."""
    prepared = niche_histograms(graph)
    distinct_labels = np.diff(prepared.histograms.start)[prepared.iterations :: prepared.n_levels]
    first_spot = np.unique(prepared.niche, return_index=True)[1]
    rich = rng.permutation(first_spot[distinct_labels >= RICH])
    layer = CORTEX_LAYERS.index("Layer3")
    return np.array([spot for spot in rich if (graph.label[niche_of(graph, spot, 3)] == layer).any()][:HARD_BLOCK])


def transport_on_block(
    source: LabelledGraph, rows: np.ndarray, target: LabelledGraph, columns: np.ndarray
) -> tuple[np.ndarray, float, float]:
    """POT on all pairs of a block, labels ready: similarity, seconds in `ot.emd2`, seconds for its cost matrices."""
    import ot

    names: dict[tuple, int] = {}
    left = [wl_labels(source, niche_of(source, i, 3), 3, names) for i in rows]
    right = [wl_labels(target, niche_of(target, j, 3), 3, names) for j in columns]
    similarity, solved_s, cost_s = np.empty((len(rows), len(columns))), 0.0, 0.0
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            start = time.process_time()
            problem = transport_problem(a, b)
            ready = time.process_time()
            similarity[i, j] = 1 - ot.emd2(*problem)
            cost_s, solved_s = cost_s + ready - start, solved_s + time.process_time() - ready
    return similarity, solved_s, cost_s


def compare_block(
    name: str, source: LabelledGraph, rows: np.ndarray, target: LabelledGraph, columns: np.ndarray
) -> dict:
    """Kernel and POT on the same pairs, labels ready for both."""
    prepared = niche_histograms(target, spots=columns)
    asked = niche_histograms(source, spots=rows, labels_of=prepared)

    def kernel(target_niches: NicheHistograms = prepared) -> np.ndarray:
        similarity = niche_similarity(asked, target_niches)
        if similarity.shape == (len(rows), len(columns)):
            return similarity  # no two spots share a niche: nothing to expand
        return FactoredSimilarity(similarity, asked.niche, prepared.niche).dense()

    def kernel_with_index() -> np.ndarray:
        return kernel(NicheHistograms(**{field: getattr(prepared, field) for field in prepared.__dataclass_fields__}))

    exact = niche_similarity(asked, prepared, dtype=np.float64)[asked.niche][:, prepared.niche]
    kernel_s, with_index_s = median_s(kernel), median_s(kernel_with_index)
    expected, solved_s, cost_s = transport_on_block(source, rows, target, columns)
    return {
        "name": name,
        "n": exact.size,
        "niches": (asked.n_niches, prepared.n_niches),
        "hard": ((exact > 0) & (exact < 1)).mean(),
        "kernel": exact.size / kernel_s,
        "emd2": exact.size / solved_s,
        "ratio": solved_s / kernel_s,
        "ratio_unprepared": (solved_s + cost_s) / with_index_s,
        "difference": np.abs(exact - expected).max(),
    }


def report(total: dict, blocks: list[dict]) -> None:
    """Print the tables."""
    n = total["shape"][0] * total["shape"][1]
    print(f"RM-IDEAL {SOURCE} x {TARGET}, k=3, H=3; CPU-seconds of one thread after one warm-up (JIT compilation).\n")
    print("| figure | measured | target |\n|---|---|---|")
    print(f"| labels, histograms | {total['labels_s']:.3f} s | |")
    print(f"| all pairs ({' x '.join(map(str, total['niches']))} distinct niches) | {total['pairs_s']:.3f} s | |")
    print(f"| expanded to float32 {' x '.join(map(str, total['shape']))} | {total['dense_s']:.3f} s | |")
    print(f"| **in all, {n / 1e6:.2f} M pairs** | **{total['total_s']:.3f} s** | <= 5 s |")
    print(f"| peak memory ({total['before_gb']:.2f} GB before) | {total['peak_gb']:.2f} GB | <= 1.2 GB |")
    print(
        "\nAgainst `ot.emd2` on the same pairs; the kernel's result is float32 for every pair of spots. Ratio: labels\n"
        "ready for both, the index of the target's labels ready for the kernel, cost matrices ready for emd2. Second\n"
        "ratio: index and cost matrices are counted.\n"
    )
    print("| pairs | n | distinct niches | 0 < S < 1 | kernel, 1/s | emd2, 1/s | ratio | second | max difference |")
    print("|---|---|---|---|---|---|---|---|---|")
    for b in blocks:
        speed = f"{b['kernel']:,.0f} | {b['emd2']:,.0f} | {b['ratio']:,.0f} | {b['ratio_unprepared']:,.0f}"
        kind = f"{b['name']} | {b['n']:,} | {b['niches'][0]} x {b['niches'][1]} | {b['hard']:.1%}"
        print(f"| {kind} | {speed} | {b['difference']:.1e} |")
    print("\nTargets: ratio >= 20,000 on hard pairs; difference (in float64) <= 1e-9.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--all-pairs", metavar="NPZ", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.all_pairs:
        print(json.dumps(all_pairs(arguments.all_pairs)))
        return
    files = [section_file(arguments.data, key) for key in (SOURCE, TARGET)]
    source, target = (labelled_spots(file) for file in files)
    rm_ideal(tiny_graph(), tiny_graph()).dense()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graphs.npz"
        save_graphs([source, target], path)
        total = measured_in_child(__file__, "--all-pairs", str(path))
    rng = np.random.default_rng(SEED)
    hard = compare_block("hard block", source, hard_spots(source, rng), target, hard_spots(target, rng))
    rows, columns = (rng.choice(graph.n_spots, RANDOM_BLOCK, replace=False) for graph in (source, target))
    report(total, [hard, compare_block("random block", source, rows, target, columns)])


if __name__ == "__main__":
    main()
