"""The finished parts of a collection and how they lie: junctions of links, places of parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from covis.runtime.collection.join import Junction, relative_similarity
from covis.runtime.collection.parts import Cut, Link
from covis.runtime.collection.pose_edges import Edge
from covis.runtime.collection.pose_graph import Placement, edge_of, place
from covis.runtime.collection.stored_part import StoredParts
from covis.runtime.collection.work_folder import WorkFolder
from covis.runtime.pipeline import StageProgress

# Uncertainty of a junction that is not sound, as a multiple of what it states: such a junction only
# decides where a part hangs on nothing else.
_UNSOUND = 10.0


@dataclass(frozen=True)
class Joined:
    """The finished parts of a collection and how they lie.

    Attributes:
        numbers: Number of each finished part in the whole division.
        parts: The finished parts.
        cut: Division of the collection, of the finished parts alone, counted anew.
        junctions: Junction of each link of `cut`.
        used: (K,) True for a link that the placement took as an edge.
        placement: Place of each finished part. Its edges are the used links, in order.
        failed: Why a part has no result, by its number.
    """

    numbers: tuple[int, ...]
    parts: StoredParts
    cut: Cut
    junctions: tuple[Junction, ...]
    used: NDArray[np.bool_]
    placement: Placement
    failed: Mapping[int, str]


def join_parts(
    work: WorkFolder, cut: Cut, failed: Mapping[int, str], progress: StageProgress
) -> Joined:
    """Estimate the junction of each link between finished parts, and place the parts.

    Args:
        work: Folder of the collection.
        cut: Its division.
        failed: Why a part has no result, by its number.
        progress: Called with `joining`, the links done, and all.

    Raises:
        CovisError: A part's folder is damaged, or scipy is not installed.
    """
    numbers = [number for number in range(len(cut.parts)) if work.has(number)]
    parts = StoredParts([work.part(number) for number in numbers])
    finished = _of_parts(cut, numbers)
    junctions: list[Junction] = []
    progress("joining", 0, len(finished.links))
    for link in finished.links:
        first, second = (finished.parts[n].rows(link.views) for n in (link.first, link.second))
        found = relative_similarity(parts[link.first], parts[link.second], first, second)
        junctions.append(found)
        progress("joining", len(junctions), len(finished.links))
    edges = [_edge(*pair) for pair in zip(finished.links, junctions, strict=True)]
    placement = place(len(parts), [edge for edge in edges if edge is not None])
    used = np.array([edge is not None for edge in edges], bool)
    return Joined(tuple(numbers), parts, finished, tuple(junctions), used, placement, failed)


def _edge(link: Link, junction: Junction) -> Edge | None:
    """Return a link's edge of the pose graph; None for one that says nothing reliable.

    An unsound junction of a link that holds the parts of a scene together stays, with little
    weight: the views do look alike, and without it their parts would fall asunder.
    """
    edge = edge_of(link.first, link.second, junction, link.kind)
    if junction.sound:
        return edge
    if link.kind == "loop" or not np.isfinite(junction.sigma):
        return None
    return replace(edge, sigma=_UNSOUND * edge.sigma)


def _of_parts(cut: Cut, numbers: Sequence[int]) -> Cut:
    """Return the division of some of the parts, counted anew, with the links between them."""
    index = {number: i for i, number in enumerate(numbers)}
    links = tuple(
        replace(link, first=index[link.first], second=index[link.second])
        for link in cut.links
        if link.first in index and link.second in index
    )
    return Cut(tuple(cut.parts[n] for n in numbers), links, cut.scene[list(numbers)])
