"""How far one reconstruction of some photos lies from another, without knowing the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from covis.engines.errors import user_error
from covis.runtime.scene.geometry import Floats
from covis.runtime.scene.scene import Scene


@dataclass(frozen=True)
class Drift:
    """The worst of a scene against another of the same views.

    Attributes:
        pose: degrees; of all pairs of views, the largest turn of one camera as seen from the other,
            or its largest shift, as the angle it would have at the scene's median depth.
        depth: relative; the largest of the views' median |depth / other depth - 1|.
    """

    pose: float
    depth: float

    def within(self, pose: float, depth: float) -> bool:
        """Whether both stay at or under their bounds; NaN never does."""
        return self.pose <= pose and self.depth <= depth


def drift(scene: Scene, other: Scene) -> Drift:
    """`scene` against `other`, scales aligned by the median ratio of all depths.

    A shift is judged by the scene's depth and not by the baseline, because directions between
    cameras that stand together mean nothing.

    Raises:
        CovisError: the scenes have other views.
    """
    if scene.names != other.names:
        raise user_error("cannot compare scenes of different photos", where="drift")
    valid = scene.valid & other.valid & (other.depth > 0) & (scene.depth > 0)
    both = np.isfinite(scene.depth) & np.isfinite(other.depth) & valid
    sound = np.isfinite(scene.extrinsics).all() and np.isfinite(other.extrinsics).all()
    if not sound or not both.reshape(len(both), -1).any(axis=1).all():
        return Drift(float("inf"), float("inf"))
    ratio = np.where(both, scene.depth, 1.0) / np.where(both, other.depth, 1.0)
    scale = 1.0 / float(np.median(ratio[both]))
    depth = max(
        float(np.median(np.abs(scale * each[mask] - 1)))
        for each, mask in zip(ratio, both, strict=True)
    )
    far = float(np.median(other.depth[both]))
    return Drift(_pose(scene.extrinsics, other.extrinsics, scale, far), depth)


def _pose(one: Floats, other: Floats, scale: float, far: float) -> float:
    i, j = np.triu_indices(len(one), 1)
    if not len(i):
        return 0.0
    rotations, shifts = [], []
    for cameras, factor in ((one, scale), (other, 1.0)):
        r, t = cameras[:, :, :3].astype(np.float64), factor * cameras[:, :, 3].astype(np.float64)
        relative = r[j] @ r[i].transpose(0, 2, 1)
        rotations.append(relative)
        shifts.append(t[j] - (relative @ t[i][:, :, None])[:, :, 0])
    chord = np.linalg.norm(rotations[0] - rotations[1], axis=(1, 2)) / np.sqrt(8)
    turn = 2 * np.arcsin(np.clip(chord, 0, 1))
    shift = np.arctan2(np.linalg.norm(shifts[0] - shifts[1], axis=1), far)
    return float(np.degrees(max(turn.max(), shift.max())))
