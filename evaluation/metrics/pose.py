"""Relative pose errors of all pairs of views, and the area under their accuracy curve."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]

THRESHOLDS = (30, 15, 5)
"""Degrees of the published tables."""

WORST = 180.0
"""Degrees charged to a pair with a camera that is not finite."""

# Two cameras are at one place where their distance is rounding: relative to their translations.
_COINCIDENT = 1e-9


def pair_errors(predicted: ArrayLike, true: ArrayLike) -> tuple[Float64, Float64]:
    """Relative rotation and translation-direction errors of all pairs i < j, in degrees.

    The motion of a pair is E_i E_j^-1, as in VGGT's evaluation: where camera j stands, seen from
    camera i. (The other way round the rotation error is the same, the direction's is not.) Both
    errors are independent of a common rigid motion and scale. The angle between directions is taken
    with atan2, which is exact near 0, where arccos is not.

    - A predicted camera that is not finite charges 180 degrees, twice, to all its pairs.
    - Predicted cameras at one place have no direction: 90 degrees are charged.
    - True cameras at one place have none either; rotation alone then judges the pair, so that
      perfect poses have no error. (The published code charges 90 degrees to everybody.)

    Args:
        predicted: (M, 3, 4) world to camera.
        true: (M, 3, 4) world to camera, finite.

    Returns:
        rotation and translation errors, (M (M - 1) / 2,) each, in [0, 180].
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
    """Rotation (N, 3, 3), unit translation (N, 3) from camera j to i; whether they are apart."""
    r, t = cameras[:, :, :3], cameras[:, :, 3]
    rotation = r[i] @ r[j].transpose(0, 2, 1)
    direction = t[i] - (rotation @ t[j][:, :, None])[:, :, 0]
    length = np.linalg.norm(direction, axis=1)
    reach = np.linalg.norm(t[i], axis=1) + np.linalg.norm(t[j], axis=1)
    apart = length > _COINCIDENT * reach
    return rotation, direction / np.where(apart, length, 1.0)[:, None], apart


def undirected(angle: ArrayLike) -> Float64:
    """Angles between lines rather than directions: min(a, 180 - a), in [0, 90] degrees.

    The published protocol (PoseDiffusion's and VGGT's evaluation on CO3D) compares translations up
    to their sign, as they come from an essential matrix.
    """
    a = np.asarray(angle, np.float64)
    return np.minimum(a, 180.0 - a)


def histogram(errors: ArrayLike, threshold: int) -> NDArray[np.int64]:
    """Counts of errors by whole degrees: [0, 1), [1, 2), ..., [threshold - 1, threshold].

    Args:
        errors: (N,) degrees.
        threshold: in degrees.
    """
    counts, _ = np.histogram(np.asarray(errors), bins=np.arange(threshold + 1))
    found: NDArray[np.int64] = counts.astype(np.int64)
    return found


def auc(errors: ArrayLike, threshold: int) -> float:
    """Area under the share of pairs below an error, up to a threshold, in steps of a degree.

    The protocol of VGGT (and of PoseDiffusion before it): the mean over k = 1 ... threshold of the
    share of pairs with an error below k degrees. So errors below one degree count as none: perfect
    poses have exactly 1.0, and so has anything better than a degree. The last bin includes its end,
    as numpy's histograms do.

    Args:
        errors: (N,) the larger of both angles of each pair, degrees; not empty.
        threshold: in degrees.
    """
    return auc_of_histogram(histogram(errors, threshold), int(np.size(errors)))


def auc_of_histogram(counts: ArrayLike, pairs: int) -> float:
    """`auc` from `histogram`; histograms of several scenes may be added before.

    Args:
        counts: (threshold,).
        pairs: all pairs, those beyond the threshold included.
    """
    share: NDArray[Any] = np.asarray(counts) / pairs
    return float(np.cumsum(share).mean())
