"""Similarity between the worlds of two parts, from the views that both contain.

Every shared view says how the worlds lie: its camera gives the rotation and a fixed point, its
depth the scale. The best of these answers, by a vote of all views, starts an iteratively reweighted
fit in closed form (weights of Geman and McClure, 1987) of all points and cameras together. Errors
are relative to the distance from the camera, as errors of predicted depth are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from covis.runtime.collection.shared_points import SharedPoints, shared_points
from covis.runtime.collection.stored_part import StoredPart
from covis.runtime.scene.geometry import Float64, camera_centers
from covis.runtime.scene.similarity import Similarity, nearest_rotation

# Relative error below which a point counts as an inlier.
INLIER = 0.1
# A view counts in full from this many points on: a view with more pixels has no more votes.
_FULL_VIEW = 200
# Weight of a camera's position, and of its orientation, over that of a full view's points. The
# points come from the same camera, so it adds little but where there are few of them.
_CAMERA = 0.1
# Relative error at which a point has half a vote against a start.
_VOTE = 0.05
# Width of the weights in medians of the errors: an inlier at the median keeps 79 % of its weight,
# an error of five medians 6 %.
_WIDTH = 2.9
# float32 depth is not more exact than this.
_EXACT = 1e-7
# Far below what the data can say.
_SETTLED = 1e-7
_ROUNDS = 50


@dataclass(frozen=True)
class JoinOptions:
    """Bounds of a sound junction.

    Attributes:
        min_points: Fewest pairs of points: a hundred spread over a view fix seven numbers safely.
        min_inliers: Smallest share of inliers. The estimate stands up to nearly half of wrong
            points; below that, what agrees may agree by chance.
        max_residual: Largest median error of the inliers, relative to the distance. Errors spread
            evenly up to the bound of an inlier, as those of a wrong fit do, have a median of 0.05
            to 0.08.
        max_rotation: Largest median disagreement of the shared orientations in degrees.
    """

    min_points: int = 100
    min_inliers: float = 0.4
    max_residual: float = 0.06
    max_rotation: float = 10.0


@dataclass(frozen=True)
class Junction:
    """Place of a part in the world of another.

    Attributes:
        similarity: Maps the world of the second part to that of the first.
        points: Number of pairs of points.
        inliers: Share of them, each view with one vote, that agree within `INLIER`.
        residual: Median error of the inliers, relative to their distance from the camera; infinite
            without any.
        rotation_deg: Median disagreement of the shared views' orientations, in degrees; infinite
            without shared cameras.
        centre: (3,) weighted mean of the shared points in the world of the second part.
        radius: Their root mean square distance from it, in the unit of the second part.
        sound: True if the junction can be relied on.
        reason: Why it is not sound; "" where it is.
    """

    similarity: Similarity
    points: int
    inliers: float
    residual: float
    rotation_deg: float
    centre: Float64
    radius: float
    sound: bool
    reason: str

    @property
    def sigma(self) -> float:
        """Uncertainty of the similarity at the shared points, relative to their distance."""
        return float(np.hypot(self.residual, np.radians(self.rotation_deg)))


def relative_similarity(
    first: StoredPart,
    second: StoredPart,
    shared_first: ArrayLike,
    shared_second: ArrayLike,
    options: JoinOptions | None = None,
) -> Junction:
    """Estimate the similarity from the world of `second` to that of `first`.

    Symmetric: with the parts exchanged the result is the inverse. The scale is always estimated; of
    metric parts its distance from 1 shows how far their metres disagree.

    Args:
        first: A part.
        second: Another part of the same collection.
        shared_first: (s,) indices of the shared views in the first part.
        shared_second: (s,) indices of the same views in the second part.
        options: Bounds of a sound junction.

    Returns:
        A junction that is not sound, with a reason, where the views do not fix a similarity.

    Raises:
        CovisError: The parts have images of different sizes.
    """
    rows = np.asarray(shared_first, np.int64), np.asarray(shared_second, np.int64)
    return join_points(shared_points(first, second, *rows), options or JoinOptions())


def join_points(shared: SharedPoints, options: JoinOptions) -> Junction:
    """Estimate the similarity from pairs of points and cameras: see `relative_similarity`."""
    counts = np.bincount(shared.view, minlength=len(shared.cameras_first))
    seen = counts > 0
    if not seen.any():
        reason = (
            "the shared views have no depth that is valid in both parts"
            if len(seen)
            else "no shared view has a camera in both parts"
        )
        return _nothing(reason)
    base = shared.confidence / np.maximum(counts, _FULL_VIEW)[shared.view]
    if not base.sum() > 0.0:
        return _nothing("no shared point has any confidence")
    starts = [_of_view(shared, int(view)) for view in np.flatnonzero(seen)]
    found = min(starts, key=lambda start: _vote(shared, start, base))
    weights = base
    for _ in range(_ROUNDS):
        before = found
        errors, angles, shifts = _errors(shared, found)
        width = max(_WIDTH * _median(errors, base), _EXACT)
        weights = base * _geman_mcclure(errors, width)
        found = _fit(shared, weights, _CAMERA * _geman_mcclure(np.hypot(angles, shifts), width))
        if _change(shared, before, found) < _SETTLED:
            break
    return _judged(shared, found, base, weights, options)


def _of_view(shared: SharedPoints, view: int) -> Similarity:
    """Return the similarity of one view alone: of its camera, and the median ratio of depth."""
    own = shared.view == view
    scale = float(np.median(shared.distance_first[own] / shared.distance_second[own]))
    rotation = shared.rotations[view]
    centres = (
        camera_centers(shared.cameras_first[view]),
        camera_centers(shared.cameras_second[view]),
    )
    return Similarity(scale, rotation, centres[0] - scale * rotation @ centres[1])


def _vote(shared: SharedPoints, start: Similarity, base: Float64) -> float:
    """Return the cost of a start; bounded for each point, so that a wrong view has one vote."""
    errors = _errors(shared, start)[0]
    return float((base * errors / (errors + _VOTE)).sum())


def _fit(shared: SharedPoints, weights: Float64, cameras: Float64) -> Similarity:
    """Fit all points and cameras with these weights in closed form.

    Umeyama 1991 for rotation and translation, with the cameras' own rotations in the sum; the scale
    is the symmetric one of Horn ("Closed-form solution of absolute orientation using unit
    quaternions", 1987, section 2.E): a least-squares scale shrinks with the noise of the source,
    and a chain of a hundred parts would shrink with it.
    """
    x = np.concatenate([shared.first, camera_centers(shared.cameras_first)])
    y = np.concatenate([shared.second, camera_centers(shared.cameras_second)])
    square = np.concatenate([shared.distance, shared.view_distance]) ** 2
    w = (np.concatenate([weights, cameras]) / square)[:, None]
    mean_x, mean_y = (w * x).sum(axis=0) / w.sum(), (w * y).sum(axis=0) / w.sum()
    dx, dy = x - mean_x, y - mean_y
    scale = float(np.sqrt((w * dx * dx).sum() / (w * dy * dy).sum()))
    # An angle moves a point by that share of its distance, and counts like it.
    turns = np.einsum("s,sij->ij", cameras, shared.rotations)
    rotation = nearest_rotation((w * dx).T @ dy + turns)
    return Similarity(scale, rotation, mean_x - scale * rotation @ mean_y)


def _errors(shared: SharedPoints, motion: Similarity) -> tuple[Float64, Float64, Float64]:
    """Return the relative errors (N,) of points, the angles (s,) and relative shifts of cameras."""
    off = np.linalg.norm(motion.points(shared.second) - shared.first, axis=-1)
    unit = np.sqrt(motion.scale)
    chord = np.linalg.norm(shared.rotations - motion.rotation, axis=(1, 2)) / np.sqrt(8)
    angles = 2 * np.arcsin(np.clip(chord, 0, 1))
    moved = motion.points(camera_centers(shared.cameras_second))
    shifts = np.linalg.norm(moved - camera_centers(shared.cameras_first), axis=-1)
    return off / (unit * shared.distance), angles, shifts / (unit * shared.view_distance)


def _geman_mcclure(errors: Float64, width: float) -> Float64:
    weights: Float64 = (width**2 / (width**2 + errors**2)) ** 2
    return weights


def _median(values: Float64, weights: Float64) -> float:
    """Return the weighted median."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(total, total[-1] / 2)]])


def _change(shared: SharedPoints, before: Similarity, after: Similarity) -> float:
    """Return the largest relative move of a point between two similarities."""
    moved = np.linalg.norm(before.points(shared.second) - after.points(shared.second), axis=-1)
    return float(np.max(moved / (after.scale * shared.distance_second)))


def _judged(
    shared: SharedPoints,
    found: Similarity,
    base: Float64,
    weights: Float64,
    options: JoinOptions,
) -> Junction:
    """Measure the errors that remain, and compare them with the bounds."""
    errors, angles, _ = _errors(shared, found)
    inlier = errors < INLIER
    share = float(base[inlier].sum() / base.sum())
    residual = _median(errors[inlier], base[inlier]) if share > 0.0 else float("inf")
    angle = float(np.degrees(np.median(angles)))
    w = (weights / weights.sum())[:, None]
    centre = (w * shared.second).sum(axis=0)
    radius = float(np.sqrt((w * (shared.second - centre) ** 2).sum()))
    reasons = []
    if len(errors) < options.min_points:
        reasons.append(f"{len(errors)} shared points, and {options.min_points} are needed")
    elif share < options.min_inliers:
        reasons.append(f"only {share:.0%} of the shared points agree within {INLIER:.0%}")
    elif residual > options.max_residual:
        reasons.append(f"the shared points disagree by {residual:.1%} of their distance")
    elif angle > options.max_rotation:
        reasons.append(f"the shared cameras disagree by {angle:.1f} degrees")
    return Junction(
        found, len(errors), share, residual, angle, centre, radius, not reasons, "".join(reasons)
    )


def _nothing(reason: str) -> Junction:
    infinite = float("inf")
    return Junction(
        Similarity.identity(), 0, 0.0, infinite, infinite, np.zeros(3), 1.0, False, reason
    )
