"""True co-visibility of the views of a scene, from depth that a dataset knows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from covis.evaluation.datasets.truth import GroundTruth
from covis.evaluation.metrics.pose import Float64

_GRID = 48  # pixels looked at along the longer side
_TOLERANCE = 0.03  # how far a point may lie behind the surface seen there, relative to its depth


def true_covisibility(truth: GroundTruth, sizes: NDArray[np.integer]) -> Float64 | None:
    """The share of each view's known pixels that each other view sees.

    A pixel of view i is seen in view j where its point lies before the camera, falls inside the
    photo, and is not behind the surface that j sees there. Surfaces turned away from j count as
    seen where nothing hides them, which thin walls alone can do.

    Args:
        truth: M views, with intrinsics and depth.
        sizes: (M, 2) height and width of the photos.

    Returns:
        (M, M), row i for view i, 1 on the diagonal; None where the truth knows no depth. A view
        without any known depth sees and is seen by nothing but itself.
    """
    from covis.runtime.scene import geometry

    if truth.depth is None or truth.intrinsics is None:
        return None
    views = len(truth)
    seen = np.eye(views)
    for i in range(views):
        pixels = _grid(int(sizes[i][0]), int(sizes[i][1]))
        depth = truth.depth[i](pixels)
        known = np.isfinite(depth) & (depth > 0)
        if not known.any():
            continue
        world = geometry.unproject(
            pixels[known], depth[known], truth.intrinsics[i], truth.extrinsics[i]
        )
        for j in range(views):
            if i != j:
                seen[i, j] = _share_seen(world, truth, j, sizes[j])
    return seen


def _share_seen(world: Float64, truth: GroundTruth, view: int, size: NDArray[np.integer]) -> float:
    assert truth.depth is not None and truth.intrinsics is not None
    extrinsics = truth.extrinsics[view]
    camera = world @ extrinsics[:, :3].T + extrinsics[:, 3]
    z = camera[:, 2]
    before = z > 1e-9
    homogeneous = camera[before] @ truth.intrinsics[view].T
    pixels = homogeneous[:, :2] / homogeneous[:, 2:]
    inside = ((pixels >= 0) & (pixels < [float(size[1]), float(size[0])])).all(axis=1)
    surface = truth.depth[view](pixels[inside])
    with np.errstate(invalid="ignore"):
        visible = z[before][inside] <= surface * (1 + _TOLERANCE)
    return float(visible.sum() / len(world))


def _grid(height: int, width: int) -> Float64:
    """Pixel centres (N, 2), evenly over a photo, about 48 along its longer side."""
    step = max(1.0, max(height, width) / _GRID)
    v, u = (np.floor(np.arange(n / step) * step) + 0.5 for n in (height, width))
    grid = np.stack(np.broadcast_arrays(u[None, :], v[:, None]), axis=-1)
    return grid.reshape(-1, 2).astype(np.float64)
