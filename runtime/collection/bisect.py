"""Divide the views of a scene into groups of bounded size, along the weakest similarities."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from covis.runtime.collection.neighbours import Indices, distance, sparse

_SCALE: Final = 7  # the neighbour whose distance is a view's scale (Zelnik-Manor and Perona 2004)
_SMALLEST_SIDE: Final = 0.25  # of the views, so that the depth of the recursion stays small
_MOST_SWAPS: Final = 32
_DENSE: Final = 64  # views up to which all eigenvectors are computed

Vector = NDArray[np.float64]


def affinity(graph: Any) -> Any:
    """Return the symmetric affinities (n, n) of views in (0, 1], as `scipy.sparse.csr_array`.

    exp(-d^2 / (s_i s_j)), with the distance d of two views and each view's distance s to its 7th
    nearest: the self-tuning scale of Zelnik-Manor and Perona ("Self-tuning spectral clustering",
    2004), by which affinities differ clearly even where all cosines of a model are near 1.

    Args:
        graph: Nearest views of each view, from `nearest`.
    """
    total = graph.shape[0]
    near = distance(graph.data.reshape(total, -1))
    if near.shape[1] == 0:
        return graph.astype(np.float64)
    scale = near[:, min(_SCALE, near.shape[1]) - 1]
    scale = np.maximum(scale, max(float(np.median(scale)) / 100, 1e-6))  # copies have none
    products = np.repeat(scale, near.shape[1]) * scale[graph.indices]
    weights = np.exp(-(near.ravel() ** 2) / products)
    # A weight of zero would be no edge.
    one_way = sparse().csr_array(
        (np.maximum(weights, 1e-12), graph.indices, graph.indptr), shape=graph.shape
    )
    return one_way.maximum(one_way.T).tocsr()


def groups_of(weights: Any, views: Indices, most: int) -> list[Indices]:
    """Divide views into as few groups of at most `most` views as their number allows.

    Recursive bisection: each time the views are ordered by the Fiedler vector of the normalised
    Laplacian (Shi and Malik, "Normalized cuts and image segmentation", 2000) and divided where the
    normalised cut is smallest, among the places that need no further group. Then single pairs of
    views change sides while that cuts less (Kernighan and Lin 1970).

    Args:
        weights: Affinities of all views of the collection, from `affinity`.
        views: (m,) indices of the views to divide.
        most: Largest size of a group.

    Returns:
        Ascending indices of each group; groups that were divided late are next to each other.
    """
    if len(views) <= most:
        return [np.sort(views)]
    inside = weights[views][:, views].tocsr()
    left = _left(inside, most)
    return [*groups_of(weights, views[left], most), *groups_of(weights, views[~left], most)]


def _left(weights: Any, most: int) -> NDArray[np.bool_]:
    """Return which views belong to the first side of the best division in two."""
    total = weights.shape[0]
    order = _order(weights)
    left = np.zeros(total, bool)
    left[order[: _place(weights, order, most)]] = True
    return _exchanged(weights, left)


def _place(weights: Any, order: Indices, most: int) -> int:
    """Return the size of the first side of the smallest normalised cut of ordered views."""
    total = len(order)
    place = np.empty(total, np.int64)
    place[order] = np.arange(total)
    edges = weights.tocoo()
    low, high = place[edges.coords[0]], place[edges.coords[1]]
    forward = low < high
    change = np.bincount(low[forward] + 1, edges.data[forward], total + 1)
    change -= np.bincount(high[forward] + 1, edges.data[forward], total + 1)
    cut = np.cumsum(change)
    volume = np.concatenate([[0.0], np.cumsum(_degrees(weights)[order])])
    sizes = np.arange(1, total)
    groups = -(-sizes // most) + -(-(total - sizes) // most)
    side = np.minimum(sizes, total - sizes)
    allowed = (groups == math.ceil(total / most)) & (side >= math.floor(_SMALLEST_SIDE * total))
    cost = cut[sizes] * (1 / volume[sizes] + 1 / (volume[-1] - volume[sizes]))
    # Of equal cuts, as of copies, the most even one.
    rank = np.lexsort((np.abs(total - 2 * sizes), np.round(cost, 9), ~allowed))
    return int(sizes[rank[0]])


def _degrees(weights: Any) -> Vector:
    """Return the sum of each view's affinities, above zero."""
    return np.maximum(np.asarray(weights.sum(axis=1), np.float64).ravel(), 1e-12)


def _order(weights: Any) -> Indices:
    """Return the views ordered so that similar ones are near: connected pieces one by one."""
    pieces, piece = sparse().csgraph.connected_components(weights, directed=False)
    if pieces == 1:
        return np.argsort(_fiedler(weights), kind="stable")
    numbers = sorted(range(pieces), key=lambda p: (-int((piece == p).sum()), p))
    members = [np.flatnonzero(piece == number) for number in numbers]
    return np.concatenate([m[_order(weights[m][:, m].tocsr())] for m in members])


def _fiedler(weights: Any) -> Vector:
    """Return the second eigenvector (n,) of the normalised Laplacian of a connected graph."""
    total = weights.shape[0]
    if total < 3:
        return np.arange(total, dtype=np.float64)
    scipy_sparse = sparse()
    root = 1 / np.sqrt(_degrees(weights))
    scaled = scipy_sparse.diags_array(root) @ weights @ scipy_sparse.diags_array(root)
    if total <= _DENSE:
        vector: Vector = np.linalg.eigh(scaled.toarray())[1][:, -2]
    else:
        # For views along a path, whose eigenvalues hardly differ, this is nearly the solution.
        narrow = scipy_sparse.csgraph.reverse_cuthill_mckee(weights, symmetric_mode=True)
        start = np.empty(total)
        start[narrow] = np.cos(np.pi * (np.arange(total) + 0.5) / total)
        vector = _second(scaled, 1 / root, start / root)
    found: Vector = vector * root * np.sign(vector[np.argmax(np.abs(vector))])
    return found


def _second(scaled: Any, first: Vector, start: Vector) -> Vector:
    """Return the second eigenvector of a matrix whose first one is known; `start` if none is found.

    The first eigenvector, of eigenvalue 1, is moved to eigenvalue -1, so that one is enough.
    """
    linalg = sparse().linalg
    unit = first / np.linalg.norm(first)
    operator = linalg.LinearOperator(
        scaled.shape, lambda x: scaled @ x - 2 * unit * (unit @ x), dtype=np.float64
    )
    start = start - unit * (unit @ start)
    try:
        vectors = linalg.eigsh(operator, k=1, which="LA", v0=start, tol=1e-4, maxiter=60, ncv=24)[1]
    except linalg.ArpackNoConvergence:
        return start
    found: Vector = vectors[:, 0]
    return found


def _exchanged(weights: Any, left: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Exchange pairs of views of the two sides while the cut becomes smaller."""
    left = left.copy()
    for _ in range(_MOST_SWAPS):
        side = np.where(left, 1.0, -1.0)
        gain = -side * (weights @ side)  # affinity to the other side less that to the own one
        a = int(np.argmax(np.where(left, gain, -np.inf)))
        b = int(np.argmax(np.where(left, -np.inf, gain)))
        if gain[a] + gain[b] - 2 * weights[a, b] <= 1e-9:
            break
        left[a], left[b] = False, True
    return left
