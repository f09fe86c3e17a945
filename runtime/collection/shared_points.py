"""What two parts say about the views that both contain: pairs of points and pairs of cameras."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import user_error
from covis.runtime.collection.stored_part import StoredPart
from covis.runtime.scene.geometry import Float64, camera_centers, unproject

# Neighbouring pixels have nearly the same error of depth: more of them tell nothing new, and many
# shared views need fewer each.
_POINTS_OF_A_VIEW = 2_000
_POINTS_OF_A_PAIR = 40_000


@dataclass(frozen=True)
class SharedPoints:
    """N pairs of points and s pairs of cameras of two parts, each in the world of its part.

    Attributes:
        first: (N, 3) points in the world of the first part.
        second: (N, 3) the points of the same pixels in the world of the second part.
        view: (N,) index of the camera, in [0, s).
        confidence: (N,) lower of the two relative confidences, in [0, 1]: c / (c + c0), where c0 is
            the part's median over the shared views. 0.5 where the model has none.
        distance_first: (N,) distance of the point from its camera, in the unit of the first part.
        distance_second: (N,) the same in the unit of the second part.
        cameras_first: (s, 3, 4) extrinsics in the world of the first part.
        cameras_second: (s, 3, 4) the same in the world of the second part.
    """

    first: Float64
    second: Float64
    view: NDArray[np.int64]
    confidence: Float64
    distance_first: Float64
    distance_second: Float64
    cameras_first: Float64
    cameras_second: Float64

    @cached_property
    def distance(self) -> Float64:
        """Geometric mean (N,) of the two distances of each point."""
        found: Float64 = np.sqrt(self.distance_first * self.distance_second)
        return found

    @cached_property
    def view_distance(self) -> Float64:
        """Median (s,) of `distance` over the points of each view; over all where it has none."""
        own = [self.distance[self.view == view] for view in range(len(self.cameras_first))]
        return np.array([np.median(d if len(d) else self.distance) for d in own])

    @cached_property
    def rotations(self) -> Float64:
        """Rotations (s, 3, 3) from the second world to the first, as each camera gives it."""
        found: Float64 = (
            self.cameras_first[:, :, :3].transpose(0, 2, 1) @ self.cameras_second[:, :, :3]
        )
        return found


def shared_points(
    first: StoredPart,
    second: StoredPart,
    shared_first: NDArray[np.int64],
    shared_second: NDArray[np.int64],
) -> SharedPoints:
    """Read the shared views one by one, and take the surest pixel of each cell of a grid.

    Args:
        first: A part.
        second: Another part of the same collection.
        shared_first: (s,) indices of the shared views in the first part.
        shared_second: (s,) indices of the same views in the second part.

    Raises:
        CovisError: The parts have images of different sizes.
    """
    if first.image_size != second.image_size:
        raise user_error(
            f"two parts have images of {first.image_size} and {second.image_size} pixels",
            hint="remove the parts; one bundle must compute all of them",
        )
    both = first.usable[shared_first] & second.usable[shared_second]
    a, b = np.asarray(shared_first)[both], np.asarray(shared_second)[both]
    levels = _level(first, a), _level(second, b)
    count = min(_POINTS_OF_A_VIEW, _POINTS_OF_A_PAIR // max(len(a), 1))
    pieces = [
        _view(first, second, (int(i), int(j)), levels, count) for i, j in zip(a, b, strict=True)
    ]
    empty = (np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0))
    x, y, confidence = (np.concatenate(part) for part in zip(empty, *pieces, strict=True))
    view = np.repeat(np.arange(len(a)), [len(piece[2]) for piece in pieces])
    cameras = first.extrinsics[a], second.extrinsics[b]
    return SharedPoints(
        x, y, view, confidence,
        np.linalg.norm(x - camera_centers(cameras[0])[view], axis=-1),
        np.linalg.norm(y - camera_centers(cameras[1])[view], axis=-1),
        *cameras,
    )  # fmt: skip


def _view(
    first: StoredPart,
    second: StoredPart,
    rows: tuple[int, int],
    levels: tuple[float, float],
    count: int,
) -> tuple[Float64, Float64, Float64]:
    """Return about `count` points of a view in both worlds, and their confidence."""
    depths, confidences = [], []
    valid = np.ones(first.image_size, np.bool_)
    for part, row, level in zip((first, second), rows, levels, strict=True):
        depths.append(np.asarray(part.depth[row], np.float64))
        confidences.append(_relative(part, row, level))
        valid &= part.valid[row] & (depths[-1] > 0)
    v, u = np.nonzero(valid)
    sure = np.minimum(*confidences)[v, u]
    side = max(1, math.ceil(math.sqrt(len(v) / count)))
    cell = (v // side) * first.image_size[1] + u // side
    order = np.lexsort((-sure, cell))
    chosen = order[np.unique(cell[order], return_index=True)[1]]
    v, u = v[chosen], u[chosen]
    pixels = np.stack([u, v], axis=-1) + 0.5
    points = [
        unproject(pixels, depth[v, u], part.intrinsics[row], part.extrinsics[row])
        for part, row, depth in zip((first, second), rows, depths, strict=True)
    ]
    return points[0], points[1], sure[chosen]


def _level(part: StoredPart, rows: NDArray[np.int64]) -> float:
    """Return the median over the views of their median confidence, 1 where there is none."""
    if part.depth_conf is None:
        return 1.0
    medians = [
        float(np.median(part.depth_conf[row][part.valid[row]]))
        for row in rows
        if part.valid[row].any()
    ]
    return float(np.median(medians)) if medians else 1.0


def _relative(part: StoredPart, row: int, level: float) -> Float64:
    """Return c / (c + c0) of the pixels (H, W) of a view."""
    if part.depth_conf is None:
        return np.full(part.image_size, 0.5)
    c = np.maximum(np.asarray(part.depth_conf[row], np.float64), 0.0)
    return c / np.maximum(c + level, np.finfo(np.float64).tiny)
