"""One scene from placed parts: each view once, its maps of pixels in files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.system.atomic import atomic_folder
from covis.runtime.collection.parts import Cut
from covis.runtime.collection.stored_part import StoredPart
from covis.runtime.scene.scene import Scene
from covis.runtime.scene.similarity import Similarity
from covis.runtime.scene.view_files import ViewFile, release

_MAPS = ("images", "depth", "depth_conf", "valid")

Indices = NDArray[np.int64]


def merge(
    parts: Sequence[StoredPart],
    cut: Cut,
    placements: Sequence[Similarity],
    views: Indices,
    place: Path,
) -> Scene:
    """Write the maps of a scene's views to files, and return the scene, in the placements' world.

    Each view is that of the part whose core it belongs to. Where its camera there is not usable, or
    that part is missing, it is that of the first other part with a usable camera for it. A view
    without a usable camera in any part gets none: its extrinsics and intrinsics are NaN.

    Depth is multiplied by the scale of its part. Confidences are taken as they are: a model's scale
    of confidence is one for all runs, relative to the extent of what the run sees.

    Args:
        parts: Finished parts with photos of one size; they are opened one after another, twice.
        cut: Division of the collection; `cut.parts` are the same parts in the same order.
        placements: Similarity transform from each part's world to the scene's.
        views: (n,) indices of the scene's views in the collection, in the order of the scene. Each
            is a view of at least one part; views of the parts that are not among them are ignored.
        place: Folder for the files, replaced where it exists; it must stay as long as the scene.

    Returns:
        A scene without similarity, pairs or sources, whose large arrays are memory-mapped.

    Raises:
        CovisError: The folder cannot be written, or the disk is full.
    """
    origin = _choose(parts, cut, views)
    cameras = _Cameras(len(views))
    with atomic_folder(place, force=True) as draft, ExitStack() as stack:
        files: dict[str, ViewFile] = {}
        for number in np.unique(origin.part).tolist():
            part, placement = parts[number], placements[number]
            files = files or _files(part, len(views), draft, stack)
            at, rows = origin.of(number)
            cameras.put(part, placement, at, rows)
            for view, row in zip(at.tolist(), rows.tolist(), strict=True):
                for name, file in files.items():
                    entry = getattr(part, name)[row]
                    file.put(view, entry * placement.scale if name == "depth" else entry)
            release(*(getattr(part, name) for name in files))
    maps: dict[str, Any] = {
        name: np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in files
    }
    height, width = maps["depth"].shape[1:]
    return Scene(
        names=tuple(cameras.names),
        image_size=(height, width),
        extrinsics=cameras.extrinsics,
        intrinsics=cameras.intrinsics,
        intrinsics_original=cameras.intrinsics_original,
        original_sizes=cameras.original_sizes,
        metric=cameras.metric,
        from_parts=True,
        **maps,
    )


def _files(part: StoredPart, count: int, folder: Path, stack: ExitStack) -> dict[str, ViewFile]:
    """Create a file of `count` entries for each map of pixels that the parts have."""
    files = {}
    for name in _MAPS:
        array = getattr(part, name)
        if array is not None:
            stream = (folder / f"{name}.npy").open("wb")
            file = ViewFile(stream, (count, *array.shape[1:]), array.dtype)
            files[name] = stack.enter_context(file)
    return files


class _Cameras:
    """Names, sizes and cameras of a scene's n views; NaN for a view without a usable camera."""

    def __init__(self, count: int) -> None:
        self.names = [""] * count
        self.original_sizes = np.zeros((count, 2), np.int64)
        self.extrinsics = np.full((count, 3, 4), np.nan)
        self.intrinsics = np.full((count, 3, 3), np.nan)
        self.intrinsics_original = np.full((count, 3, 3), np.nan)
        self.metric = True

    def put(self, part: StoredPart, placement: Similarity, at: Indices, rows: Indices) -> None:
        """Set the views `at` (k,) of the scene to the views `rows` (k,) of a part."""
        for view, row in zip(at.tolist(), rows.tolist(), strict=True):
            self.names[view] = part.names[row]
        self.original_sizes[at] = part.original_sizes[rows]
        at, rows = at[part.usable[rows]], rows[part.usable[rows]]
        self.extrinsics[at] = placement.cameras(part.extrinsics[rows])
        self.intrinsics[at] = part.intrinsics[rows]
        self.intrinsics_original[at] = part.intrinsics_original[rows]
        self.metric &= part.metric


@dataclass(frozen=True)
class _Origin:
    """Where each of the scene's n views is taken from.

    Attributes:
        part: (n,) index of the part.
        row: (n,) place of the view in the order of the part's run.
    """

    part: Indices
    row: Indices

    def of(self, part: int) -> tuple[Indices, Indices]:
        """Return the views (k,) of the scene that come from a part, and their rows (k,) there."""
        at = np.flatnonzero(self.part == part).astype(np.int64)
        return at, self.row[at]


def _choose(parts: Sequence[StoredPart], cut: Cut, views: Indices) -> _Origin:
    """Choose the part of each view: a usable camera first, then the core, then the first part."""
    position = np.full(max(int(np.max(part.views)) for part in cut.parts) + 1, -1, np.int64)
    inside = views < len(position)
    position[views[inside]] = np.flatnonzero(inside)
    rank = np.zeros(len(views), np.int64)  # 0: in no part so far; 1 to 4: how good it is there
    origin = _Origin(np.full(len(views), -1, np.int64), np.zeros(len(views), np.int64))
    for number, part in enumerate(cut.parts):
        usable = np.asarray(parts[number].usable, np.bool_)
        better = 1 + 2 * usable.astype(np.int64) + part.core
        there = position[part.views]
        rows = np.flatnonzero(there >= 0)
        rows = rows[better[rows] > rank[there[rows]]]
        rank[there[rows]] = better[rows]
        origin.part[there[rows]], origin.row[there[rows]] = number, rows
    if (rank == 0).any():
        raise ValueError(f"view {int(views[np.argmin(rank)])} is in none of the parts")
    return origin
