"""Relative pose errors of all pairs of views, and the area under their accuracy curve."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]

THRESHOLDS = (30, 15, 5, 3)
"""Degrees of the published tables; a loss of accuracy can hide at 30."""

WORST = 180.0
"""Degrees charged to a pair with a camera that is not finite."""

# Two cameras coincide where their distance, relative to their translations, is rounding.
_COINCIDENT = 1e-9


def pair_errors(predicted: ArrayLike, true: ArrayLike) -> tuple[Float64, Float64]:
    """Return relative rotation and translation-direction errors of all pairs i < j, in degrees.

    The motion of a pair is E_i E_j^-1, as in VGGT's evaluation: the pose of camera j in the frame
    of camera i. (The inverse has the same rotation error, but another direction error.) Both
    errors are independent of a common rigid motion and scale. The angle between directions is taken
    with atan2, which is exact near 0, where arccos is not.

    - A predicted camera that is not finite has both errors of 180 degrees in all its pairs.
    - Predicted cameras that coincide have no direction: their direction error is 90 degrees.
    - True cameras that coincide have none either: the direction error is then 0, so that perfect
      poses have no error. (The published code counts 90 degrees for every prediction.)

    Args:
        predicted: (M, 3, 4) world to camera.
        true: (M, 3, 4) world to camera, finite.

    Returns:
        Rotation and translation errors, (M (M - 1) / 2,) each, in [0, 180].
    """
    p, t = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    i, j = np.triu_indices(len(t), 1)
    sound = np.asarray(np.isfinite(p).all(axis=(1, 2)))
    p = np.where(sound[:, None, None], p, np.eye(3, 4))
    p_rotation, p_direction, p_apart = _relative(p, i, j)
    t_rotation, t_direction, t_apart = _relative(t, i, j)
    rotation = rotation_degrees(p_rotation, t_rotation)
    cross = np.linalg.norm(np.cross(p_direction, t_direction), axis=1)
    dot = np.sum(p_direction * t_direction, axis=1)
    translation = np.where(p_apart, np.degrees(np.arctan2(cross, dot)), 90.0)
    translation = np.where(t_apart, translation, 0.0)
    whole = sound[i] & sound[j]
    return np.where(whole, rotation, WORST), np.where(whole, translation, WORST)


def rotation_degrees(first: ArrayLike, second: ArrayLike) -> Float64:
    """Return the angle in [0, 180] degrees between rotations (..., 3, 3); exactly 0 where equal.

    From the chord |R - S|_F = 2 sqrt(2) sin(a / 2), because arccos of the trace loses half of the
    digits near 0.
    """
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    chord = np.linalg.norm(difference, axis=(-2, -1)) / np.sqrt(8)
    angle: Float64 = np.degrees(2 * np.arcsin(np.clip(chord, 0, 1)))
    return angle


def _relative(
    cameras: Float64, i: NDArray[np.int64], j: NDArray[np.int64]
) -> tuple[Float64, Float64, NDArray[np.bool_]]:
    """Return rotation (N, 3, 3) and unit translation (N, 3) from camera j to i, and a mask (N,).

    The mask is False for cameras that coincide.
    """
    r, t = cameras[:, :, :3], cameras[:, :, 3]
    rotation = r[i] @ r[j].transpose(0, 2, 1)
    direction = t[i] - (rotation @ t[j][:, :, None])[:, :, 0]
    length = np.linalg.norm(direction, axis=1)
    reach = np.linalg.norm(t[i], axis=1) + np.linalg.norm(t[j], axis=1)
    apart = length > _COINCIDENT * reach
    return rotation, direction / np.where(apart, length, 1.0)[:, None], apart


def undirected(angle: ArrayLike) -> Float64:
    """Return angles between lines instead of directions: min(a, 180 - a), in [0, 90] degrees.

    The published protocol (PoseDiffusion's and VGGT's evaluation on CO3D) compares translations up
    to their sign, as they come from an essential matrix.
    """
    a = np.asarray(angle, np.float64)
    return np.minimum(a, 180.0 - a)


def histogram(errors: ArrayLike, threshold: int) -> NDArray[np.int64]:
    """Count errors by whole degrees: [0, 1), [1, 2), ..., [threshold - 1, threshold].

    Args:
        errors: (N,) errors in degrees.
        threshold: Largest error in degrees.
    """
    counts, _ = np.histogram(np.asarray(errors), bins=np.arange(threshold + 1))
    found: NDArray[np.int64] = counts.astype(np.int64)
    return found


def auc(errors: ArrayLike, threshold: int) -> float:
    """Return the area under the share of pairs below an error, up to a threshold, by degrees.

    The protocol of VGGT (and of PoseDiffusion before it): the mean over k = 1 ... threshold of the
    share of pairs with an error below k degrees. Errors below one degree therefore count
    as none: the area is exactly 1.0 for all poses better than a degree. The last bin includes its
    end, like those of numpy's histograms.

    Args:
        errors: (N,) larger of both angles of each pair in degrees; not empty.
        threshold: Largest error in degrees.
    """
    return auc_of_histogram(histogram(errors, threshold), int(np.size(errors)))


def auc_of_histogram(counts: ArrayLike, pairs: int) -> float:
    """Return `auc` from a `histogram`, which may be the sum of those of several scenes.

    Args:
        counts: (threshold,) counts of pairs.
        pairs: Number of all pairs, those beyond the threshold included.
    """
    share: NDArray[Any] = np.asarray(counts) / pairs
    return float(np.cumsum(share).mean())
