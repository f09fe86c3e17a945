"""Parts of a collection, the links between them, and the separate scenes that they form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LinkKind = Literal["cut", "loop"]


@dataclass(frozen=True)
class Part:
    """Views of one run.

    Attributes:
        views: (m,) int64 indices into the collection, in the order of the run; the first is the
            reference view.
        core: (m,) False where a view is shared from another part, whose core it belongs to. Every
            view of the collection is in the core of exactly one part.
    """

    views: NDArray[np.int64]
    core: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.views)

    def rows(self, views: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the places (s,) of some of the part's views in the order of its run.

        Args:
            views: (s,) indices into the collection; all of them are views of this part.
        """
        order = np.argsort(self.views)
        found: NDArray[np.int64] = order[np.searchsorted(self.views, views, sorter=order)]
        return found


@dataclass(frozen=True)
class Link:
    """Two parts with common views, from which the similarity transform between them follows.

    Attributes:
        first: Number of a part.
        second: Number of another part, above `first`.
        views: (s,) int64 indices, ascending, of all views of the collection that both contain.
        kind: `cut` for the links that hold the parts of a scene together: neighbours in order, or
            a spanning tree. `loop` for every further link, which closes a cycle.
    """

    first: int
    second: int
    views: NDArray[np.int64]
    kind: LinkKind


@dataclass(frozen=True)
class Cut:
    """Division of a collection.

    Attributes:
        parts: The parts, those of a scene in a row.
        links: Links between parts of the same scene. Those of kind `cut` alone connect all parts
            of a scene.
        scene: (P,) int64 number of the scene of each part; scene 0 has the most views.
    """

    parts: tuple[Part, ...]
    links: tuple[Link, ...]
    scene: NDArray[np.int64]
