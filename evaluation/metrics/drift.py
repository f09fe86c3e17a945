"""Drift: distance between two results for the same photos, without ground truth.

The one definition behind `covis compare` and its bisection, `covis tune`, `covis profile`, and the
drift that `covis export` records of a narrow bundle. Its terms:

- *Lengths.* A result without a metric scale is multiplied by s = median(d' / d) over the judged
  pixels, d being its depth and d' that of the reference. A metric result keeps s = 1.
- *Pixels.* Judged are those that are valid and have a finite depth other than 0 in the reference.
- *Rotation drift.* Largest angle, over all pairs of views, between the two relative rotations
  R_j R_i^T of the pair.
- *Shift drift.* Largest angle, over all ordered pairs of views, under which the change of one
  camera's position in the other's frame is seen at the reference's median depth f:
  atan2(|s p - p'|, f) with p = t_j - R_j R_i^T t_i. f, not the baseline, because the direction
  between cameras that stand close together means nothing.
- *Pose drift.* The larger of the two.
- *Depth drift.* Mean of min(|s d - d'| / |d'|, 1) over the judged pixels of a view, of the worst
  view. The mean, because a median ignores the loss of nearly half a view; at most 1 a pixel,
  because single pixels at depth edges can be any number of times off.

Only relative poses enter, so a rigid motion of the whole scene is no drift, and neither is a scale
where the model has none of its own. Equal results have a drift of exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from covis.engines.errors import user_error
from covis.evaluation.metrics.pose import WORST, Float64, rotation_degrees

if TYPE_CHECKING:  # the exporter measures drift, too, and never imports the runtime
    from covis.runtime.scene.scene import Scene


@dataclass(frozen=True)
class Drift:
    """Drift of a result from a reference; see the module's description for the formulas.

    Attributes:
        rotation_deg: Rotation drift in degrees; 0 for one view, which has no relative pose.
        rotation_deg_mean: Mean over the pairs of views of the angle whose maximum is the rotation
            drift, in degrees.
        rotation_view: Index of the view with the largest mean rotation drift over its pairs.
        shift_deg: Shift drift in degrees; NaN where no pixel is judged and there are pairs.
        depth_rel: Depth drift as a fraction of the reference's depth, in [0, 1]; NaN where no pixel
            of any view is judged.
        depth_rel_mean: Mean of the views' depth drifts.
        depth_rel_p99: 99th percentile of min(|s d - d'| / |d'|, 1) over all judged pixels.
        depth_view: Index of the view with the largest depth drift.
        scale: Factor s that the result's lengths were multiplied by.
        non_finite: Number of cameras that are not finite in either result, plus the number of
            judged pixels without a finite depth in the result. Each such camera counts 180 degrees
            of rotation and 90 of shift in all its pairs, each such pixel a depth drift of 1.
    """

    rotation_deg: float
    rotation_deg_mean: float
    rotation_view: int
    shift_deg: float
    depth_rel: float
    depth_rel_mean: float
    depth_rel_p99: float
    depth_view: int
    scale: float
    non_finite: int

    @property
    def pose_deg(self) -> float:
        """Pose drift in degrees; NaN where the shift drift is."""
        return float(np.maximum(self.rotation_deg, self.shift_deg))

    def over(self, pose_deg: float, depth_rel: float) -> float:
        """Return the larger of pose and depth drift, each divided by its tolerance.

        Infinity where a number is not finite, so that such a result is never accepted.
        """
        ratio = float(np.maximum(self.pose_deg / pose_deg, self.depth_rel / depth_rel))
        return ratio if np.isfinite(ratio) and not self.non_finite else float("inf")

    def within(self, pose_deg: float, depth_rel: float) -> bool:
        """Return whether pose and depth drift are at most these, and every number is finite."""
        judged = self.pose_deg <= pose_deg and self.depth_rel <= depth_rel
        return judged and not self.non_finite


def drift(
    extrinsics: ArrayLike,
    depth: ArrayLike,
    *,
    reference_extrinsics: ArrayLike,
    reference_depth: ArrayLike,
    valid: ArrayLike | None = None,
    metric: bool = False,
) -> Drift:
    """Measure the drift of a result from a reference.

    Args:
        extrinsics: (M, 3, 4), world to camera, of the result.
        depth: (M, H, W), z-depth of the result.
        reference_extrinsics: (M, 3, 4), world to camera, of the reference.
        reference_depth: (M, H, W), z-depth of the reference.
        valid: (M, H, W) mask of the pixels to judge; all of them by default.
        metric: Lengths are in metres on both sides, so the scale is not aligned.

    Raises:
        ValueError: The shapes do not belong together.
    """
    cameras, true = (np.asarray(e, np.float64) for e in (extrinsics, reference_extrinsics))
    d, t = np.asarray(depth), np.asarray(reference_depth)
    mask = np.ones(t.shape, np.bool_) if valid is None else np.asarray(valid, np.bool_)
    if cameras.shape != true.shape or d.shape != t.shape or mask.shape != t.shape:
        raise ValueError(f"{cameras.shape}, {d.shape} against {true.shape}, {t.shape}")
    judged = mask & np.isfinite(t) & (t != 0)
    scale = 1.0 if metric else _scale(d[judged], t[judged])
    changes = [_depth_changes(*pair, scale) for pair in zip(d, t, judged, strict=True)]
    depth_rel, everything = _means(changes), np.concatenate(changes)
    far = float(np.median(np.abs(t[judged]).astype(np.float64))) if judged.any() else np.nan
    rotation, shift, broken = _pair_changes(cameras, true, scale, far)
    pairs = max(len(true) * (len(true) - 1), 1)
    return Drift(
        rotation_deg=float(np.max(rotation)),
        rotation_deg_mean=float(rotation.sum() / pairs),
        rotation_view=int(np.argmax(rotation.sum(axis=1))),
        shift_deg=float(np.max(shift)),
        depth_rel=float(np.max(depth_rel)) if everything.size else float("nan"),
        depth_rel_mean=float(np.mean(depth_rel)) if everything.size else float("nan"),
        depth_rel_p99=float(np.quantile(everything, 0.99)) if everything.size else float("nan"),
        depth_view=int(np.argmax(depth_rel)),
        scale=scale,
        non_finite=broken + int((~np.isfinite(d[judged])).sum()),
    )


def scene_drift(scene: Scene, reference: Scene) -> Drift:
    """Measure the drift of a scene from another of the same photos.

    Pixels are judged where the reference is valid, because a scene must not hide a change by
    marking it as invalid.

    Raises:
        CovisError: The scenes are of different photos.
    """
    if scene.names != reference.names or scene.image_size != reference.image_size:
        raise user_error("the two scenes are not of the same photos", where="scene")
    return drift(
        scene.extrinsics,
        scene.depth,
        reference_extrinsics=reference.extrinsics,
        reference_depth=reference.depth,
        valid=reference.valid,
        metric=scene.metric and reference.metric,
    )


def _scale(depth: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """Return median(d' / d) over the pixels (N,) where it is finite, or 1 where it is no scale."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = reference.astype(np.float64) / depth.astype(np.float64)
    ratio = ratio[np.isfinite(ratio)]
    scale = float(np.median(ratio)) if ratio.size else 1.0
    return scale if scale > 0 else 1.0


def _depth_changes(
    depth: NDArray[np.floating],
    reference: NDArray[np.floating],
    judged: NDArray[np.bool_],
    scale: float,
) -> Float64:
    """Return min(|s d - d'| / |d'|, 1) of the judged pixels (N,) of one view."""
    d, t = depth[judged].astype(np.float64), reference[judged].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        change = np.minimum(np.abs(scale * d - t) / np.abs(t), 1.0)
    return np.where(np.isfinite(change), change, 1.0)


def _means(changes: list[Float64]) -> Float64:
    """Return the mean of each view (M,); 0 for a view in which no pixel is judged."""
    return np.array([each.mean() if each.size else 0.0 for each in changes])


def _pair_changes(
    cameras: Float64, reference: Float64, scale: float, far: float
) -> tuple[Float64, Float64, int]:
    """Return rotation and shift changes (M, M) in degrees, and the number of broken cameras.

    Row i holds the changes of all cameras j as seen from camera i; the diagonal is 0.
    """
    finite = np.asarray(np.isfinite(cameras).all(axis=(1, 2)))
    finite &= np.isfinite(reference).all(axis=(1, 2))
    views = len(reference)
    rotation, shift = np.zeros((views, views)), np.zeros((views, views))
    sides = [np.where(finite[:, None, None], e, np.eye(3, 4)) for e in (cameras, reference)]
    for i in range(views):  # by row: all pairs at once would take gigabytes for 3,000 views
        turns, places = [], []
        for side, factor in zip(sides, (scale, 1.0), strict=True):
            relative = side[:, :, :3] @ side[i, :, :3].T
            turns.append(relative)
            places.append(factor * (side[:, :, 3] - relative @ side[i, :, 3]))
        rotation[i] = rotation_degrees(turns[0], turns[1])
        apart = np.linalg.norm(places[0] - places[1], axis=1)
        shift[i] = np.degrees(np.arctan2(apart, far))
    broken = ~(finite[:, None] & finite[None, :])
    rotation[broken], shift[broken] = WORST, WORST / 2
    np.fill_diagonal(rotation, 0.0)
    np.fill_diagonal(shift, 0.0)
    return rotation, shift, int((~finite).sum())
