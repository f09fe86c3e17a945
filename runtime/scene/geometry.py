"""Camera geometry in float64: rotations, rigid motions, projection and its inverse.

Frames: cameras are OpenCV (x right, y down, z forward); an extrinsic (3, 4) = [R | t] maps world
to camera; pixel (column u, row v) has its centre at (u + 0.5, v + 0.5). Every function takes any
number of leading dimensions, which broadcast.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating[Any]]
Float64 = NDArray[np.float64]


def quaternion_to_rotation(quaternion: ArrayLike) -> Float64:
    """Convert quaternions (..., 4), x, y, z, w, of any length to rotation matrices (..., 3, 3).

    The factor 2 / |q|^2 replaces the normalisation; the zero quaternion gives NaN.
    """
    q = np.asarray(quaternion, np.float64)
    x, y, z, w = np.moveaxis(q, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = 2.0 / np.sum(q * q, axis=-1)
        rows = (
            (1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)),
            (s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)),
            (s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)),
        )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def rotation_to_quaternion(rotation: ArrayLike) -> Float64:
    """Convert rotations (..., 3, 3) to unit quaternions (..., 4), x, y, z, w, with w >= 0.

    The eigenvector method of Bar-Itzhack (J. Guidance, 2000): no branches, no loss of accuracy
    near half turns, and the best-fitting rotation where the input is only nearly a rotation.
    """
    r = np.asarray(rotation, np.float64)
    k = np.empty((*r.shape[:-2], 4, 4))
    k[..., :3, :3] = r + np.swapaxes(r, -1, -2)
    trace = np.trace(r, axis1=-2, axis2=-1)
    k[..., range(3), range(3)] -= trace[..., None]
    axial = np.stack(
        [r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]], -1
    )
    k[..., 3, :3] = k[..., :3, 3] = axial
    k[..., 3, 3] = trace
    q = np.linalg.eigh(k)[1][..., -1]
    return np.where(q[..., 3:] < 0, -q, q)


def invert_rigid(motion: ArrayLike) -> Float64:
    """Invert rigid motions [R | t] (..., 3, 4): [R^T | -R^T t]."""
    m = np.asarray(motion, np.float64)
    rotation = np.swapaxes(m[..., :3], -1, -2)
    return np.concatenate([rotation, -rotation @ m[..., 3:]], axis=-1)


def compose_rigid(second: ArrayLike, first: ArrayLike) -> Float64:
    """Compose rigid motions (..., 3, 4): `first`, then `second`."""
    a, b = np.asarray(second, np.float64), np.asarray(first, np.float64)
    rotation = a[..., :3] @ b[..., :3]
    return np.concatenate([rotation, a[..., :3] @ b[..., 3:] + a[..., 3:]], axis=-1)


def relative_pose(source: ArrayLike, target: ArrayLike) -> Float64:
    """Return the motion (..., 3, 4) from one camera's frame to another's, from their extrinsics."""
    return compose_rigid(target, invert_rigid(source))


def camera_centers(extrinsics: ArrayLike) -> Float64:
    """Return camera positions (..., 3) in the world."""
    return invert_rigid(extrinsics)[..., 3]


def pixel_centers(height: int, width: int) -> Float64:
    """Return the coordinates (H, W, 2) of the pixel centres, (u, v) = (column, row) + 0.5."""
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([u, v], axis=-1)


def unproject(
    pixels: ArrayLike, depth: ArrayLike, intrinsics: ArrayLike, extrinsics: ArrayLike
) -> Float64:
    """Return the world points (..., N, 3) of pixels (..., N, 2) at z-depth (..., N).

    Args:
        pixels: (..., N, 2) coordinates (u, v) in pixels.
        depth: (..., N) distance along the camera's z axis, in world units.
        intrinsics: (..., 3, 3) in pixels, with skew or without.
        extrinsics: (..., 3, 4) world to camera.
    """
    uv = np.asarray(pixels, np.float64)
    homogeneous = np.concatenate([uv, np.ones_like(uv[..., :1])], axis=-1)
    k = np.asarray(intrinsics, np.float64)
    rays = np.linalg.solve(k, np.swapaxes(homogeneous, -1, -2))
    camera = np.swapaxes(rays, -1, -2) * np.asarray(depth, np.float64)[..., None]
    world = invert_rigid(extrinsics)
    return camera @ np.swapaxes(world[..., :3], -1, -2) + np.swapaxes(world[..., 3:], -1, -2)


def project(
    points: ArrayLike, intrinsics: ArrayLike, extrinsics: ArrayLike
) -> tuple[Float64, Float64]:
    """Return pixels (..., N, 2) and z-depth (..., N) of world points (..., N, 3).

    Points in the camera's plane or behind it have a depth <= 0, and no meaningful pixels.
    """
    e = np.asarray(extrinsics, np.float64)
    camera = np.asarray(points, np.float64) @ np.swapaxes(e[..., :3], -1, -2)
    camera = camera + np.swapaxes(e[..., 3:], -1, -2)
    image = camera @ np.swapaxes(np.asarray(intrinsics, np.float64), -1, -2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return image[..., :2] / image[..., 2:], camera[..., 2]
