"""Edges of a pose graph that agree with others around a cycle.

Seven numbers close around a cycle by chance only if some edge repeats the mistake of another, so
one closed cycle confirms all its edges. For each edge that is not confirmed the cheapest other way
between its nodes is tried; ways that did not close become dearer, confirmed edges are cheap.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.runtime.collection import sim3
from covis.runtime.collection.pose_edges import Measured, components
from covis.runtime.scene.geometry import Float64

# 99.9 % quantile of the chi-square distribution with seven degrees of freedom.
_CLOSED = 24.3
# Rounds over all edges without any success, each on other ways, after which no more are tried.
_IDLE = 3
_CONFIRMED = 0.05
_DEARER = 1.5
# Largest median of the squared distances of closed cycles. It is 6.3 where sigmas are right; where
# they are too small, the bound above cuts through the distribution, and the median nears it.
_HONEST = 10.0
# Factors of all sigmas that are tried: parts bend inside, which their junctions do not show.
_FACTORS = (1.0, 2.0, 4.0, 8.0)
# Share of the edges on cycles that must be confirmed. With a fifth of outliers on a chain with
# loops it is about a half: many good edges lie on no cycle without an outlier.
_ENOUGH = 1 / 3


def confirmed_edges(graph: Measured) -> tuple[NDArray[np.bool_], float]:
    """Return the edges (E,) that agree with a cycle, and the factor of sigma at which they do.

    The factor is the smallest at which a third of the edges that lie on a cycle are confirmed, by
    errors of the size that is expected; if there is none, the one that confirms most.
    """
    best, best_factor, most = np.zeros(len(graph.first), np.bool_), 1.0, 0.0
    for factor in _FACTORS:
        confirmed, on_cycle, distances = _confirm(graph, factor)
        share = confirmed.sum() / max(int(on_cycle.sum()), 1)
        if share > most:
            best, best_factor, most = confirmed, factor, float(share)
        honest = len(distances) > 0 and float(np.median(distances)) <= _HONEST * factor**2
        if (share >= _ENOUGH and honest) or not on_cycle.any():
            break
    return best, best_factor


def _confirm(
    graph: Measured, factor: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], list[float]]:
    """Return the confirmed edges, those that lie on any cycle, and distances of closed cycles."""
    count = len(graph.first)
    confirmed, settled = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    on_cycle = np.ones(count, np.bool_)
    cost = np.ones(count)
    distances: list[float] = []
    idle = 0
    while idle < _IDLE and not (confirmed | settled).all():
        so_far = confirmed.sum()
        for edge in range(count):
            if confirmed[edge] or settled[edge]:
                continue
            way = _cheapest_way(graph, cost, edge)
            if not way:
                on_cycle[edge], settled[edge] = False, True
                continue
            distance = _closing(graph, edge, way)
            if distance <= _CLOSED * factor**2:
                distances.append(distance)
                confirmed[[edge, *way]] = True
                cost[[edge, *way]] = _CONFIRMED
                continue
            doubtful = [other for other in way if not confirmed[other]]
            cost[[edge, *doubtful]] *= _DEARER
            settled[edge] = not doubtful  # it contradicts edges that confirm each other
        idle = 0 if confirmed.sum() > so_far else idle + 1
        if idle == _IDLE and _confirm_pairs(graph, factor, cost, confirmed):
            idle = 0
    return confirmed, on_cycle, distances


def _confirm_pairs(
    graph: Measured, factor: float, cost: Float64, confirmed: NDArray[np.bool_]
) -> bool:
    """Try all pairs of edges that join the same two groups of confirmed nodes, in place.

    Between such groups a right edge can be hidden behind wrong ones that are just as cheap.
    """
    group = components(graph, confirmed)
    a, b = group[graph.first], group[graph.second]
    sides = np.minimum(a, b) * len(group) + np.maximum(a, b)
    before = confirmed.sum()
    for side in np.unique(sides[~confirmed & (a != b)]):
        across = np.flatnonzero((sides == side) & ~confirmed)
        for edge, other in itertools.combinations(across.tolist(), 2):
            if confirmed[edge] and confirmed[other]:
                continue
            allowed = confirmed.copy()
            allowed[other] = True
            way = _cheapest_way(graph, cost, edge, allowed)
            if way and _closing(graph, edge, way) <= _CLOSED * factor**2:
                confirmed[[edge, *way]] = True
                cost[[edge, *way]] = _CONFIRMED
    return bool(confirmed.sum() > before)


def _cheapest_way(
    graph: Measured, cost: Float64, edge: int, allowed: NDArray[np.bool_] | None = None
) -> list[int]:
    """Return the edges from the first node of an edge to its second, without the edge itself."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import dijkstra

    nodes = len(graph.unit)
    usable = np.ones(len(cost), np.bool_) if allowed is None else allowed.copy()
    usable[edge] = False
    others = np.flatnonzero(usable)
    # Of several edges between two nodes the cheapest counts: a later entry would be added.
    low = np.minimum(graph.first[others], graph.second[others])
    high = np.maximum(graph.first[others], graph.second[others])
    order = np.lexsort((cost[others], high, low))
    pairs = (low * nodes + high)[order]
    kept = others[order[np.unique(pairs, return_index=True)[1]]]
    matrix = csr_array((cost[kept], (graph.first[kept], graph.second[kept])), shape=(nodes, nodes))
    start, end = int(graph.first[edge]), int(graph.second[edge])
    before: Any = dijkstra(matrix, directed=False, indices=start, return_predecessors=True)[1]
    by_pair = {frozenset((int(graph.first[k]), int(graph.second[k]))): int(k) for k in kept}
    way: list[int] = []
    while end != start:
        previous = int(before[end])
        if previous < 0:
            return []
        way.append(by_pair[frozenset((previous, end))])
        end = previous
    return way[::-1]


def _closing(graph: Measured, edge: int, way: list[int]) -> float:
    """Return the squared Mahalanobis distance of the cycle's error from zero.

    The errors of the edges of the way are carried to the unit ball of the closing edge, where a
    small rotation far away is a large shift.
    """
    covariance = graph.sigma[edge] ** 2 * np.eye(7)
    rest = np.eye(4)  # from the second node to the node that the way, walked backwards, has reached
    node = int(graph.second[edge])
    reached = []  # the second node of each edge, where its errors are
    for other in way[::-1]:
        forward = int(graph.second[other]) == node
        before = rest
        rest = (graph.motion if forward else graph.back)[other] @ rest
        reached.append(before if forward else rest)
        node = int(graph.first[other] if forward else graph.second[other])
    order = way[::-1]
    carried = sim3.invert(np.stack(reached) @ graph.frame[edge]) @ graph.frame[order]
    moved = sim3.adjoint(carried) * graph.sigma[order][:, None, None]
    covariance = covariance + np.einsum("kij,klj->il", moved, moved)
    found = sim3.invert(graph.motion[edge] @ graph.frame[edge]) @ rest @ graph.frame[edge]
    error = sim3.logarithm(found[None])[0]
    return float(error @ np.linalg.solve(covariance, error))
