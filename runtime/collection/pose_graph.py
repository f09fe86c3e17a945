"""One place for each part of a collection, from the similarities between parts: a pose graph.

Edges that agree around cycles (`cycles`) build a spanning tree, which gives the start. Then all
nodes move together so that the weighted squares of the edges' logarithms in Sim(3) become least
(Strasdat, "Local accuracy and global consistency for efficient visual SLAM", 2012), with the
weights of Geman and McClure, widened first and narrowed in steps (Yang et al., "Graduated
non-convexity for robust spatial perception", RA-L 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import environment_error
from covis.runtime.collection import sim3
from covis.runtime.collection.cycles import confirmed_edges
from covis.runtime.collection.join import Junction
from covis.runtime.collection.pose_edges import (
    Edge,
    Kind,
    Measured,
    Residuals,
    components,
    measured,
    residuals,
)
from covis.runtime.collection.pose_solver import solve
from covis.runtime.scene.geometry import Float64
from covis.runtime.scene.similarity import Similarity

# Root mean square error, in sigmas, beyond which an edge is an outlier; with seven numbers an
# inlier of the stated sigma exceeds twice less than once in 10^4, and sigmas are estimates.
_FAR = 4.0
# Widths of the weights in sigmas, from nearly all edges alike to outliers without weight.
_WIDTHS = (30.0, 15.0, 8.0, 4.0)


@dataclass(frozen=True)
class Placement:
    """Places of P parts, with the errors that E edges keep.

    Attributes:
        similarities: P similarities from the world of the part to that of its component, which is
            the world of the component's lowest part.
        component: (P,) number of the component, counted by its lowest part. Parts without any chain
            of edges between them have no common world.
        residuals: Errors of all edges in these places.
        start: Errors of all edges in the places of the spanning tree, before the optimisation: of a
            loop closure, the drift that it has to close. 0 for the edges of the tree, which
            consists of cut edges wherever they are confirmed.
        dropped: (E,) True for an outlier, which had no part in the result.
        bridges: (E,) True for an edge without which its component falls apart: nothing confirms it.
        factor: Factor by which errors of edges that agree exceed their sigmas, at least 1.
    """

    similarities: tuple[Similarity, ...]
    component: NDArray[np.int64]
    residuals: Residuals
    start: Residuals
    dropped: NDArray[np.bool_]
    bridges: NDArray[np.bool_]
    factor: float


def edge_of(first: int, second: int, junction: Junction, kind: Kind) -> Edge:
    """Return the edge of a junction of two parts."""
    return Edge(
        first, second, junction.similarity, junction.sigma, junction.centre, junction.radius, kind
    )


def place(parts: int, edges: Sequence[Edge]) -> Placement:
    """Place all parts so that the edges agree as well as they can, outliers left out.

    Where outliers cannot be told from the rest, as on a chain without loops, every edge is taken as
    it is, and stands in `bridges`.

    Args:
        parts: Number of parts.
        edges: Similarities between them, in any order; several between two parts are allowed.

    Raises:
        CovisError: scipy is not installed.
    """
    try:
        import scipy.sparse.csgraph  # noqa: F401
    except ImportError as error:
        raise environment_error(
            "joining the parts of a collection needs scipy",
            hint="pip install 'covis[collection]'",
        ) from error
    if not edges:
        nothing = residuals(np.zeros((0, 7)))
        none = np.zeros(0, np.bool_)
        same = tuple(Similarity.identity() for _ in range(parts))
        return Placement(same, np.arange(parts), nothing, nothing, none, none, 1.0)
    graph = measured(parts, edges)
    confirmed, factor = confirmed_edges(graph)
    tree = _tree(graph, confirmed)
    component = components(graph, tree)
    start = _along(graph, tree, component)
    places, kept, factor = _optimised(graph, start, confirmed | tree, factor, component)
    bridges = np.zeros(len(edges), np.bool_)
    for edge in np.flatnonzero(_tree(graph, kept, within=kept)):
        without = kept.copy()
        without[edge] = False
        bridges[edge] = np.max(components(graph, without)) > np.max(component)
    before = residuals(graph.errors(start))
    after = residuals(graph.errors(places))
    worlds = places @ sim3.invert(graph.unit)
    lowest = np.array([np.flatnonzero(component == c)[0] for c in component])
    worlds = sim3.invert(worlds[lowest]) @ worlds
    return Placement(
        tuple(
            Similarity.identity() if node == lowest[node] else sim3.similarity(world)
            for node, world in enumerate(worlds)
        ),
        component, after, before, ~kept, bridges, factor,
    )  # fmt: skip


def _optimised(
    graph: Measured,
    start: Float64,
    trusted: NDArray[np.bool_],
    factor: float,
    component: NDArray[np.int64],
) -> tuple[Float64, NDArray[np.bool_], float]:
    """Return the places, the edges (E,) that are no outliers, and the factor of sigma."""
    # The start has drifted along the tree: the confirmed edges alone first bring it into reach.
    places = solve(graph, start, trusted.astype(np.float64), component)
    for width in _WIDTHS:
        sizes = graph.sizes(graph.errors(places))
        # Edges that agree show how large the errors really are.
        near = sizes[sizes < width * factor]
        factor = max(factor, float(np.median(near))) if len(near) else factor
        squares = (sizes / factor) ** 2
        places = solve(graph, places, (width**2 / (width**2 + squares)) ** 2, component)
    kept = graph.sizes(graph.errors(places)) / factor <= _FAR
    # An outlier that is the only connection stays: the best of them by the error.
    sizes = graph.sizes(graph.errors(places))
    for edge in np.argsort(sizes, kind="stable"):
        if kept[edge]:
            continue
        parts = components(graph, kept)
        kept[edge] = parts[graph.first[edge]] != parts[graph.second[edge]]
    return solve(graph, places, kept.astype(np.float64), component), kept, factor


def _tree(
    graph: Measured,
    confirmed: NDArray[np.bool_],
    within: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Return the edges (E,) of a spanning forest: confirmed ones, cut before loop, small sigma."""
    rank = np.lexsort((graph.sigma, graph.loop, ~confirmed))
    chosen = np.zeros(len(rank), np.bool_)
    root = np.arange(len(graph.unit))
    for edge in rank:  # Kruskal's algorithm: the ranks are the lengths
        a, b = root[graph.first[edge]], root[graph.second[edge]]
        if a != b and (within is None or within[edge]):
            chosen[edge] = True
            root[root == max(a, b)] = min(a, b)
    return chosen


def _along(graph: Measured, tree: NDArray[np.bool_], component: NDArray[np.int64]) -> Float64:
    """Return the places (P, 4, 4) that the edges of a spanning forest give."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order

    nodes = len(graph.unit)
    edges = np.flatnonzero(tree)
    a, b = graph.first[edges], graph.second[edges]
    links = csr_array((np.ones(len(edges)), (a, b)), shape=(nodes, nodes))
    motions = {(int(i), int(j)): graph.motion[e] for i, j, e in zip(a, b, edges, strict=True)}
    places = np.tile(np.eye(4), (nodes, 1, 1))
    for root in np.unique(component, return_index=True)[1]:
        order, before = breadth_first_order(links, int(root), directed=False)
        for node in order[1:]:
            parent = int(before[node])
            ahead = motions.get((parent, int(node)))
            if ahead is None:
                ahead = sim3.invert(motions[int(node), parent])
            places[node] = places[parent] @ ahead
    return places
