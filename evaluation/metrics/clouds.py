"""Errors between point clouds: accuracy, completeness, normal consistency, chamfer distance.

Nearest neighbours come from scipy's KD-tree, from the extra `eval`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import environment_error
from covis.evaluation.metrics.pose import Float64
from covis.runtime.scene.similarity import Similarity, umeyama

Mask = Callable[[Float64], NDArray[np.bool_]]
"""Returns the mask (N,) of the points (N, 3), in the world of the truth, that take part."""

# Open3D's default for `estimate_normals`, which the published evaluations call.
_NORMAL_NEIGHBOURS = 30
_BATCH = 1 << 15
_ICP_POINTS = 20_000


@dataclass(frozen=True)
class CloudErrors:
    """Errors of a cloud, in units of the truth, as means and medians like CUT3R's tables.

    Attributes:
        accuracy: Mean distance from a predicted point to the nearest true one.
        accuracy_median: Median of the same distances.
        completeness: Mean distance from a true point to the nearest predicted one.
        completeness_median: Median of the same distances.
        chamfer: Mean of accuracy and completeness ("overall" of DTU's tables).
        normals: Mean |cos| between the normals of nearest points, averaged over both directions.
    """

    accuracy: float
    accuracy_median: float
    completeness: float
    completeness_median: float
    chamfer: float
    normals: float


def check_scipy() -> None:
    """Require scipy before hours of work, not after them.

    Raises:
        CovisError: Scipy is not installed.
    """
    try:
        import scipy.spatial  # noqa: F401
    except ImportError as error:
        raise environment_error(
            f"point clouds need scipy ({error})",
            hint="pip install 'covis[eval]', or leave `points` out of --metrics",
        ) from error


def kd_tree(points: Float64) -> Any:
    """Build a KD-tree of points (N, 3).

    Raises:
        CovisError: Scipy is not installed.
    """
    check_scipy()
    from scipy.spatial import KDTree

    return KDTree(points)


def compare(
    predicted: Float64,
    true: Float64,
    *,
    queries: int = 20_000,
    max_distance: float = np.inf,
    judged: Mask | None = None,
    demanded: Mask | None = None,
) -> CloudErrors:
    """Measure the distances between two aligned clouds, in both directions.

    With the defaults this is the protocol of 7-Scenes and NRGBD in Spann3R (Wang & Agapito 2024)
    and CUT3R (Wang et al. 2025): all points, means and medians. `max_distance`, `judged` and
    `demanded` are DTU's (Jensen et al., CVPR 2014; Aanaes et al., IJCV 2016): distances from
    20 mm on do not count, nor predictions outside the volume that the scanner observed, nor true
    points of the table.

    Args:
        predicted: (N, 3) finite points in the world of the truth.
        true: (K, 3) finite points.
        queries: Number of points of each cloud whose distance is taken, drawn at random (seeded).
            The other cloud stays whole, so this adds noise and no bias.
        max_distance: Distances of at least this are left out.
        judged: Selects the predicted points that count for accuracy.
        demanded: Selects the true points that count for completeness.

    Returns:
        The errors; NaN where no point remains.
    """
    if not len(predicted) or not len(true):
        nan = float("nan")
        return CloudErrors(nan, nan, nan, nan, nan, nan)
    p_tree, t_tree = kd_tree(predicted), kd_tree(true)
    forth, forth_cosine = _one_way(predicted, p_tree, t_tree, judged, queries, max_distance)
    back, back_cosine = _one_way(true, t_tree, p_tree, demanded, queries, max_distance)
    accuracy, completeness = _mean(forth), _mean(back)
    return CloudErrors(
        accuracy=accuracy,
        accuracy_median=_median(forth),
        completeness=completeness,
        completeness_median=_median(back),
        chamfer=(accuracy + completeness) / 2,
        normals=(_mean(forth_cosine) + _mean(back_cosine)) / 2,
    )


def _one_way(
    source: Float64, own: Any, other: Any, mask: Mask | None, queries: int, max_distance: float
) -> tuple[Float64, Float64]:
    """Return the distances of source points to the other cloud, and |cos| of the normals there."""
    points = source if mask is None else source[mask(source)]
    points = thinned(points, queries)
    distance, nearest = other.query(points)
    near = distance < max_distance
    found = other.data[nearest[near]]
    cosine = np.sum(normals(points[near], own) * normals(found, other), axis=1)
    return distance[near], np.abs(cosine)


def normals(points: Float64, tree: Any, neighbours: int = _NORMAL_NEIGHBOURS) -> Float64:
    """Estimate unit normals (N, 3) of unknown sign: the direction of least variance nearby.

    Principal components of the nearest points (Hoppe et al., SIGGRAPH 1992).

    Args:
        points: (N, 3) points to estimate normals at.
        tree: KD-tree of the cloud that the points belong to.
        neighbours: Number of nearest points to use, the point itself included.
    """
    k = min(neighbours, tree.n)
    out = np.empty_like(points)
    for first in range(0, len(points), _BATCH):
        part = points[first : first + _BATCH]
        _, index = tree.query(part, k=[*range(1, k + 1)])
        around = tree.data[index]
        around = around - around.mean(axis=1, keepdims=True)
        out[first : first + _BATCH] = np.linalg.eigh(around.transpose(0, 2, 1) @ around)[1][..., 0]
    return out


def closest_points(
    predicted: Float64, true: Float64, max_distance: float, rounds: int = 20
) -> Similarity:
    """Align `predicted` with `true` by a rigid motion, by iterated closest points.

    Besl and McKay, PAMI 1992, point to point; pairs farther apart than `max_distance` are ignored.
    It ends when no pair changes. The scale stays, because the alignment before has set it.

    Args:
        predicted: (N, 3) points, roughly aligned. A sample is used, because six numbers do not
            require more.
        true: (K, 3) points.
        max_distance: Largest distance of a pair, in units of the truth.
        rounds: Largest number of iterations.
    """
    motion = Similarity.identity()
    if not len(predicted) or not len(true):
        return motion
    tree, before = kd_tree(true), None
    predicted = thinned(predicted, _ICP_POINTS)
    for _ in range(rounds):
        moved = motion.points(predicted)
        distance, index = tree.query(moved, distance_upper_bound=max_distance)
        pairs = np.where(np.isfinite(distance), index, -1)
        near = pairs >= 0
        if near.sum() < 3 or (before is not None and np.array_equal(pairs, before)):
            break
        before = pairs
        motion = umeyama(predicted[near], true[pairs[near]], with_scale=False)
    return motion


def thinned(points: Float64, limit: int, seed: int = 0) -> Float64:
    """Draw at most `limit` of the points without replacement, in their order."""
    if len(points) <= limit:
        return points
    chosen = np.random.default_rng(seed).choice(len(points), limit, replace=False)
    return points[np.sort(chosen)]


def _mean(values: Float64) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _median(values: Float64) -> float:
    return float(np.median(values)) if len(values) else float("nan")
