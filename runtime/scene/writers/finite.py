"""Select the finite part of a scene, so that NaN and infinity never reach a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from covis.engines.errors import numerics_error
from covis.runtime.scene.scene import Scene


@dataclass(frozen=True)
class LeftOut:
    """Views and points that were left out.

    Attributes:
        views: Names of the views whose camera is not finite or has a focal length of 0.
        points: Number of valid pixels of the other views whose depth, point or confidence is not
            finite.
    """

    views: tuple[str, ...]
    points: int


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
