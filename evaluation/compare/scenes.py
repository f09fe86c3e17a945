"""How far two scenes of the same photos are apart, in the units people care about."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from covis.engines.errors import user_error
from covis.runtime.scene import geometry
from covis.runtime.scene.scene import Scene


@dataclass(frozen=True)
class SceneErrors:
    """A candidate's scene against the reference's, in the same world frame.

    Attributes:
        rotation_deg: largest angle between the two rotations of a view, in degrees.
        rotation_deg_mean: over the views.
        rotation_view: name of the worst view.
        centre_rel: largest distance between the two centres of a camera, over the mean distance
            of the reference's centres from their middle (0 for one view).
        focal_rel: largest relative difference of a focal length.
        depth_rel: mean of |d - d'| / d' over the valid pixels, of the worst view.
        depth_rel_mean: over the views.
        depth_rel_p99: 99th percentile over all valid pixels.
        depth_view: name of the worst view.
    """

    rotation_deg: float
    rotation_deg_mean: float
    rotation_view: str
    centre_rel: float
    focal_rel: float
    depth_rel: float
    depth_rel_mean: float
    depth_rel_p99: float
    depth_view: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def over(self, rotation_deg: float, depth_rel: float) -> float:
        """The larger of the two errors over its tolerance; passes at 1 or less."""
        return max(self.rotation_deg / rotation_deg, self.depth_rel / depth_rel)


def scene_errors(candidate: Scene, reference: Scene) -> SceneErrors:
    """Compare two scenes of the same views.

    Raises:
        CovisError: the scenes are of different photos.
    """
    if candidate.names != reference.names or candidate.image_size != reference.image_size:
        raise user_error("the two scenes are not of the same photos", where="scene")
    turn = candidate.extrinsics[:, :, :3] @ reference.extrinsics[:, :, :3].transpose(0, 2, 1)
    angles = np.degrees(rotation_angles(turn))
    centres = [geometry.camera_centers(scene.extrinsics) for scene in (candidate, reference)]
    spread = float(np.linalg.norm(centres[1] - centres[1].mean(axis=0), axis=1).mean())
    apart = float(np.max(np.linalg.norm(centres[0] - centres[1], axis=1)))
    focal = [scene.intrinsics[:, (0, 1), (0, 1)] for scene in (candidate, reference)]
    sound = np.isfinite(focal[0]) & np.isfinite(focal[1])
    focal_rel = np.abs(focal[0] - focal[1])[sound] / np.abs(focal[1])[sound]
    by_view = [_depth_rel(candidate, reference, view) for view in range(len(reference))]
    means = np.array([float(x.mean()) if x.size else 0.0 for x in by_view])
    everything = np.concatenate(by_view)
    worst = int(np.argmax(angles))
    return SceneErrors(
        rotation_deg=float(angles[worst]),
        rotation_deg_mean=float(angles.mean()),
        rotation_view=reference.names[worst],
        centre_rel=apart / spread if spread > 0 else 0.0,
        focal_rel=float(np.max(focal_rel, initial=0.0)),
        depth_rel=float(means.max()),
        depth_rel_mean=float(means.mean()),
        depth_rel_p99=float(np.quantile(everything, 0.99)) if everything.size else 0.0,
        depth_view=reference.names[int(np.argmax(means))],
    )


def rotation_angles(matrices: geometry.Float64) -> geometry.Float64:
    """The angle of each rotation (M, 3, 3) in radians, accurate near 0 and near pi.

    atan2 of |R - R^T| / (2 sqrt 2) = |sin| and (trace - 1) / 2 = cos.
    """
    skew = matrices - matrices.transpose(0, 2, 1)
    sine = np.linalg.norm(skew, axis=(1, 2)) / (2 * np.sqrt(2))
    cosine = (np.trace(matrices, axis1=1, axis2=2) - 1) / 2
    angles: geometry.Float64 = np.arctan2(sine, cosine)
    return angles


def _depth_rel(candidate: Scene, reference: Scene, view: int) -> geometry.Float64:
    """|d - d'| / |d'| over the pixels that both take for valid and where d' is not 0."""
    a, b = candidate.depth[view].astype(np.float64), reference.depth[view].astype(np.float64)
    used = reference.valid[view] & (b != 0) & np.isfinite(b)
    shares: geometry.Float64 = np.abs(a[used] - b[used]) / np.abs(b[used])
    return np.where(np.isfinite(shares), shares, 1.0)
