"""RM-IDEAL in closed form against optimal transport by POT, its exactness, its limits, and exact top-k."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from science.spatial.load import load_section
from science.spatial.niches import niche_histograms
from science.spatial.rm_ideal import (
    FactoredSimilarity,
    LabelledGraph,
    labelled_graphs,
    niche_similarity,
    rm_ideal,
    top_k,
)
from science.spatial.section import SectionError
from science.spatial.simulate import simulate_cortex
from science.spatial.wl_labels import empty_table, find, insert, with_room
from science.spatial.wwl_oracle import niche_of, wl_labels, wwl_similarity


def graph(n, edges, label):
    """An undirected graph of n spots."""
    i, j = np.array(sorted({(min(e), max(e)) for e in edges if e[0] != e[1]}), int).reshape(-1, 2).T
    half = sparse.coo_matrix((np.ones(len(i), bool), (i, j)), shape=(n, n)).tocsr()
    return LabelledGraph(half + half.T, np.asarray(label, np.int32))


def path(label):
    return graph(len(label), [(i, i + 1) for i in range(len(label) - 1)], label)


@st.composite
def graphs(draw, n_labels=3):
    """Graphs of 1 to 12 spots with any degrees, parts that do not touch, and isolated spots."""
    n = draw(st.integers(1, 12))
    spot = st.integers(0, n - 1)
    edges = draw(st.lists(st.tuples(spot, spot), max_size=24))
    return graph(n, edges, draw(st.lists(st.integers(0, n_labels - 1), min_size=n, max_size=n)))


definitions = st.fixed_dictionaries({"hops": st.integers(0, 3), "iterations": st.integers(0, 4)})


@pytest.fixture(scope="module")
def real(dlpfc):
    """151673 and 151676: the two graphs, and their similarity in float64."""
    sections = [load_section(dlpfc / f"{key}.h5ad", key) for key in ("151673", "151676")]
    source, target, _, _ = labelled_graphs(*sections)
    return source, target, rm_ideal(source, target, dtype=np.float64)


# The closed form is the transport


@settings(max_examples=150, deadline=None)
@given(graphs(), graphs(), definitions)
def test_the_closed_form_is_optimal_transport_on_any_graph(a, b, definition):
    similarity = rm_ideal(a, b, dtype=np.float64, **definition).dense()
    expected = [[wwl_similarity(a, i, b, j, **definition) for j in range(b.n_spots)] for i in range(a.n_spots)]
    np.testing.assert_allclose(similarity, expected, rtol=0, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(graphs(), graphs(), definitions)
def test_similarity_is_symmetric_to_the_last_bit_bounded_and_one_with_itself(a, b, definition):
    ab, ba = (rm_ideal(*pair, dtype=np.float64, **definition).dense() for pair in ((a, b), (b, a)))
    np.testing.assert_array_equal(ab, ba.T)
    assert ab.min() >= 0 and ab.max() <= 1
    np.testing.assert_array_equal(np.diag(rm_ideal(a, a, **definition).dense()), 1)


@settings(max_examples=100, deadline=None)
@given(graphs(), graphs(), st.integers(0, 3), st.integers(0, 4))
def test_layer_composition_bounds_the_similarity(a, b, hops, iterations):
    composition = rm_ideal(a, b, hops=hops, iterations=0, dtype=np.float64).dense()
    similarity = rm_ideal(a, b, hops=hops, iterations=iterations, dtype=np.float64).dense()
    assert (similarity <= composition + 1e-12).all()
    assert (similarity >= composition / (iterations + 1) - 1e-12).all()


@pytest.mark.parametrize("kind", ["rich", "mixed"])
def test_the_closed_form_is_optimal_transport_on_hard_real_pairs(real, kind):
    source, target, factored = real
    rng = np.random.default_rng(3)
    richness = [
        np.diff(h.histograms.start)[h.iterations :: h.n_levels][h.niche] for h in map(niche_histograms, real[:2])
    ]
    at_least = {"rich": 30, "mixed": 6}[kind]
    i, j = (rng.permutation(np.flatnonzero(r >= at_least))[:300] for r in richness)
    similarity = factored.dense()[np.ix_(i, j)]
    hard = np.argwhere((similarity > 0) & (similarity < 1))
    hard = hard[rng.choice(len(hard), 150, replace=False)]
    found = [similarity[x, y] for x, y in hard]
    expected = [wwl_similarity(source, i[x], target, j[y]) for x, y in hard]
    assert len(np.unique(np.round(found, 9))) > 50
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_the_closed_form_is_optimal_transport_at_the_border_and_on_random_real_pairs(real):
    source, target, factored = real
    rng = np.random.default_rng(4)
    border = np.flatnonzero([len(niche_of(source, i, 3)) < 37 for i in range(source.n_spots)])
    pairs = [(rng.choice(border), rng.integers(target.n_spots)) for _ in range(75)]
    pairs += [(rng.integers(source.n_spots), rng.integers(target.n_spots)) for _ in range(75)]
    for i, j in pairs:
        assert factored.rows([i])[0, j] == pytest.approx(wwl_similarity(source, i, target, j), abs=1e-9)


def test_float32_is_the_rounded_float64(real):
    source, target, factored = real
    single = rm_ideal(source, target)
    assert single.similarity.dtype == np.float32
    np.testing.assert_array_equal(single.similarity, factored.similarity.astype(np.float32))


def test_niches_of_thousands_of_spots_stay_exact():
    rng = np.random.default_rng(0)
    a, b = (path(rng.integers(0, 2, n)) for n in (6007, 5003))  # the overlaps pass 2^24, where float32 skips integers
    prepared = niche_histograms(b, hops=6007, spots=[0])
    found = niche_similarity(niche_histograms(a, hops=6007, spots=[0], labels_of=prepared), prepared, dtype=np.float64)
    names: dict[tuple, int] = {}
    labels = [wl_labels(g, list(range(g.n_spots)), 3, names) for g in (a, b)]
    exact = sum(
        min(Fraction(x[label], a.n_spots), Fraction(y[label], b.n_spots))
        for x, y in ([Counter(level.tolist()) for level in pair] for pair in zip(*labels, strict=True))
        for label in x
    )
    assert found.tolist() == [[float(exact / 4)]]


# The definition: niches, their labels, one dictionary


def test_whole_section_labels_give_other_values(real):
    source, target, factored = real
    names: dict[tuple, int] = {}
    labels = [wl_labels(g, list(range(g.n_spots)), 3, names) for g in (source, target)]
    rng = np.random.default_rng(5)
    differences = []
    for i, j in zip(rng.integers(0, source.n_spots, 300), rng.integers(0, target.n_spots, 300), strict=True):
        niches = niche_of(source, i, 3), niche_of(target, j, 3)
        shared = 0.0
        for level in range(4):
            a, b = (Counter(labels[side][level, niche].tolist()) for side, niche in enumerate(niches))
            shared += sum(min(a[x] / len(niches[0]), b[x] / len(niches[1])) for x in a)
        differences.append(abs(shared / 4 - factored.rows([i])[0, j]))
    assert np.max(differences) > 0.02


def test_labels_see_only_neighbours_inside_the_niche():
    # Spots 2 of both have the same niche within one hop; what lies beyond it differs.
    a, b = path([0, 1, 0, 1, 0]), path([2, 1, 0, 1, 2])
    assert rm_ideal(a, b, hops=1, iterations=3).dense()[2, 2] == 1
    assert rm_ideal(a, b, hops=2, iterations=3).dense()[2, 2] < 1


def test_niches_of_different_sizes_weigh_their_spots_evenly():
    # One spot of layer 0 against three of them in a row: equal composition, half of all levels at H = 1.
    assert rm_ideal(path([0]), path([0, 0, 0]), hops=1, iterations=0).dense()[0, 1] == 1
    assert rm_ideal(path([0]), path([0, 0, 0]), hops=1, iterations=1).dense()[0, 1] == 0.5


def test_isolated_spots_are_niches_of_one():
    alone = graph(3, [], [0, 0, 1])
    np.testing.assert_array_equal(rm_ideal(alone, alone).dense(), [[1, 1, 0], [1, 1, 0], [0, 0, 1]])


def test_the_order_of_spots_changes_nothing(real):
    source, target, factored = real
    order = np.random.default_rng(6).permutation(source.n_spots)
    shuffled = LabelledGraph(source.adjacency[order][:, order], source.label[order])
    rows = np.arange(0, source.n_spots, 50)
    found = rm_ideal(shuffled, target, dtype=np.float64).rows(rows)
    np.testing.assert_array_equal(found, factored.rows(order[rows]))


def test_distinct_niches_are_stored_once(real):
    _, target, factored = real
    assert factored.similarity.shape == (1458, 1409)
    assert factored.dense().shape == (3611, 3431)
    itself = rm_ideal(target, target)
    np.testing.assert_array_equal(itself.similarity == 1, np.eye(1409, dtype=bool))


def test_keys_with_equal_hashes_keep_their_own_numbers():
    table, keys = empty_table(), [[1, 2, 3], [1, 2, 4], [1, 2], [3, 2, 1]]
    for n, key in enumerate(keys):
        table = with_room(table, n, 1, len(key))
        slot = find(table, np.array(key, np.int32), len(key), 7)
        assert slot < 0
        insert(table, n, np.array(key, np.int32), len(key), 7, -1 - slot)
    assert [find(table, np.array(key, np.int32), len(key), 7) for key in keys] == [0, 1, 2, 3]


def test_dense_and_rows_expand_the_factors():
    factored = FactoredSimilarity(np.array([[0.1, 0.2], [0.3, 0.4]]), np.array([1, 0, 1]), np.array([0, 0, 1]))
    np.testing.assert_array_equal(factored.dense(), [[0.3, 0.3, 0.4], [0.1, 0.1, 0.2], [0.3, 0.3, 0.4]])
    np.testing.assert_array_equal(factored.rows(np.array([1])), [[0.1, 0.1, 0.2]])


def test_a_prepared_target_gives_the_same_numbers_to_every_source(real):
    source, target, factored = real
    prepared = niche_histograms(target)
    for _ in range(2):
        np.testing.assert_array_equal(rm_ideal(source, prepared, dtype=np.float64).similarity, factored.similarity)
    np.testing.assert_array_equal(rm_ideal(target, prepared).similarity, rm_ideal(target, target).similarity)


# Exact top-k


@pytest.mark.parametrize("k", [1, 50, 3431])
def test_top_k_is_the_head_of_the_sorted_row(real, k):
    source, target, factored = real
    queries = np.random.default_rng(7).choice(source.n_spots, 60, replace=False)
    spot, similarity = top_k(source, target, queries, k)
    rows = factored.rows(queries)
    expected = np.argsort(-rows, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(spot, expected)
    np.testing.assert_array_equal(similarity, np.take_along_axis(rows, expected, axis=1))


@settings(max_examples=150, deadline=None)
@given(graphs(), graphs(n_labels=4), definitions, st.data())
def test_top_k_breaks_ties_by_the_lower_index_on_any_graph(a, b, definition, data):
    k = data.draw(st.integers(1, b.n_spots))
    queries = data.draw(st.lists(st.integers(0, a.n_spots - 1), max_size=5))
    spot, similarity = top_k(a, niche_histograms(b, **definition), queries, k, **definition)
    rows = rm_ideal(a, b, dtype=np.float64, **definition).dense()[np.array(queries, int)]
    expected = np.argsort(-rows, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(spot, expected)
    np.testing.assert_array_equal(similarity, np.take_along_axis(rows, expected, axis=1))


def test_top_k_refuses_what_it_cannot_answer():
    a = path([0, 1, 0])
    with pytest.raises(ValueError, match="k is 4; expected an integer from 1 to 3"):
        top_k(a, a, [0], 4)
    with pytest.raises(ValueError, match="k is 0"):
        top_k(a, a, [0], 0)
    with pytest.raises(ValueError, match="the graph has spots 0 to 2"):
        top_k(a, a, [3], 1)
    with pytest.raises(ValueError, match=r"prepared with hops=2, iterations=3.*asks for hops=3"):
        top_k(a, niche_histograms(a, hops=2), [0], 1)


# Bad input


def test_a_graph_that_is_no_labelled_graph_is_refused():
    good = path([0, 1, 2])
    one_way = sparse.csr_matrix(([True], ([0], [2])), shape=(3, 3))
    with pytest.raises(ValueError, match=r"adjacency has shape \(3, 3\) and label 2 codes"):
        LabelledGraph(good.adjacency, np.array([0, 1]))
    with pytest.raises(ValueError, match=r"spot 1 has the negative label -1.*leave unlabelled spots out"):
        LabelledGraph(good.adjacency, np.array([0, -1, 2]))
    with pytest.raises(ValueError, match="not symmetric: of the edges 0 -> 2 and 2 -> 0 only one exists"):
        LabelledGraph(one_way, np.array([0, 1, 2]))
    with pytest.raises(ValueError, match="diagonal: 3 spots are their own neighbour, the first is 0"):
        LabelledGraph(sparse.eye(3, dtype=bool, format="csr"), np.array([0, 1, 2]))
    with pytest.raises(ValueError, match="the graph is empty"):
        LabelledGraph(sparse.csr_matrix((0, 0), dtype=bool), np.array([], np.int32))
    with pytest.raises(ValueError, match="float64"):
        LabelledGraph(good.adjacency, np.array([0.0, 1.0, 2.0]))
    with pytest.raises(ValueError, match="expected a SciPy sparse matrix"):
        LabelledGraph(np.zeros((3, 3)), np.array([0, 1, 2]))


def test_an_explicit_zero_is_no_edge_and_an_edge_stored_twice_is_one():
    stored_zeros = sparse.csr_matrix((np.zeros(2), ([0, 1], [1, 0])), shape=(2, 2))
    assert stored_zeros.nnz == 2
    assert LabelledGraph(stored_zeros, np.array([0, 1])).adjacency.nnz == 0
    # 0 -> 1 twice, with weights that cancel, and 1 -> 0 once.
    twice = sparse.csr_matrix((np.array([1, -1, 1]), np.array([1, 1, 0]), np.array([0, 2, 3])), shape=(2, 2))
    np.testing.assert_array_equal(LabelledGraph(twice, np.array([0, 1])).adjacency.toarray(), [[0, 1], [1, 0]])


@pytest.mark.parametrize("wrong", [{"hops": -1}, {"iterations": -1}, {"hops": 1.5}, {"iterations": True}])
def test_a_definition_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .* expected an integer >= 0"):
        rm_ideal(path([0, 1]), path([0, 1]), **wrong)


def test_a_section_without_labels_is_named_with_what_to_do():
    section = simulate_cortex("S1", seed=0, n_rows=12, n_cols=10, n_genes=60)
    bare = type(section)(**{**vars(section), "key": "S2", "layer": np.full(section.n_spots, "")})
    with pytest.raises(
        SectionError, match=r"Section S2 has no labels.*`tracebed section add S2 \.\.\. --labels TABLE`"
    ):
        labelled_graphs(section, bare)


def test_unlabelled_spots_are_holes_and_codes_are_shared():
    section = simulate_cortex("S1", seed=0, n_rows=12, n_cols=10, n_genes=60)
    layer = section.layer.copy()
    layer[::7] = ""
    holed = type(section)(**{**vars(section), "layer": layer})
    source, target, source_spots, target_spots = labelled_graphs(section, holed)
    np.testing.assert_array_equal(target_spots, np.flatnonzero(layer != ""))
    np.testing.assert_array_equal(target.label, source.label[np.searchsorted(source_spots, target_spots)])
    inside = section.adjacency[target_spots][:, target_spots]
    assert (target.adjacency != inside).nnz == 0
    assert rm_ideal(source, target).dense().shape == (source.n_spots, target.n_spots)
