"""Find the edges of surfaces in depth maps, where points float between two surfaces."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Float32 = NDArray[np.float32]

DEPTH_JUMP = 0.03  # as a share of the depth
NORMAL_TURN = 5.0  # degrees


def surface_edges(points: NDArray[Any], depth: NDArray[Any], valid: Mask) -> Mask:
    """Return the mask (H, W) of pixels at the edge of a surface.

    At an edge, the z-depth of the valid pixels of a 3 x 3 window spans over 3 % of the pixel's own,
    and within one pixel of it a normal differs by over 5 degrees from one of its eight neighbours.
    The second condition spares surfaces that are seen at a grazing angle.

    Args:
        points: (H, W, 3) points of the pixels, in any frame.
        depth: (H, W) z-depth.
        valid: (H, W) mask of the pixels that have a point; the others are no edges.
    """
    with np.errstate(invalid="ignore"):
        valid = valid & np.isfinite(points).all(axis=-1) & np.isfinite(depth) & (depth > 0)
    return valid & _depth_jumps(depth, valid) & _normals_turn(points, valid)


def _depth_jumps(depth: NDArray[Any], valid: Mask) -> Mask:
    largest = reduce(np.maximum, _windows(np.where(valid, depth, -np.inf), -np.inf))
    smallest = reduce(np.minimum, _windows(np.where(valid, depth, np.inf), np.inf))
    jumps: Mask = largest - smallest > DEPTH_JUMP * np.where(valid, depth, 0.0)
    return jumps


def _normals_turn(points: NDArray[Any], valid: Mask) -> Mask:
    """Return where a normal within one pixel is over 5 degrees from one of its neighbours.

    A pixel without a normal is at right angles to all neighbours.
    """
    normals, known = _normals(np.where(valid[..., None], points, 0.0).astype(np.float32), valid)
    cosine = np.ones(valid.shape, np.float32)
    for neighbour, there in zip(_windows(normals, 0.0), _windows(known, False), strict=True):
        between = np.einsum("hwi,hwi->hw", normals, neighbour)
        cosine = np.minimum(cosine, np.where(there, between, 1.0))
    turns: Mask = reduce(np.minimum, _windows(cosine, 1.0)) < np.cos(np.radians(NORMAL_TURN))
    return turns


def _normals(points: Float32, valid: Mask) -> tuple[Float32, Mask]:
    """Return unit normals (H, W, 3) and the mask (H, W) of the pixels that have one.

    A normal is the mean of the unit normals of up to four triangles, each of the pixel and two of
    its direct neighbours.
    """
    around, there = list(_windows(points, 0.0)), list(_windows(valid, False))
    cross = (1, 3, 7, 5)  # up, left, down, right
    total, known = np.zeros_like(points), np.zeros_like(valid)
    for a, b in zip(cross, cross[1:] + cross[:1], strict=True):
        triangle = valid & there[a] & there[b]
        normal: Float32 = _unit(np.cross(around[a] - points, around[b] - points))
        total += np.where(triangle[..., None], normal, np.float32(0))
        known |= triangle
    return _unit(total), known


def _unit(vectors: Float32) -> Float32:
    """Return vectors (..., 3) at unit length; those of no length stay as they are."""
    length = np.sqrt(np.einsum("...i,...i->...", vectors, vectors))[..., None]
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32, copy=False)


def _windows(values: NDArray[Any], outside: float) -> Iterator[NDArray[Any]]:
    """Yield (H, W, ...) values of the pixels' 3 x 3 windows, offset by offset, in row order."""
    H, W = values.shape[:2]
    margin = ((1, 1), (1, 1), *((0, 0),) * (values.ndim - 2))
    padded = np.pad(values, margin, constant_values=outside)
    for row in range(3):
        for column in range(3):
            yield padded[row : row + H, column : column + W]
