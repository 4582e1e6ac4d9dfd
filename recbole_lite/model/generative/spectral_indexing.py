"""Collaborative item indices: paths through a tree of clusters of items that share users.

LightLM (Mei & Zhang 2023, arXiv 2310.17488) calls them Spectral Collaborative Indexing; the idea
is collaborative indexing of Hua et al. 2023 (arXiv 2305.06569). The defaults, 20 clusters and at
most 100 items in one that is not divided, are those of LightLM's published indices ("c20_100").
"""

from __future__ import annotations

import inspect
import math

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from sklearn.cluster import KMeans

from recbole_lite.utils.errors import ConfigError

_DENSE = 512  # up to so many items, LAPACK on the full matrix is faster than ARPACK
_MOST_RESTARTS = 300  # of ARPACK; ml-1m and amazon-games take up to 25, a long chain thousands
# When ARPACK meets an invariant subspace (many equal eigenvalues), it goes on from a random
# vector. SciPy 1.17 and later draw it anew in each call unless they are given a generator;
# earlier ones take none, so that there a second call in the same process may differ.
_TAKES_RNG = "rng" in inspect.signature(eigsh).parameters


def cooccurrence(users: np.ndarray, items: np.ndarray, n_items: int) -> sparse.csr_matrix:
    """How many users had both of two items.

    Parameters
    ----------
    users, items : numpy.ndarray
        ``[n]`` ids of the training interactions. An item that a user had twice counts once.
    n_items : int
        Number of items, padding (item 0) included.

    Returns
    -------
    scipy.sparse.csr_matrix
        ``[n_items, n_items]``, symmetric, integer, with an empty diagonal.
    """
    shape = (users.max(initial=0) + 1, n_items)
    had = sparse.csr_matrix((np.ones(len(users), dtype=np.int32), (users, items)), shape=shape)
    had.data[:] = 1  # repeated pairs were added up
    counts = (had.T @ had).tocsr()
    return counts - sparse.diags(counts.diagonal(), dtype=counts.dtype)  # stores no zeros


def spectral_paths(
    affinity: sparse.csr_matrix, n_clusters: int = 20, largest: int = 100, seed: int = 0
) -> list[tuple[int, ...]]:
    """Path of each item through a tree of clusters.

    All items are one cluster at first. A cluster of more than `largest` items is divided by
    spectral clustering of the items' affinities within it, its parts likewise. Items without
    any affinity within a cluster make up one part. Items that the affinities do not tell apart
    are cut into equal parts in the order of their ids.

    Parameters
    ----------
    affinity : scipy.sparse.csr_matrix
        ``[n_items, n_items]``, symmetric, not negative, without stored zeros and with an
        empty diagonal, as :func:`cooccurrence` makes it; item 0 is padding.
    n_clusters : int
        Most parts of a cluster, the one of items without affinities included.
    largest : int
        Most items of a cluster that is not divided.
    seed : int
        Fixes every random choice.

    Returns
    -------
    list of tuple of int
        ``n_items`` paths; item 0 has the empty one. A path holds the numbers (from 0) of the
        clusters from the root on, below `n_clusters`, and the item's number within the last of
        them, below `largest`. No path is the beginning of another.

    Raises
    ------
    ConfigError
        `n_clusters` is not a whole number of at least 2, or `largest` of at least 1.
    """
    _check("lightlm_clusters", n_clusters, least=2)
    _check("lightlm_cluster_size", largest, least=1)
    paths: list[tuple[int, ...]] = [()] * affinity.shape[0]
    # A list instead of recursion: unbalanced clusters could make the tree deep.
    pending: list[tuple[tuple[int, ...], np.ndarray]] = [((), np.arange(1, len(paths)))]
    while pending:
        path, items = pending.pop()
        if len(items) <= largest:
            for number, item in enumerate(items):
                paths[item] = (*path, number)
            continue
        parts = _divide(affinity[items][:, items], n_clusters, seed)
        if len(parts) == 1:
            n_parts = min(n_clusters, math.ceil(len(items) / largest))
            parts = np.array_split(np.arange(len(items)), n_parts)
        pending += [((*path, number), items[part]) for number, part in enumerate(parts)]
    return paths


