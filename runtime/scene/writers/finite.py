"""Select the finite part of a scene, so that NaN and infinity never reach a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import numerics_error, printable
from covis.runtime.scene.scene import Scene
from covis.runtime.scene.view_files import rewritten

_NAMED = 10  # views that a line names


@dataclass(frozen=True)
class LeftOut:
    """Views and points that were left out.

    Attributes:
        views: Names of the views whose camera is not finite or has a focal length of 0 or less.
        points: Number of valid pixels of the other views whose depth, point or confidence is not
            finite.
    """

    views: tuple[str, ...]
    points: int

    @property
    def notes(self) -> tuple[str, ...]:
        """One line that names the views that were left out, if there are any."""
        if not self.views:
            return ()
        named = ", ".join(printable(name) for name in self.views[:_NAMED])
        more = f" and {len(self.views) - _NAMED} more" if len(self.views) > _NAMED else ""
        several = f"{len(self.views)} views have no finite camera and are left out"
        one = "1 view has no finite camera and is left out"
        return (f"{several if len(self.views) > 1 else one}: {named}{more}",)


def finite_part(scene: Scene) -> tuple[Scene, LeftOut]:
    """Return the views with usable cameras, with non-finite values set to 0 and marked invalid.

    Arrays that need no change are not copied; a changed copy of a memory-mapped one is again in a
    file.

    Raises:
        CovisError: No view has a usable camera.
    """
    usable = scene.usable_cameras()
    views = tuple(name for name, good in zip(scene.names, usable, strict=True) if not good)
    if len(views) == len(scene):
        raise numerics_error(
            "no view has a finite camera, so there is nothing to write",
            hint="check the weights, or use a larger dtype",
        )
    if views:
        scene = scene.select(np.nonzero(usable)[0])
    changed: dict[str, Any] = {}
    bad = np.zeros(scene.valid.shape[:1], bool)
    for name in ("depth", "depth_conf", "points", "points_conf", "images", "similarity"):
        value = getattr(scene, name)
        if value is None or value.dtype.kind != "f":
            continue
        broken = np.array([not np.isfinite(value[view]).all() for view in scene.walk()])
        if broken.any():
            changed[name] = _zeroed(value)
            bad |= broken & (name not in ("images", "similarity"))
    if not bad.any():
        return replace(scene, **changed), LeftOut(views, 0)
    valid = rewritten(scene.valid, len(scene), lambda view: _sound(scene, view))
    points = sum(int(scene.valid[view].sum()) - int(valid[view].sum()) for view in scene.walk())
    return replace(scene, valid=valid, **changed), LeftOut(views, points)


def _zeroed(value: NDArray[Any]) -> NDArray[Any]:
    """Return an array (M, ...) with 0 for what is not finite."""
    zero = value.dtype.type(0)
    return rewritten(
        value, len(value), lambda view: np.where(np.isfinite(value[view]), value[view], zero)
    )


def _sound(scene: Scene, view: int) -> NDArray[np.bool_]:
    """Return the valid pixels (H, W) of a view where all values are finite."""
    valid: NDArray[np.bool_] = scene.valid[view].copy()
    for array in (scene.depth, scene.depth_conf, scene.points_conf):
        if array is not None:
            valid &= np.isfinite(array[view])
    if scene.points is not None:
        valid &= np.isfinite(scene.points[view]).all(axis=-1)
    return valid
