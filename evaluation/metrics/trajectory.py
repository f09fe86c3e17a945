"""Similarity alignment of trajectories, and the errors that remain after it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Similarity:
    """Similarity transform x -> scale R x + t.

    Attributes:
        scale: Positive factor.
        rotation: Rotation R (3, 3).
        translation: Translation t (3,).
    """

    scale: float
    rotation: Float64
    translation: Float64

    def points(self, points: ArrayLike) -> Float64:
        """Transform points (..., 3)."""
        x = np.asarray(points, np.float64)
        moved: Float64 = self.scale * x @ self.rotation.T + self.translation
        return moved

    def cameras(self, extrinsics: ArrayLike) -> Float64:
        """Return world-to-camera matrices (M, 3, 4) of cameras in the transformed world."""
        e = np.asarray(extrinsics, np.float64)
        rotation = e[:, :, :3] @ self.rotation.T
        translation = self.scale * e[:, :, 3] - (rotation @ self.translation)
        return np.concatenate([rotation, translation[:, :, None]], axis=2)

    def after(self, first: Similarity) -> Similarity:
        """Compose two transforms: `first`, then this one."""
        return Similarity(
            self.scale * first.scale,
            self.rotation @ first.rotation,
            self.points(first.translation),
        )


def umeyama(source: ArrayLike, target: ArrayLike, *, with_scale: bool = True) -> Similarity:
    """Fit the similarity that maps `source` to `target` with the least sum of squares.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
    PAMI 1991, equations 34 to 43. Where the best one is not unique (points on a line or in
    one place) one of them is returned; a source in one place keeps its scale.

    Args:
        source: (N, 3) finite points.
        target: (N, 3) finite points.
        with_scale: Estimate the scale, too; otherwise it is 1.
    """
    x, y = np.asarray(source, np.float64), np.asarray(target, np.float64)
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    dx, dy = x - mean_x, y - mean_y
    u, d, vt = np.linalg.svd(dy.T @ dx / len(x))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * sign) @ vt
    variance = float((dx * dx).sum() / len(x))
    scale = 1.0
    if with_scale and variance > 0.0:
        fitted = float((d * sign).sum()) / variance
        scale = fitted if fitted > 0.0 else 1.0
    return Similarity(scale, rotation, mean_y - scale * rotation @ mean_x)


def centers(extrinsics: ArrayLike) -> Float64:
    """Return camera positions (M, 3) of world-to-camera matrices (M, 3, 4)."""
    e = np.asarray(extrinsics, np.float64)
    found: Float64 = -np.einsum("mji,mj->mi", e[:, :, :3], e[:, :, 3])
    return found


def align(predicted: ArrayLike, true: ArrayLike) -> Similarity:
    """Fit the similarity that maps the predicted camera centres to the true ones.

    Args:
        predicted: (M, 3, 4) world to camera; cameras that are not finite are left out.
        true: (M, 3, 4) world to camera.
    """
    p, t = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    sound = np.isfinite(p).all(axis=(1, 2))
    if not sound.any():
        return Similarity(1.0, np.eye(3), np.zeros(3))
    return umeyama(centers(p[sound]), centers(t[sound]))


def absolute_error(predicted: ArrayLike, true: ArrayLike) -> float:
    """Return ATE: root mean square distance of camera centres after `align`, in true units.

    Sturm et al., "A benchmark for the evaluation of RGB-D SLAM systems", IROS 2012, with a
    similarity instead of a rigid motion. Three centres are the fewest that a similarity cannot
    always map exactly.

    Args:
        predicted: (M, 3, 4) world to camera.
        true: (M, 3, 4) world to camera.

    Returns:
        NaN with fewer than three cameras, infinity where a predicted camera is not finite.
    """
    p, t = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if len(t) < 3:
        return float("nan")
    if not np.isfinite(p).all():
        return float("inf")
    moved = align(p, t).points(centers(p))
    return float(np.sqrt(np.mean(np.sum((moved - centers(t)) ** 2, axis=1))))


def relative_error(predicted: ArrayLike, true: ArrayLike) -> tuple[float, float]:
    """Return RPE: root mean square error of motions between neighbouring views, after `align`.

    Sturm et al. 2012, with a step of one view; the scale is that of the whole trajectory.

    Args:
        predicted: (M, 3, 4) world to camera, in the order of the sequence.
        true: (M, 3, 4) world to camera.

    Returns:
        Translation in units of the truth and rotation in degrees; NaN with fewer than three
        cameras (the scale of two is their only distance), infinity where one is not finite.
    """
    p, t = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if len(t) < 3:
        return float("nan"), float("nan")
    if not np.isfinite(p).all():
        return float("inf"), float("inf")
    p = align(p, t).cameras(p)
    steps = [_steps(cameras) for cameras in (p, t)]
    # The motion that remains after the true one is undone: Q^-1 P, where Q is the truth.
    (p_rotation, p_step), (t_rotation, t_step) = steps
    distance = np.linalg.norm(p_step - t_step, axis=1)
    chord = np.linalg.norm(p_rotation - t_rotation, axis=(1, 2)) / np.sqrt(8)
    angle = np.degrees(2 * np.arcsin(np.clip(chord, 0, 1)))
    return float(np.sqrt(np.mean(distance**2))), float(np.sqrt(np.mean(angle**2)))


def _steps(cameras: Float64) -> tuple[Float64, Float64]:
    """Return the pose of each next camera in the frame before: (M-1, 3, 3) and (M-1, 3)."""
    r, c = cameras[:, :, :3], centers(cameras)
    rotation = r[:-1] @ r[1:].transpose(0, 2, 1)
    return rotation, (r[:-1] @ (c[1:] - c[:-1])[:, :, None])[:, :, 0]
