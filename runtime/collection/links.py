"""Links between parts: which parts are connected, and which views they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from covis.runtime.collection.neighbours import (
    Descriptors,
    Indices,
    between,
    blocks,
    distance,
    sparse,
)
from covis.runtime.collection.parts import LinkKind

MOST_LINKS: Final = 3
"""Links of a part beyond which no loop is added to it."""
FEWEST_SHARED: Final = 3
"""Views that a link shares at least, where parts are large enough."""
LEVEL: Final = 0.9
"""Share of the links of kind `cut` whose distances count as usual: all but the loosest ones."""
REVISIT: Final = 1.5
"""Loops connect parts that are at most so many times as far as usual.

A camera does not return to exactly its former path. A loop too many does little harm: where its
views do not fit to each other, it is dropped when the parts are joined.
"""
_CANDIDATES: Final = 3  # views for each shared one, among which those that differ are chosen
_BREAK: Final = 2.0  # of the usual distance of consecutive parts: the path jumps there

Pair = tuple[int, int]


@dataclass(frozen=True)
class Boundary:
    """Similarity of the cores of a scene.

    Attributes:
        best: Similarity (m, P) of each view to the most similar view of each core; of its own core
            1.
        apart: (P, P) distance of two cores, from the mean similarity of their most similar views.
    """

    best: NDArray[np.float32]
    apart: NDArray[np.float64]


def boundary(descriptors: Descriptors, cores: Sequence[Indices], shared: int) -> Boundary:
    """Compare all cores of a scene, in bounded memory.

    Args:
        descriptors: (n, C) unit descriptors of the collection.
        cores: Views of each core; together m views.
        shared: Number of a core's most similar views that count, about those that a link shares.
    """
    views = np.concatenate(cores)
    starts = np.cumsum([0, *(len(core) for core in cores)])
    best = np.empty((len(views), len(cores)), np.float32)
    for start, stop in blocks(len(views), len(views)):
        similar = between(descriptors, views[start:stop], views)
        best[start:stop] = np.maximum.reduceat(similar, starts[:-1], axis=1)
    one_way = np.empty((len(cores), len(cores)))
    for number in range(len(cores)):
        rows = best[starts[number] : starts[number + 1]]
        count = min(shared, len(rows))
        one_way[number] = np.sort(rows, axis=0)[len(rows) - count :].mean(axis=0)
        best[starts[number] : starts[number + 1], number] = 1
    return Boundary(best, distance((one_way + one_way.T) / 2))


def spanning_tree(apart: NDArray[np.float64], *, ordered: bool) -> list[Pair]:
    """Return the pairs of parts that connect all of them over the smallest distances.

    Args:
        apart: (P, P) distances of the cores.
        ordered: Cores follow each other in time: consecutive ones are connected before all others,
            except where the distance between them is far above the usual one.
    """
    cost = apart + 1.0  # a distance of zero would be no edge
    if ordered:
        first = np.arange(len(apart) - 1)
        steps = apart[first, first + 1]
        usual = steps <= _BREAK * np.median(steps)
        cost[first[usual], first[usual] + 1] = 0.5
    upper = np.triu(cost, 1)
    tree = sparse().csgraph.minimum_spanning_tree(sparse().csr_array(upper)).tocoo()
    return sorted((int(min(p)), int(max(p))) for p in zip(*tree.coords, strict=True))


def loops(apart: NDArray[np.float64], tree: Sequence[Pair], *, ordered: bool) -> list[Pair]:
    """Return further pairs of parts that show the same place, the nearest first.

    Args:
        apart: (P, P) distances of the cores.
        tree: Pairs that are linked already.
        ordered: Cores follow each other in time. Of pairs beside each other along the path only the
            nearest is returned, so that a place that is passed twice gives about one loop.
    """
    if len(apart) < 3:
        return []
    level = np.quantile([apart[pair] for pair in tree], LEVEL)
    first, second = np.triu_indices(len(apart), 2 if ordered else 1)
    near = apart[first, second] <= REVISIT * level
    first, second = first[near], second[near]
    taken: list[Pair] = []
    linked = set(tree)
    blocked = np.zeros(apart.shape, bool)
    for index in np.lexsort((second, first, apart[first, second])):
        a, b = int(first[index]), int(second[index])
        if (a, b) in linked or blocked[a, b]:
            continue
        taken.append((a, b))
        if ordered:
            blocked[max(a - 1, 0) : a + 2, max(b - 1, 0) : b + 2] = True
    return taken


@dataclass
class Sharing:
    """Views that the parts of a scene receive from each other's cores.

    Attributes:
        descriptors: (n, C) unit descriptors of the collection.
        cores: Views of each core.
        boundary: Similarity of the cores.
        part_views: Largest number of views of a part.
        ordered: Cores follow each other in time.
        received: Views that each part has received.
        links: Pairs of parts that share views, with the kind of their link.
    """

    descriptors: Descriptors
    cores: Sequence[Indices]
    boundary: Boundary
    part_views: int
    ordered: bool
    received: list[list[Indices]]
    links: list[tuple[Pair, LinkKind]]

    def room(self, part: int) -> int:
        """Return the number of views that a part can still receive."""
        return self.part_views - len(self.cores[part]) - sum(map(len, self.received[part]))

    def connect(self, tree: Sequence[Pair], overlap: int) -> None:
        """Share views along a tree, from its root to its leaves.

        About half of the views of a link come from each of the two cores. A part with many links
        only gives; every part has room for all views of the link to its parent.
        """
        beside: dict[int, list[int]] = {part: [] for part in range(len(self.cores))}
        for a, b in tree:
            beside[a].append(b)
            beside[b].append(a)
        seen, waiting = {0}, [0]
        while waiting:
            parent = waiting.pop(0)
            for child in sorted(beside[parent]):
                if child not in seen:
                    seen.add(child)
                    waiting.append(child)
                    into_parent = min(overlap // 2, self.room(parent), len(self.cores[child]))
                    self._share(parent, child, into_parent, overlap - into_parent, "cut")

    def close(self, pairs: Sequence[Pair], overlap: int) -> None:
        """Share views along the loops for which both parts have room and few links."""
        half = overlap // 2
        for a, b in pairs:
            if any(sum(p in pair for pair, _ in self.links) >= MOST_LINKS for p in (a, b)):
                continue
            into_a = min(half, self.room(a))
            into_b = min(overlap - into_a, self.room(b))
            into_a = min(overlap - into_b, self.room(a))
            if min(into_a, into_b) >= 1 and into_a + into_b >= min(overlap, FEWEST_SHARED):
                self._share(a, b, into_a, into_b, "loop")

    def _share(self, a: int, b: int, into_a: int, into_b: int, kind: LinkKind) -> None:
        path = self.ordered and kind == "cut" and b == a + 1
        self.received[a].append(self._chosen(b, a, into_a, path))
        self.received[b].append(self._chosen(a, b, into_b, path))
        self.links.append(((min(a, b), max(a, b)), kind))

    def _chosen(self, giver: int, taker: int, count: int, path: bool) -> Indices:
        """Return the views of a core that another part receives.

        Along a path they are the nearest in time. Else candidates are the views that are most
        similar to the other core, and among these those are taken that differ most (farthest-point
        sampling, Gonzalez 1985, from the most similar one).
        """
        core = self.cores[giver]
        if path:
            return core[-count:] if giver < taker and count else core[:count]
        start = sum(len(c) for c in self.cores[:giver])
        similar = self.boundary.best[start : start + len(core), taker]
        candidates = core[np.argsort(-similar, kind="stable")[: _CANDIDATES * count]]
        return farthest_first(self.descriptors, candidates, count)


def farthest_first(descriptors: Descriptors, views: Indices, count: int) -> Indices:
    """Return `count` views that differ as much as possible, the first of `views` among them.

    Each view that is added is the farthest from all that were added, so that no view is far from a
    chosen one (Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985).
    """
    chosen: list[int] = [0] if count and len(views) else []
    nearest = np.full(len(views), np.inf)
    while chosen and len(chosen) < min(count, len(views)):
        apart = distance(between(descriptors, views, views[chosen[-1:]])[:, 0])
        nearest = np.minimum(nearest, apart)
        nearest[chosen] = -1  # copies have distance 0, too
        chosen.append(int(np.argmax(nearest)))
    return views[chosen]
