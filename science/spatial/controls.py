"""Control embeddings: what a score means is seen only beside them, so they stand in every table.

`random` knows nothing. The oracles know the layers, which no encoder does: `layer_one_hot` the layer of the spot alone,
`layer_composition` the shares of the layers within 3 hops, `layer_composition_noise` the same with noise too small to
see, which breaks its exact ties and shows how much of a score the ties are worth. Encoders live in `encoders/`.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from science.spatial.labelled_graph import LabelledGraph, labelled_graphs
from science.spatial.section import Section

HOPS = 3
NOISE_SD = 1e-3
RANDOM_DIMENSIONS = 32
CONTROLS = {
    "random": "independent Gaussian vectors: the floor",
    "layer_one_hot": "oracle: the spot's own layer",
    "layer_composition": f"oracle: shares of the layers within {HOPS} hops",
    "layer_composition_noise": f"oracle: the shares with Gaussian noise of sd {NOISE_SD:g}, so that no two tie",
}


def control_embeddings(source: Section, target: Section, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Control embeddings of the labelled spots of a pair of sections.

    The composition is left raw: its square root (Hellinger) orders the targets slightly less like RM-IDEAL (A .994
    against .997 on 151673 -> 151676).

    Parameters
    ----------
    source, target : sections with at least one labelled spot each.
    seed : of the random vectors and of the noise.

    Returns
    -------
    Name (the keys of `CONTROLS`) -> (z_source, z_target), float64 ``[n_labelled, d]``, rows in the order of the
    section's labelled spots (`labelled_graph.labelled_graphs`).

    Raises
    ------
    SectionError : a section without labelled spots.
    """
    graphs = labelled_graphs(source, target)[:2]
    n_labels = 1 + max(int(graph.label.max()) for graph in graphs)
    one_hot = [np.eye(n_labels)[graph.label] for graph in graphs]
    composition = [_ball_mean(graph, z) for graph, z in zip(graphs, one_hot, strict=True)]
    generator = np.random.default_rng(seed)
    random = [generator.standard_normal((graph.n_spots, RANDOM_DIMENSIONS)) for graph in graphs]
    noisy = [z + generator.normal(0.0, NOISE_SD, z.shape) for z in composition]
    pairs = (random, one_hot, composition, noisy)
    return {name: (z_source, z_target) for name, (z_source, z_target) in zip(CONTROLS, pairs, strict=True)}


def _ball_mean(graph: LabelledGraph, z: np.ndarray) -> np.ndarray:
    """Mean of ``z`` over the spots within `HOPS` steps of each spot, itself included."""
    step = sparse.csr_array(graph.adjacency.astype(np.int32)) + sparse.eye_array(graph.n_spots, dtype=np.int32)
    ball = step.tocsr()
    for _ in range(HOPS - 1):
        ball = (ball @ step).tocsr()
        ball.data[:] = 1
    return (ball @ z) / ball.sum(axis=1).reshape(-1, 1)
