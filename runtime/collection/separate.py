"""Separate scenes of a collection: groups of views that nothing similar connects."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from covis.runtime.collection.neighbours import (
    Descriptors,
    Indices,
    blocks,
    distance,
    sparse,
)

Distances = NDArray[np.float64]

MUTUAL: Final = 5
"""Two views are connected if each is among so many most similar views of the other.

A smaller number leaves a scene in pieces, which are joined afterwards; a larger one connects small
scenes, whose views find too few neighbours of their own.
"""
STEPS: Final = 2.0
"""Connected views are apart by at most so many steps; a step is the distance to the nearest view.

Two steps: as if one photo between them were missing.
"""
INSIDE: Final = 0.9
"""Groups are joined where they are as near as this share of their own views are to their nearest
view (all but the loosest ones, which say nothing about the rest), in the geometric mean of both.
"""
LOOSE: Final = 1.5
"""Factor on that distance: the nearest view is the nearer one of those on both sides, and places of
photos are irregular.
"""
FEW: Final = 3
"""A group of fewer views has no distances of its own, and is joined from `STEPS` times as far: it
is of little use as a scene.
"""
_COPY: Final = 0.1  # of a typical distance: nearer views are copies, bursts, or a camera at rest
_TYPICAL: Final = 0.1  # quantile of all distances, which is inside scenes if there are up to ten
_SAMPLE: Final = 1_000
_ROUNDS: Final = 12  # each at least halves the groups that can be joined


def separate(descriptors: Descriptors, graph: Any, *, ordered: bool) -> list[Indices]:
    """Divide a collection into scenes.

    The level of similarity that means "the same place" differs between models (cosines of one lie
    above 0.97 for any two photos, those of another between 0.3 and 1), so all thresholds are ratios
    of distances inside the collection. Views are first connected with mutual nearest neighbours.
    The groups that result are joined, the nearest ones first, where they are as near to each other
    as the views inside of them are.

    A scene that is wrongly joined is found later, when its parts do not fit to each other; one that
    is wrongly divided is not. In doubt, groups are therefore joined.

    Args:
        descriptors: (n, C) unit descriptors.
        graph: Nearest views of each view, from `nearest`.
        ordered: Views follow each other in time, so that successive ones are connected, too, where
            they are near.

    Returns:
        Ascending indices of the views of each scene; the largest scene first, of equal ones that
        with the first view.

    Raises:
        CovisError: SciPy is not installed (exit code 3).
    """
    total = len(descriptors)
    if total == 1:
        return [np.zeros(1, np.int64)]
    copy = _COPY * _typical_distance(descriptors)
    steps = _steps(descriptors, graph, copy)
    group = _connected(total, _edges(descriptors, graph, steps, copy, ordered))
    for _ in range(_ROUNDS):
        joined = _joined(descriptors, group, steps) if _count(group) > 1 else None
        if joined is None:
            break
        group = joined
    scenes = [np.flatnonzero(group == number) for number in range(_count(group))]
    return sorted(scenes, key=lambda views: (-len(views), int(views[0])))


def _count(group: Indices) -> int:
    """Return the number of groups, which are numbered from 0."""
    return len(np.bincount(group))


def _typical_distance(descriptors: Descriptors) -> float:
    """Return the distance of two views that show about the same."""
    total = len(descriptors)
    sample = descriptors[np.unique(np.linspace(0, total - 1, _SAMPLE).astype(np.int64))]
    pairs = distance((sample @ sample.T)[np.triu_indices(len(sample), 1)])
    return float(np.quantile(pairs, _TYPICAL))


def _steps(descriptors: Descriptors, graph: Any, copy: float) -> Distances:
    """Return each view's distance to its nearest view that is no copy; 0 where all are copies."""
    total = len(descriptors)
    near = distance(graph.data.reshape(total, -1))
    steps: Distances = np.where(near > copy, near, np.inf).min(axis=1)
    missing = np.flatnonzero(np.isinf(steps))
    for start, stop in blocks(len(missing), total):
        rows = missing[start:stop]
        all_views = distance(descriptors[rows] @ descriptors.T)
        steps[rows] = np.where(all_views > copy, all_views, np.inf).min(axis=1)
    return np.where(np.isinf(steps), 0.0, steps)


