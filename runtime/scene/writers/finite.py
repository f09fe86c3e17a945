"""Select the finite part of a scene, so that NaN and infinity never reach a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from covis.engines.errors import numerics_error, printable
from covis.runtime.scene.scene import Scene

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
    valid = scene.valid.copy()
    changed: dict[str, Any] = {}
    for name in ("depth", "depth_conf", "points", "points_conf", "images", "similarity"):
        value = getattr(scene, name)
        if value is None or value.dtype.kind != "f":
            continue
        finite = np.isfinite(value)
        if finite.all():
            continue
        changed[name] = np.where(finite, value, value.dtype.type(0))
        if name in ("depth", "depth_conf", "points_conf"):
            valid &= finite
        elif name == "points":
            valid &= finite.all(axis=-1)
    points = int(scene.valid.sum() - valid.sum())
    return replace(scene, valid=valid, **changed), LeftOut(views, points)
