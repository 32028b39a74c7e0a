"""How well each encoder finds niches on two real sections, both directions, beside the controls.

    python bench/encoders.py [--data DIR] [--methods pca pca_smooth partition_bank] [--seeds 0 1 2]
                             [--pair 151673 151676] [--projected 151674] [--bootstrap 0]

DIR holds dlpfc/151673.h5ad ... Prints a Markdown table. Encoders are fitted on the pair; a section given with
--projected is outside the cohort and embedded without a refit. CPU-seconds are of fit and embedding of the pair.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from science.spatial.bootstrap import spatial_blocks
from science.spatial.controls import control_embeddings
from science.spatial.encoders import resolve
from science.spatial.load import load_section
from science.spatial.metrics import Score, niche_query
from science.spatial.rm_ideal import FactoredSimilarity, labelled_graphs, rm_ideal
from science.spatial.section import Section

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_DATA = Path(os.environ.get("TRACEBED_TEST_DATA", ROOT.parent / "shared" / "data"))
COLUMNS = {
    "A all": ("all", "A"),
    "A Layer3": ("Layer3", "A"),
    "A > 0 all": ("all", "A_positive"),
    "P@50": ("all", "precision_at_50"),
    "same@50": ("all", "same_label_at_50"),
}


class Pair:
    """RM-IDEAL and labels of one direction, computed once."""

    def __init__(self, source: Section, target: Section) -> None:
        self.source, self.target = source, target
        graphs = labelled_graphs(source, target)
        self.source_spots, self.target_spots = graphs[2:]
        self.reference: FactoredSimilarity = rm_ideal(*graphs[:2])

    def scores(self, z_source: np.ndarray, z_target: np.ndarray, n_bootstrap: int) -> list[Score]:
        """Scores of embeddings of the labelled spots."""
        source, spots = self.source, self.source_spots
        return niche_query(
            z_source,
            z_target,
            self.reference,
            source.layer[spots],
            self.target.layer[self.target_spots],
            spatial_blocks(source.array_row[spots], source.array_col[spots]),
            n_bootstrap=n_bootstrap,
        )


def row(name: str, seed: int, pair: Pair, scores: list[Score], cpu_s: float | None) -> str:
    found = {(score.layer, score.metric): score for score in scores}
    cells = [name, str(seed), f"{pair.source.key} -> {pair.target.key}"]
    for key in COLUMNS.values():
        score = found[key]
        interval = "" if score.ci_low is None else f" ({score.ci_low:.3f}-{score.ci_high:.3f})"
        cells.append("" if score.value is None else f"{score.value:.3f}{interval}")
    cells += [f"{found['all', 'A'].n} / {found['Layer3', 'A'].n}", "" if cpu_s is None else f"{cpu_s:.0f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--methods", nargs="+", default=["pca", "pca_smooth", "partition_bank"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--pair", nargs=2, default=["151673", "151676"])
    parser.add_argument("--projected")
    parser.add_argument("--bootstrap", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)  # of scanpy and anndata, about their own future

    keys = [*options.pair, *([options.projected] if options.projected else [])]
    missing = [key for key in keys if not (options.data / "dlpfc" / f"{key}.h5ad").is_file()]
    if missing:
        sys.exit(f"no {', '.join(missing)} in {options.data / 'dlpfc'}; name the folder with --data")
    sections = {key: load_section(options.data / "dlpfc" / f"{key}.h5ad", key) for key in keys}
    a, b, *outside = sections.values()
    pairs = [Pair(a, b), Pair(b, a)] + [pair for c in outside for pair in (Pair(c, a), Pair(a, c))]

    print(f"| encoder | seed | direction | {' | '.join(COLUMNS)} | n all / Layer3 | CPU s |")
    print("|" + " --- |" * (len(COLUMNS) + 5))
    for pair in pairs[:2]:
        for name, z in control_embeddings(pair.source, pair.target, seed=0).items():
            print(row(name, 0, pair, pair.scores(*z, options.bootstrap), None), flush=True)
    for method in options.methods:
        for seed in options.seeds:
            started = time.process_time()
            encoder = resolve(method).fit([a, b], seed=seed)
            z_of = {key: encoder.embed(sections[key]) for key in options.pair}
            cpu_s = time.process_time() - started
            z_of |= {section.key: encoder.embed(section) for section in outside}
            for pair in pairs:
                z = z_of[pair.source.key][pair.source_spots], z_of[pair.target.key][pair.target_spots]
                print(row(method, seed, pair, pair.scores(*z, options.bootstrap), cpu_s), flush=True)


if __name__ == "__main__":
    main()