def _edges(
    descriptors: Descriptors, graph: Any, steps: Distances, copy: float, ordered: bool
) -> tuple[Indices, Indices]:
    """Return the pairs of views that are connected from the beginning."""
    total = len(descriptors)
    k = graph.indices.size // total
    first = np.repeat(np.arange(total), k)
    second = graph.indices.astype(np.int64)
    apart = distance(graph.data)
    close = np.tile(np.arange(k) < MUTUAL, total)
    forward, backward = first * total + second, second * total + first
    mutual = close & np.isin(backward, forward[close])
    if ordered:
        after = np.arange(total - 1)
        first, second = np.concatenate([first, after]), np.concatenate([second, after + 1])
        following = np.einsum("nc,nc->n", descriptors[:-1], descriptors[1:])
        apart = np.concatenate([apart, distance(following)])
        mutual = np.concatenate([mutual, np.ones(total - 1, bool)])
    step = np.maximum(np.minimum(steps[first], steps[second]), np.median(steps))
    kept = (mutual & (apart <= STEPS * step)) | (apart <= copy)
    return first[kept], second[kept]


def _connected(total: int, edges: tuple[Indices, Indices]) -> Indices:
    """Return the number of the connected group of each of `total` nodes."""
    scipy_sparse = sparse()
    ones = np.ones(len(edges[0]), bool)
    matrix = scipy_sparse.coo_array((ones, edges), shape=(total, total))
    numbers: Indices = scipy_sparse.csgraph.connected_components(matrix, directed=False)[1]
    return numbers.astype(np.int64)


def _joined(descriptors: Descriptors, group: Indices, steps: Distances) -> Indices | None:
    """Join every group with its nearest one where both are near enough; None if no two are."""
    groups = _count(group)
    nearest, apart = _nearest_groups(descriptors, group)
    sizes = np.bincount(group)
    level = np.zeros(groups)
    for number in np.flatnonzero(sizes >= FEW):
        level[number] = np.quantile(steps[group == number], INSIDE)
    everywhere = np.quantile(steps, INSIDE)
    this = np.arange(groups)
    one, other = level[this], level[nearest]
    allowed = np.where(np.minimum(one, other) > 0, np.sqrt(one * other), np.maximum(one, other))
    allowed[allowed == 0] = everywhere
    few = np.minimum(sizes[this], sizes[nearest]) < FEW
    join = apart <= np.where(few, STEPS, LOOSE) * allowed
    if not join.any():
        return None
    return _connected(groups, (this[join], nearest[join]))[group]


def _nearest_groups(descriptors: Descriptors, group: Indices) -> tuple[Indices, Distances]:
    """Return the nearest other group of each group, and the distance of their nearest views."""
    groups = _count(group)
    order = np.argsort(group, kind="stable")
    sorted_descriptors, sorted_group = descriptors[order], group[order]
    nearest = np.zeros(groups, np.int64)
    best = np.full(groups, -np.inf)
    for start, stop in blocks(len(order), len(order)):
        similar = sorted_descriptors[start:stop] @ sorted_descriptors.T
        rows = sorted_group[start:stop]
        similar[rows[:, None] == sorted_group] = -np.inf
        column = similar.argmax(axis=1)
        value = similar[np.arange(len(rows)), column]
        by_group = np.lexsort((-value, rows))  # the best row of each group comes first
        numbers, firsts = np.unique(rows[by_group], return_index=True)
        best_rows = by_group[firsts]
        better = value[best_rows] > best[numbers]
        best[numbers[better]] = value[best_rows[better]]
        nearest[numbers[better]] = sorted_group[column[best_rows[better]]]
    return nearest, distance(best)
