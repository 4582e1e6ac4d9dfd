"""Spectral collaborative indexing: co-occurrence, and paths through a tree of item clusters."""

from collections import defaultdict

import numpy as np
import pytest
from scipy import sparse

from recbole_lite.model.generative import spectral_indexing
from recbole_lite.model.generative.spectral_indexing import cooccurrence, spectral_paths
from recbole_lite.utils.errors import ConfigError

# K-means and the eigensolver speak up where they are given too little; here they never should.
pytestmark = pytest.mark.filterwarnings("error")


def affinity_of(blocks):
    """Affinity from ``[n, n]`` of the items 1..n."""
    affinity = sparse.csr_matrix(sparse.block_diag([np.zeros((1, 1)), blocks]))
    affinity.eliminate_zeros()
    return affinity


def complete(n, weight=1):
    return weight * (np.ones((n, n)) - np.eye(n))


def star(n):
    """The first item with each other."""
    weights = np.zeros((n, n))
    weights[0, 1:] = weights[1:, 0] = 1
    return weights


def random_affinity(n_items, seed, n_users=40, share=0.05):
    had = np.random.default_rng(seed).random((n_users, n_items - 1)) < share
    users, items = np.nonzero(had)
    return cooccurrence(users, items + 1, n_items)


def first_level(paths):
    """Clusters of the first level, as sets of items."""
    clusters = defaultdict(set)
    for item, path in enumerate(paths[1:], 1):
        clusters[path[0]].add(item)
    return {frozenset(cluster) for cluster in clusters.values()}


# -- co-occurrence ------------------------------------------------------------------------------


def test_cooccurrence_by_hand():
    """User 1: 1, 2, 1, 3; user 5: 2, 3, 3; user 2: 4; nobody had 5."""
    users = np.array([1, 5, 1, 1, 2, 5, 1, 5])
    items = np.array([1, 2, 2, 1, 4, 3, 3, 3])
    counts = cooccurrence(users, items, 6)
    expected = np.zeros((6, 6), dtype=int)
    expected[1, 2] = expected[2, 1] = 1
    expected[1, 3] = expected[3, 1] = 1
    expected[2, 3] = expected[3, 2] = 2
    assert sparse.issparse(counts)
    assert counts.format == "csr"
    assert np.array_equal(counts.toarray(), expected)
    assert counts.nnz == 6  # neither the diagonal nor another zero is stored


def test_cooccurrence_counts_users():
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 300, 4000), rng.integers(1, 12, 4000)
    had = [set(items[users == user]) for user in range(300)]
    counts = cooccurrence(users, items, 12).toarray()
    for a in range(12):
        for b in range(12):
            assert counts[a, b] == (a != b) * sum({a, b} <= own for own in had)
    assert counts.max() > 127  # more than an int8 holds


def test_cooccurrence_of_nothing():
    none = np.zeros(0, dtype=np.int64)
    counts = cooccurrence(none, none, 4)
    assert counts.shape == (4, 4)
    assert counts.nnz == 0


# -- the clusters -------------------------------------------------------------------------------


@pytest.mark.parametrize("n_clusters, seed", [(2, 0), (2, 1), (3, 2), (8, 3), (20, 4)])
def test_blocks_without_common_users_are_apart(n_clusters, seed):
    """Odd and even ids never co-occur."""
    rng = np.random.default_rng(seed)
    n, n_users = 60, 200
    users = np.repeat(np.arange(n_users), 5)
    items = 1 + 2 * rng.integers(0, n // 2, len(users)) + users % 2
    paths = spectral_paths(cooccurrence(users, items, n + 1), n_clusters, 10, seed)
    odd, even = ({path[0] for path in paths[start::2]} for start in (1, 2))
    assert odd.isdisjoint(even)
    assert 2 <= len(odd | even) <= n_clusters


@pytest.mark.parametrize("dense", [512, 0], ids=["LAPACK", "ARPACK"])
@pytest.mark.parametrize("seed", range(3))
def test_planted_clusters_are_found(monkeypatch, dense, seed):
    """Three groups of very different popularity, with some links between all items.

    The leading vectors of the affinities themselves would see the popular group alone.
    """
    monkeypatch.setattr(spectral_indexing, "_DENSE", dense)
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat([0, 1, 2], 40))
    popularity = np.array([1, 10, 1000])[group]
    same = group[:, None] == group
    strength = np.where(same, rng.random((120, 120)) < 0.5, 0.01)
    strength = np.triu(strength * np.sqrt(np.outer(popularity, popularity)), 1)
    paths = spectral_paths(affinity_of(strength + strength.T), 3, 60, seed)
    assert first_level(paths) == {frozenset(np.flatnonzero(group == g) + 1) for g in range(3)}
    # Numbered by their first items.
    assert list(dict.fromkeys(path[0] for path in paths[1:])) == [0, 1, 2]


