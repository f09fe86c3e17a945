"""Merge points that lie on each other: the most confident point of each voxel.

A scene joined from parts sees most surfaces in many views. Taking an even share of all points would
keep thousands for a wall that every view shows, and few for one that two views show.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import user_error
from covis.runtime.scene.geometry import Float64
from covis.runtime.scene.percentiles import percentiles
from covis.runtime.scene.points import PointSamples, PointStream, joined
from covis.runtime.scene.scene import Scene

_BITS = 21  # of a voxel's coordinate along each axis: three of them make an int64
_MOST = 2  # points of voxels before these double, as a multiple of the limit
_ROOM = 3  # points in the table before it is searched for such voxels, likewise

Indices = NDArray[np.int64]


def fuse(points: PointStream, limit: int) -> PointSamples:
    """Return the most confident point of each voxel: at most `limit` points, in view order.

    The first voxels are as large as a pixel at the median depth. Where more than twice `limit` of
    them have a point, their size doubles; of the rest, an even share is taken. Larger voxels
    consist of whole smaller ones, so the result does not depend on when that happens. Of equally
    confident points, the first is kept. At most `3 limit` points and those of one view are in
    memory, 20 bytes for each of the former.

    Args:
        points: Points of a scene.
        limit: Largest number of points.

    Raises:
        CovisError: `limit` is not positive.
    """
    if limit < 1:
        raise user_error(f"{limit} is less than 1", where="--max-points", hint="give a number")
    scene = points.scene
    size, middle = voxel_size(scene), _middle(scene)
    table = _Table(limit)
    for view in scene.walk():
        own = points.view(view)
        table.add(view, _voxels((own.xyz - middle) / size), own.conf)
    view_of, place = table.result()
    ends = np.searchsorted(view_of, np.arange(len(scene) + 1)).tolist()
    spans = list(pairwise(ends))
    return joined(
        points.view(view, place[slice(*spans[view])])
        for view in scene.walk()
        if spans[view][0] < spans[view][1]
    )


def voxel_size(scene: Scene) -> float:
    """Return the width of a pixel at the median depth: median depth / median focal length."""
    usable = scene.usable_cameras()

    def depths(view: int) -> NDArray[Any]:
        depth = scene.depth[view]
        with np.errstate(invalid="ignore"):
            used: NDArray[Any] = depth[scene.valid[view] & np.isfinite(depth) & (depth > 0)]
        return used if usable[view] else used[:0]

    middle = percentiles(scene, depths, 50.0)
    if middle is None:
        return 1.0
    return float(middle) / float(np.median(scene.intrinsics[usable][:, [0, 1], [0, 1]]))


class _Table:
    """Most confident point of each voxel so far, in the order of views and of points in them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._level = 0  # voxels are 2^level of the smallest wide
        # Columns: smallest voxel, confidence, view, place among the points of the view.
        self._blocks: list[tuple[NDArray[Any], ...]] = []
        self._rows = 0

    def add(self, view: int, key: Indices, conf: NDArray[np.float32]) -> None:
        """Add the points of the next view."""
        best = self._best(key, conf)
        place = best.astype(np.int32)
        self._append(key[best], conf[best], np.full_like(place, view), place)
        if self._rows > _ROOM * self._limit:
            self._shrink()

    def result(self) -> tuple[Indices, Indices]:
        """Return the views (n,) and the places (n,) of at most `limit` points."""
        self._shrink()
        _, _, view, place = self._blocks[0]
        if len(view) > self._limit:
            chosen = np.linspace(0, len(view) - 1, self._limit).astype(np.int64)
            view, place = view[chosen], place[chosen]
        return view.astype(np.int64), place.astype(np.int64)

    def _append(self, *columns: NDArray[Any]) -> None:
        self._blocks.append(columns)
        self._rows += len(columns[0])

    def _shrink(self) -> None:
        columns = [np.concatenate(column) for column in zip(*self._blocks, strict=True)]
        self._blocks, self._rows = [], 0
        best = self._best(columns[0], columns[1])
        while len(best) > _MOST * self._limit:
            self._level += 1
            best = best[self._best(columns[0][best], columns[1][best])]
        self._append(*(column[best] for column in columns))

    def _best(self, key: Indices, conf: NDArray[np.float32]) -> Indices:
        """Return the ascending indices of the most confident point of each voxel."""
        voxel = key & _level_mask(self._level)
        order = np.lexsort((-conf, voxel))  # stable: of equal ones, the first comes first
        new = np.ones(len(order), bool)
        new[1:] = voxel[order[1:]] != voxel[order[:-1]]
        return np.sort(order[new]).astype(np.int64)


def _middle(scene: Scene) -> Float64:
    """Return the median position (3,) of the usable cameras; without any, there are no points."""
    centers = scene.camera_centers()[scene.usable_cameras()]
    middle: Float64 = np.median(centers, axis=0) if len(centers) else np.zeros(3)
    return middle


def _voxels(scaled: Float64) -> Indices:
    """Return the voxels (N,) of points (N, 3) in units of a voxel, as three integers in one.

    Points farther than a million voxels from the middle count as being there, so that among those
    behind each other only one is kept.
    """
    half = 1 << (_BITS - 1)
    cell = np.clip(np.floor(scaled), -half, half - 1).astype(np.int64) + half
    key: Indices = (cell[:, 0] << 2 * _BITS) | (cell[:, 1] << _BITS) | cell[:, 2]
    return key


def _level_mask(level: int) -> int:
    """Return the bits of a voxel's key that remain for voxels 2^level times as wide."""
    kept = (1 << _BITS) - (1 << level)
    return kept << 2 * _BITS | kept << _BITS | kept
