"""Cut a collection into overlapping parts, each small enough for one run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from covis.engines.errors import user_error
from covis.runtime.collection import links
from covis.runtime.collection.bisect import affinity, groups_of
from covis.runtime.collection.neighbours import Descriptors, Indices, between, nearest
from covis.runtime.collection.options import FEWEST_VIEWS
from covis.runtime.collection.parts import Cut, Link, LinkKind, Part
from covis.runtime.collection.separate import separate

MOST_SHARED: Final = 12
_SHARE: Final = 8  # a link shares an eighth of a part


def shared_views(part_views: int, overlap: int | None) -> int:
    """Return the number of views that a link shares.

    Args:
        part_views: Largest number of views of a part.
        overlap: Number of shared views that is asked for; None for the default.

    Raises:
        CovisError: One of them is out of range.
    """
    if part_views < FEWEST_VIEWS:
        raise user_error(
            f"{part_views} is below {FEWEST_VIEWS}",
            where="--part-views",
            hint="a part needs views of its own and views that it shares",
        )
    largest = part_views // 2
    if overlap is None:
        return min(max(part_views // _SHARE, links.FEWEST_SHARED), MOST_SHARED, largest)
    if not 2 <= overlap <= largest:
        raise user_error(
            f"{overlap} is not in [2, {largest}]",
            where="--overlap",
            hint="a link shares at least 2 views, and at most half of those of a part",
        )
    return overlap


def cut(
    descriptors: Descriptors, part_views: int, *, ordered: bool, overlap: int | None = None
) -> Cut:
    """Divide a collection into scenes, and each scene into overlapping parts.

    Views that nothing similar connects become scenes of their own; see `separate`. A scene of more
    than `part_views` views is divided into cores: in order, runs of consecutive views of equal
    length; without order, groups of similar views (`groups_of`). Links give the parts common views:
    between consecutive parts, or else along a spanning tree over the most similar cores, and then
    loops between further parts that show the same place. The same input gives the same cut.

    Args:
        descriptors: (n, C) float32 unit descriptors, from `describe`.
        part_views: Largest number of views of a part, shared ones included; 4 or more.
        ordered: The views follow each other in time, as in a video. The views of a part are then in
            that order, and the reference view is the earliest, which in most parts is shared with
            the part before. Without order, the reference view is the one most similar to all
            others of the part, and the others follow in the order of the collection.
        overlap: Number of views that a link shares, about half from each of the two cores, and at
            most half of a part. By default an eighth of `part_views`, between 3 and 12. Where
            cores are smaller than that, links share fewer.

    Raises:
        CovisError: `part_views` or `overlap` is out of range (exit code 2), or SciPy is not
            installed (3).
    """
    shared = shared_views(part_views, overlap)
    if not len(descriptors):
        raise user_error("there are no views", where="photos", hint="give photos")
    descriptors = np.ascontiguousarray(descriptors, np.float32)
    if len(descriptors) == 1:
        return Cut((Part(np.zeros(1, np.int64), np.ones(1, bool)),), (), np.zeros(1, np.int64))
    graph = nearest(descriptors)
    weights = affinity(graph)
    # What is left beside a core is for the link to the part before and half a link more, a loop.
    most = part_views - min(shared + (shared + 1) // 2, part_views - part_views // 2)
    parts: list[Part] = []
    found: list[Link] = []
    scenes: list[int] = []
    for number, views in enumerate(separate(descriptors, graph, ordered=ordered)):
        if len(views) <= part_views:
            cores = [views]
        elif ordered:
            cores = _runs(views, most)
        else:
            cores = groups_of(weights, views, most)
        of_scene, of_links = _linked(descriptors, cores, part_views, shared, ordered, len(parts))
        parts += of_scene
        found += of_links
        scenes += [number] * len(of_scene)
    return Cut(tuple(parts), tuple(found), np.array(scenes, np.int64))


def _runs(views: Indices, most: int) -> list[Indices]:
    """Divide ordered views into runs of equal length, up to one view."""
    return np.array_split(views, math.ceil(len(views) / most))


def _linked(
    descriptors: Descriptors,
    cores: Sequence[Indices],
    part_views: int,
    overlap: int,
    ordered: bool,
    before: int,
) -> tuple[list[Part], list[Link]]:
    """Return the parts and links of one scene; `before` parts belong to other scenes."""
    received: list[list[Indices]] = [[] for _ in cores]
    pairs: list[tuple[links.Pair, LinkKind]] = []
    if len(cores) > 1:
        compared = links.boundary(descriptors, cores, max(overlap // 2, 1))
        sharing = links.Sharing(descriptors, cores, compared, part_views, ordered, received, pairs)
        tree = links.spanning_tree(compared.apart, ordered=ordered)
        sharing.connect(tree, overlap)
        sharing.close(links.loops(compared.apart, tree, ordered=ordered), overlap)
    parts = [
        _part(descriptors, core, np.concatenate([core[:0], *others]), ordered)
        for core, others in zip(cores, received, strict=True)
    ]
    found = [
        Link(before + a, before + b, np.intersect1d(parts[a].views, parts[b].views), kind)
        for (a, b), kind in pairs
    ]
    return parts, found


def _part(descriptors: Descriptors, core: Indices, shared: Indices, ordered: bool) -> Part:
    """Return a part with its views in the order of the run."""
    views = np.sort(np.concatenate([core, shared]))
    if not ordered:
        similar = between(descriptors, views, views).sum(axis=1, dtype=np.float64)
        # Sums that differ by rounding alone, as of copies, are equal: the first view is taken.
        medoid = int(np.argmax(np.round(similar / len(views), 6)))
        views = np.concatenate([views[medoid : medoid + 1], np.delete(views, medoid)])
    return Part(views, np.isin(views, core))