def test_a_cluster_is_divided_by_its_own_affinities():
    """Two pairs of groups: the pairs part on the first level, their groups on the second."""
    weights = np.full((40, 40), 0.0)
    weights[:20, :20] = weights[20:, 20:] = 1
    for start in range(0, 40, 10):
        weights[start : start + 10, start : start + 10] = 9
    np.fill_diagonal(weights, 0)
    paths = spectral_paths(affinity_of(weights), 2, 10)
    assert first_level(paths) == {frozenset(range(1, 21)), frozenset(range(21, 41))}
    groups = {frozenset(path[:2] for path in paths[s : s + 10]) for s in range(1, 41, 10)}
    assert {len(group) for group in groups} == {1}
    assert len(groups) == 4
    assert [path[2] for path in paths[1:]] == [*range(10)] * 4


def test_more_components_than_clusters_are_dealt_out_whole():
    """15 pairs and a group of 20: one part for the group, three of 5 pairs."""
    pairs, group = [complete(2)] * 15, complete(20)
    paths = spectral_paths(affinity_of(sparse.block_diag([*pairs, group])), 4, 10)
    clusters = first_level(paths)
    assert sorted(map(len, clusters)) == [10, 10, 10, 20]
    assert frozenset(range(31, 51)) in clusters
    assert all(paths[item][0] == paths[item + 1][0] for item in range(1, 31, 2))


# -- the paths ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_clusters, largest", [(3, 1), (2, 9), (5, 3), (20, 100), (20, 10)])
def test_the_tree(seed, n_clusters, largest):
    """Distinct, prefix-free, and divided just where a cluster holds more than `largest`."""
    affinity = random_affinity(60 + seed, seed)
    paths = spectral_paths(affinity, n_clusters, largest, seed)
    assert len(paths) == affinity.shape[0]
    assert paths[0] == ()
    below = defaultdict(list)  # beginning of a path -> what follows it
    for path in paths[1:]:
        assert all(type(number) is int for number in path)
        for length in range(len(path)):
            below[path[:length]].append(path[length:])
    assert len(set(paths)) == len(paths)
    assert below.keys().isdisjoint(paths[1:])
    for rests in below.values():
        numbers = {rest[0] for rest in rests}
        assert numbers == set(range(len(numbers)))
        if len(rests) > largest:
            assert all(len(rest) > 1 for rest in rests)
            assert 2 <= len(numbers) <= n_clusters
        else:
            assert all(len(rest) == 1 for rest in rests)


def test_the_same_seed_gives_the_same_paths():
    affinity = random_affinity(700, 3)
    paths = spectral_paths(affinity, seed=5)
    np.random.seed(123)  # the global generator has no say
    assert spectral_paths(affinity, seed=5) == paths
    assert spectral_paths(affinity, seed=6) != paths


@pytest.mark.skipif(
    not spectral_indexing._TAKES_RNG, reason="SciPy before 1.17 keeps a state of its own"
)
@pytest.mark.parametrize("n_clusters", [2, 3, 5])
def test_the_same_seed_chooses_the_same_of_equally_good_vectors(n_clusters):
    """60 equal groups: many equal eigenvalues, among which ARPACK goes on by chance."""
    affinity = affinity_of(50 * np.kron(np.eye(60), complete(10)) + complete(600))
    paths = spectral_paths(affinity, n_clusters, 599)
    assert all(spectral_paths(affinity, n_clusters, 599) == paths for _ in range(3))


