"""Options of a collection that is larger than one run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from covis.engines.errors import environment_error, user_error
from covis.engines.options import MOST_VIEWS_AT_ONCE

if TYPE_CHECKING:
    from covis.runtime.run_memory import RunMemory

FEWEST_VIEWS: Final = 4
"""Smallest size of a part: two views of its own, and two shared ones."""

# Memory of the process beside the stages and their results: interpreter, libraries, decoded photos.
_BASE_BYTES = 2**29


@dataclass(frozen=True)
class CollectionOptions:
    """Parts that a collection of photos is cut into.

    Parts share views, are run one by one, and are joined into one scene by what they share.

    Attributes:
        part_views: Largest number of views of one run. A collection of more photos is cut into
            overlapping parts of at most so many views.
        memory: Memory in GiB that the run may take, of the GPU or, with `cpu`, of the machine. The
            number of views of a part follows from it, as `covis estimate` computes it.
        overlap: Number of views that two neighbouring parts share: 2 to half of a part.
        ordered: The photos follow the path of the camera, as frames of a video do: parts are cut in
            their order, and places that are visited again are found by similarity.
        parts: Folder for finished parts, where an interrupted run goes on; removed at the end.
        keep_parts: Keep that folder at the end.
        restart: Start anew where that folder has parts of another run.
    """

    part_views: int | None = None
    memory: float | None = None
    overlap: int | None = None
    ordered: bool | None = None
    parts: Path | None = None
    keep_parts: bool = False
    restart: bool = False

    def __post_init__(self) -> None:
        views = self.part_views
        if views is not None and not FEWEST_VIEWS <= views <= MOST_VIEWS_AT_ONCE:
            raise user_error(
                f"{views} is not in [{FEWEST_VIEWS}, {MOST_VIEWS_AT_ONCE:,}]",
                where="--part-views",
                hint="give the number of views that one run can take, such as 50",
            )
        if self.memory is not None and not (math.isfinite(self.memory) and 0 < self.memory < 1e6):
            raise user_error(
                f"{self.memory:g} GiB is no size of a memory", where="--memory", hint="e.g. 24"
            )
        if views is not None and self.memory is not None:
            raise user_error(
                "both say how large a part is",
                where="--part-views and --memory",
                hint="give one of them",
            )
        if not self.requested and (self.overlap is not None or self.ordered or self.restart):
            raise user_error(
                "concern a collection that is cut into parts",
                where="--overlap, --ordered and --restart",
                hint="add --part-views or --memory",
            )

    @property
    def requested(self) -> bool:
        """True if a collection that is too large for one run is to be cut."""
        return self.part_views is not None or self.memory is not None


def part_views_for(memory: RunMemory, gib: float) -> int:
    """Return the largest number of views of a part whose run fits into a memory.

    Args:
        memory: Memory of the runs by their views.
        gib: Memory in GiB: of the GPU, or of the machine where a CPU runs the stages; then half a
            GiB of it is left to the rest of the process.

    Raises:
        CovisError: Not even the smallest part fits.
    """
    budget = int(gib * 2**30) - (0 if memory.on_gpu else _BASE_BYTES)
    limit = memory.limit(budget)
    if limit is None:
        return MOST_VIEWS_AT_ONCE
    if limit.views < FEWEST_VIEWS:
        raise environment_error(
            f"{gib:g} GiB are too little for parts of {FEWEST_VIEWS} views",
            where="--memory",
            hint="give more, or a smaller --chunk",
        )
    return limit.views
