"""A scene folder under construction: the input of every writer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from covis.runtime.photos.decode import quiet_pillow
from covis.runtime.scene.fuse import fuse
from covis.runtime.scene.points import PointSamples, PointStream, point_stream
from covis.runtime.scene.scene import Scene
from covis.runtime.scene.writers.frames import Frames
from covis.runtime.scene.writers.options import OutputOptions

IMAGES, MASKS, DEPTH = "images", "masks", "depth"
_THREADS = 4  # each may decode a photo, up to 0.5 GB
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class SceneFolder:
    """Folder of a scene that is being written.

    Attributes:
        place: Folder to write to.
        scene: Finite part of the scene.
        frames: Images of the folder, and the cameras for them.
        options: Contents of the folder.
        notes: Lines for the user, to which the writers append.
        masked: Views that have a mask, which the writer of the images finds.
        facts: Entries of `scene.json` that the writers add.
    """

    place: Path
    scene: Scene
    frames: Frames
    options: OutputOptions
    notes: list[str] = field(default_factory=list)
    masked: set[int] = field(default_factory=set)
    facts: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def points(self) -> PointStream:
        """Points of the scene without the least confident ones, to be computed view by view."""
        return point_stream(self.scene, percentile=self.options.conf_percentile)

    def cloud(self, limit: int) -> PointSamples:
        """Return at most `limit` points in view order: a cloud that a writer has in memory.

        They are an even sample of the scene's points. Of a scene from parts, they are an even
        sample of the merged points, of which there are at most `max_points`.
        """
        if self.scene.from_parts:
            return self._merged.thin(limit)
        count = min(limit, int(self.points.counts.sum()))
        if count not in self._clouds:
            self._clouds[count] = self.points.thin(count)
        return self._clouds[count]

    @cached_property
    def _merged(self) -> PointSamples:
        return fuse(self.points, self.options.max_points or OutputOptions.max_points)

    @cached_property
    def _clouds(self) -> dict[int, PointSamples]:
        return {}

    def mask_name(self, view: int) -> str:
        """Return the name of a view's mask, as COLMAP looks for it: the image's name and `.png`."""
        return f"{MASKS}/{self.frames.names[view]}.png"

    def depth_name(self, view: int) -> str:
        """Return the name of a view's depth image: the stem of the image's name."""
        return f"{DEPTH}/{Path(self.frames.names[view]).stem}.{self.options.depth_format}"


def each_view(folder: SceneFolder, work: Callable[[SceneFolder, int], _Result]) -> list[_Result]:
    """Call `work` for every view, a few at a time; the first error in their order is raised."""
    with quiet_pillow(), ThreadPoolExecutor(_THREADS, "covis-folder") as pool:
        futures = [pool.submit(work, folder, view) for view in range(len(folder.scene))]
        results = []
        try:
            for future in futures:
                results.append(future.result())
                folder.scene.release()
            return results
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