def _check(key: str, value: int, least: int) -> None:
    if not isinstance(value, (int, np.integer)) or value < least:
        raise ConfigError(f"{key} must be a whole number of at least {least}, found {value!r}")


def _divide(graph: sparse.csr_matrix, n_clusters: int, seed: int) -> list[np.ndarray]:
    """Parts of a graph's vertices, none empty; the isolated vertices come last."""
    _, component = connected_components(graph, directed=False)
    is_isolated = np.bincount(component)[component] == 1
    linked, isolated = np.flatnonzero(~is_isolated), np.flatnonzero(is_isolated)
    if len(linked) == 0:
        return [isolated]
    n_parts = n_clusters - (len(isolated) > 0)
    _, component = np.unique(component[linked], return_inverse=True)
    if component.max() >= n_parts:
        labels = _deal(component, n_parts)
    else:
        labels = _cluster(graph[linked][:, linked], n_parts, seed)
    parts = [linked[labels == label] for label in np.unique(labels)]
    parts.sort(key=lambda part: part[0])  # labels may hang on the sign of an eigenvector
    return [*parts, isolated] if len(isolated) else parts


def _deal(component: np.ndarray, n_parts: int) -> np.ndarray:
    """Whole components in parts of about equal size: more of them than parts leave no choice.

    Spectral clustering would split off a few components at a time, which makes long paths.
    """
    sizes = np.bincount(component)
    part_of = np.zeros_like(sizes)
    filled = np.zeros(n_parts, dtype=np.int64)
    for number in np.argsort(-sizes, kind="stable"):
        part_of[number] = filled.argmin()
        filled[part_of[number]] += sizes[number]
    return part_of[component]


def _cluster(graph: sparse.csr_matrix, n_clusters: int, seed: int) -> np.ndarray:
    """Labels ``[n]`` by spectral clustering (Ng, Jordan & Weiss, NIPS 2001)."""
    rows = _leading_vectors(graph, min(n_clusters, graph.shape[0]), seed)
    # A vertex that the vectors hardly reach stays near 0: its direction is rounding noise.
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-8)
    # K-means complains about fewer points than clusters; those apart by rounding only are one.
    points, labels = np.unique(rows.round(6), axis=0, return_inverse=True)
    if len(points) <= n_clusters:
        return labels
    return KMeans(n_clusters, n_init=4, random_state=seed).fit(rows).labels_


def _leading_vectors(graph: sparse.csr_matrix, k: int, seed: int) -> np.ndarray:
    """Eigenvectors ``[n, <= k]`` of D^-1/2 A D^-1/2 with its largest eigenvalues."""
    n = graph.shape[0]
    scale = sparse.diags(1 / np.sqrt(np.asarray(graph.sum(axis=1)).ravel()))
    normalised = scale @ graph @ scale
    if n <= max(_DENSE, 4 * k):
        # SciPy's eigh can compute the last k alone, but fails on many equal eigenvalues.
        values, vectors = np.linalg.eigh(normalised.toarray())
        values, vectors = values[-k:], vectors[:, -k:]
    else:
        values, vectors = _by_arpack(normalised, k, seed)
    # The diagonal is empty, so all eigenvalues add up to 0, and one of them is 1. What is not
    # above the mean of the others tells of no clusters: none is where all items are alike. Nor
    # does 0, which has no part in the matrix: the leaves of a star differ in such vectors.
    return vectors[:, (values > -1 / (n - 1) + 1e-6) & (abs(values) > 1e-6)]


def _by_arpack(matrix: sparse.csr_matrix, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` largest eigenvalues and their vectors; fewer or none where the gaps are tiny."""
    start = np.random.default_rng(seed).standard_normal(matrix.shape[0])
    options = {"rng": seed} if _TAKES_RNG else {}
    try:
        # Nearly exact, so that another number of threads or another BLAS gives the same clusters.
        return eigsh(matrix, k, which="LA", v0=start, tol=1e-10, maxiter=_MOST_RESTARTS, **options)
    except ArpackNoConvergence as error:
        return error.eigenvalues, error.eigenvectors
