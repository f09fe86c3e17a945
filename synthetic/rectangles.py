"""Rectangles of the image in which primitives are in sight."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from covis.synthetic.cameras import Cameras
from covis.synthetic.geometry import Primitives

# Nearest depth in metres at which a corner has a projection.
_NEAR = 0.01


def rectangles(
    primitives: Primitives, cameras: Cameras, height: int, width: int
) -> list[tuple[int, slice, slice]]:
    """
    Return the primitives that may be in sight of a camera, with their rows and columns.

    The rectangle is that of the box around the primitive: of its projected corners, and of the
    points where its edges pass the camera. The enclosing room, number 0, is left out.

    Args:
        primitives: K primitives.
        cameras: One camera.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
    """
    e, k = cameras.extrinsics[0], cameras.intrinsics(height, width)[0]
    corners = primitives.corners() @ e[:, :3].T + e[:, 3]
    points = np.concatenate([corners, _crossings(corners)], axis=1)
    z = points[..., 2:]
    pixel = points[..., :2] / np.maximum(z, _NEAR) * np.diag(k)[:2] + k[:2, 2]
    # One pixel more on each side, because rounding may differ from that of the rays.
    low = np.floor(np.where(z < _NEAR, np.inf, pixel).min(axis=1)) - 1
    high = np.ceil(np.where(z < _NEAR, -np.inf, pixel).max(axis=1)) + 1
    low = np.clip(low, 0, [width, height]).astype(int)
    high = np.clip(high, 0, [width, height]).astype(int)
    seen = (low < high).all(axis=1)
    return [
        (int(i), slice(low[i, 1], high[i, 1]), slice(low[i, 0], high[i, 0]))
        for i in np.flatnonzero(seen)
        if i > 0
    ]


def _crossings(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return where the edges of boxes (K, 8, 3) pass the depth `_NEAR`; z is -1 elsewhere."""
    pairs = [(i, i | bit) for bit in (1, 2, 4) for i in range(8) if not i & bit]
    start, end = (corners[:, list(side)] for side in zip(*pairs, strict=True))
    z0, z1 = start[..., 2:], end[..., 2:]
    passes = (z0 < _NEAR) != (z1 < _NEAR)
    share = np.where(passes, _NEAR - z0, 0.0) / np.where(passes, z1 - z0, 1.0)
    points = start + share * (end - start)
    points[..., 2] = np.where(passes[..., 0], _NEAR, -1.0)
    return points