def test_what_the_eigensolver_does_not_finish_is_cut_by_number(monkeypatch):
    """A chain of items has eigenvalues so close that ARPACK could go on for minutes."""
    monkeypatch.setattr(spectral_indexing, "_MOST_RESTARTS", 1)
    order = np.random.default_rng(0).permutation(800)
    chain = np.diag(np.ones(799), 1)[order][:, order]
    paths = spectral_paths(affinity_of(chain + chain.T), 2, 400)
    assert paths[1:] == [(part, number) for part in (0, 1) for number in range(400)]


# -- items that tell nothing --------------------------------------------------------------------


def test_isolated_items_are_a_cluster_of_their_own():
    """Items 1 and 3 occur without others, 2 not at all."""
    rng = np.random.default_rng(0)
    items = np.concatenate([4 + rng.permutation(9)[:6] for _ in range(30)] + [[1, 3]])
    users = np.concatenate([np.repeat(np.arange(30), 6), [30, 31]])
    paths = spectral_paths(cooccurrence(users, items, 13), 4, 3)
    assert frozenset({1, 2, 3}) in first_level(paths)
    assert len(first_level(paths)) == 4  # its own cluster is one of them
    assert paths[1:4] == [(3, 0), (3, 1), (3, 2)]


def test_isolated_items_beside_two_clusters_at_most():
    """Only one is left for the others, which part on the next level."""
    paths = spectral_paths(affinity_of(sparse.block_diag([complete(3), complete(3), [[0]]])), 2, 3)
    assert first_level(paths) == {frozenset(range(1, 7)), frozenset({7})}
    assert paths[7] == (1, 0)
    assert {path[1] for path in paths[1:4]}.isdisjoint({path[1] for path in paths[4:7]})


@pytest.mark.parametrize("weights", [np.zeros((10, 10)), complete(10), complete(10, 7), star(10)])
def test_items_all_alike_are_cut_by_number(weights):
    affinity = affinity_of(weights)
    four = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 0), (3, 1)]
    assert spectral_paths(affinity, 20, 3) == [(), *four]
    # 10 items need four leaves of 3, but only two parts are allowed at a time.
    two = [(a, b, c) for a in (0, 1) for b, size in ((0, 3), (1, 2)) for c in range(size)]
    assert spectral_paths(affinity, 2, 3) == [(), *two]


def test_many_items_all_alike():
    """More than LAPACK gets: one user had them all."""
    paths = spectral_paths(affinity_of(complete(600)), 20, 100)
    assert paths[1:] == [(part, number) for part in range(6) for number in range(100)]


def test_few_items():
    assert spectral_paths(affinity_of(np.zeros((0, 0)))) == [()]
    assert spectral_paths(affinity_of(np.zeros((1, 1)))) == [(), (0,)]
    assert spectral_paths(affinity_of(np.zeros((1, 1))), 2, 1) == [(), (0,)]
    # As many as a cluster may hold are not divided.
    assert spectral_paths(affinity_of(complete(4)), 20, 4) == [(), (0,), (1,), (2,), (3,)]


@pytest.mark.parametrize("dense", [512, 0])
def test_fewer_items_than_clusters(monkeypatch, dense):
    """A chain of five: each item ends alone, under no more numbers than there are items."""
    monkeypatch.setattr(spectral_indexing, "_DENSE", dense)  # ARPACK would not give all vectors
    chain = np.diag([3, 1, 1, 3], 1)
    paths = spectral_paths(affinity_of(chain + chain.T), 20, 1)
    assert len(set(paths)) == 6
    assert all(path[-1] == 0 for path in paths[1:])
    assert max(map(max, paths[1:])) < 5


# -- bad values ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 0, -3, 2.5, "20", None])
def test_bad_number_of_clusters(value):
    with pytest.raises(ConfigError) as error:
        spectral_paths(affinity_of(complete(3)), value, 2)
    expected = f"lightlm_clusters must be a whole number of at least 2, found {value!r}"
    assert str(error.value) == expected


@pytest.mark.parametrize("value", [0, -1, 1.5, "100", None])
def test_bad_cluster_size(value):
    with pytest.raises(ConfigError) as error:
        spectral_paths(affinity_of(complete(3)), 2, value)
    expected = f"lightlm_cluster_size must be a whole number of at least 1, found {value!r}"
    assert str(error.value) == expected
