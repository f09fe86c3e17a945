"""A scene folder under construction: the input of every writer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from covis.runtime.photos.decode import quiet_pillow
from covis.runtime.scene.scene import PointSamples, Scene
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
        masks: Masks of the views that have one, as packed bits of the image's pixels; found by the
            writer of the images.
        facts: Entries of `scene.json` that the writers add.
    """

    place: Path
    scene: Scene
    frames: Frames
    options: OutputOptions
    notes: list[str] = field(default_factory=list)
    masks: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def samples(self) -> PointSamples:
        """Points of the scene in view order, without the least confident ones."""
        return self.scene.point_samples(percentile=self.options.conf_percentile)

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
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
