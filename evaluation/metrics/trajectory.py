"""Alignment of trajectories by a similarity, and the errors that remain after it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from covis.runtime.scene.geometry import Float64, camera_centers
from covis.runtime.scene.similarity import Similarity, umeyama


def align(predicted: ArrayLike, true: ArrayLike) -> Similarity:
    """Fit the similarity that maps the predicted camera centres to the true ones.

    Args:
        predicted: (M, 3, 4) world to camera; cameras that are not finite are left out.
        true: (M, 3, 4) world to camera.
    """
    p, t = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    sound = np.isfinite(p).all(axis=(1, 2))
    if not sound.any():
        return Similarity.identity()
    return umeyama(camera_centers(p[sound]), camera_centers(t[sound]))


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
    moved = align(p, t).points(camera_centers(p))
    return float(np.sqrt(np.mean(np.sum((moved - camera_centers(t)) ** 2, axis=1))))


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
    r, c = cameras[:, :, :3], camera_centers(cameras)
    rotation = r[:-1] @ r[1:].transpose(0, 2, 1)
    return rotation, (r[:-1] @ (c[1:] - c[:-1])[:, :, None])[:, :, 0]
