"""Similarity transforms of the world, and the best one between two sets of points.

Needs numpy alone: the metrics of the evaluation use it too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from covis.runtime.scene.geometry import Float64


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

    @staticmethod
    def identity() -> Similarity:
        """Return the transform that changes nothing."""
        return Similarity(1.0, np.eye(3), np.zeros(3))

    def points(self, points: ArrayLike) -> Float64:
        """Transform points (..., 3)."""
        x = np.asarray(points, np.float64)
        moved: Float64 = self.scale * x @ self.rotation.T + self.translation
        return moved

    def cameras(self, extrinsics: ArrayLike) -> Float64:
        """Return world-to-camera matrices (M, 3, 4) of cameras in the transformed world.

        Depth in these cameras is `scale` times as large as before.
        """
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

    def inverse(self) -> Similarity:
        """Return the transform that undoes this one: x -> R^T (x - t) / scale."""
        rotation = self.rotation.T
        return Similarity(1.0 / self.scale, rotation, -(rotation @ self.translation) / self.scale)


def umeyama(
    source: ArrayLike,
    target: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    with_scale: bool = True,
) -> Similarity:
    """Fit the similarity that maps `source` to `target` with the least weighted sum of squares.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
    PAMI 1991, equations 34 to 43, with weighted means in place of means. Where the best one is
    not unique (points on a line or in one place) one of them is returned; a source in one place
    keeps its scale.

    Args:
        source: (N, 3) finite points.
        target: (N, 3) finite points.
        weights: (N,) weights of the squared distances, not negative and not all zero; None: 1.
        with_scale: Estimate the scale, too; otherwise it is 1.
    """
    x, y = np.asarray(source, np.float64), np.asarray(target, np.float64)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    w = (w / w.sum())[:, None]
    mean_x, mean_y = (w * x).sum(axis=0), (w * y).sum(axis=0)
    dx, dy = x - mean_x, y - mean_y
    covariance = (w * dy).T @ dx
    rotation = nearest_rotation(covariance)
    variance = float((w * dx * dx).sum())
    scale = 1.0
    if with_scale and variance > 0.0:
        fitted = float((rotation * covariance).sum()) / variance
        scale = fitted if fitted > 0.0 else 1.0
    return Similarity(scale, rotation, mean_y - scale * rotation @ mean_x)


def nearest_rotation(matrix: ArrayLike) -> Float64:
    """Return the rotation R with the largest trace(R^T A): the nearest to A (3, 3), scale apart.

    The orthogonal Procrustes problem without reflections: Umeyama 1991, lemma. The nearest rotation
    to a sum of rotations is their chordal mean.
    """
    u, _, vt = np.linalg.svd(np.asarray(matrix, np.float64))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation: Float64 = (u * sign) @ vt
    return rotation
