"""Differences between two scenes of the same photos, for the report of `covis compare`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from covis.evaluation.metrics.drift import Drift, scene_drift
from covis.runtime.scene.scene import Scene


@dataclass(frozen=True)
class SceneErrors:
    """Differences between a candidate's scene and the reference's.

    Attributes:
        drift: Drift of cameras and depth, as `covis.evaluation.metrics.drift` defines it.
        focal_rel: Largest relative difference of a focal length.
        names: M names of the photos.
    """

    drift: Drift
    focal_rel: float
    names: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON: views by name, and None for what is not a number."""
        numbers = {
            **asdict(self.drift),
            "pose_deg": self.drift.pose_deg,
            "focal_rel": self.focal_rel,
        }
        found: dict[str, Any] = {
            name: value if math.isfinite(value) else None for name, value in numbers.items()
        }
        for name in ("rotation_view", "depth_view"):
            found[name] = self.names[found[name]]
        return found


def scene_errors(candidate: Scene, reference: Scene) -> SceneErrors:
    """Compare two scenes of the same photos.

    Raises:
        CovisError: The scenes are of different photos.
    """
    measured = scene_drift(candidate, reference)
    focal = [scene.intrinsics[:, (0, 1), (0, 1)] for scene in (candidate, reference)]
    finite = np.isfinite(focal[0]) & np.isfinite(focal[1])
    focal_rel = np.abs(focal[0] - focal[1])[finite] / np.abs(focal[1])[finite]
    return SceneErrors(measured, float(np.max(focal_rel, initial=0.0)), reference.names)
