"""True co-visibility of rendered views: which share of one view another sees."""

from __future__ import annotations

import array_api_compat

from covis.synthetic.textures import Array

# Largest distance, relative to depth, of a visible point behind the surface at its pixel.
_OCCLUSION_TOLERANCE = 0.01


def covisibility(
    depth: Array, points: Array, normals: Array, intrinsics: Array, extrinsics: Array
) -> Array:
    """
    Return the share of each view's pixels that each other view sees.

    A point of view i is seen by view j if it projects into j's image, in front of it, faces j, and
    is not behind the plane of the surface that j sees at that pixel (by more than 1 % of its
    depth). The plane instead of the depth, because neighbouring pixels of slanted surfaces differ
    much in depth, so that such surfaces would hide themselves.

    Args:
        depth: (M, H, W) z-depth.
        points: (M, H, W, 3) points in the world.
        normals: (M, H, W, 3) unit normals in the world, facing the cameras.
        intrinsics: (M, 3, 3) in pixels.
        extrinsics: (M, 3, 4) world to camera.

    Returns:
        (M, M) float64; row i, column j: share of view i's pixels.
    """
    xp = array_api_compat.array_namespace(depth)
    views, height, width = depth.shape
    flat, outward = xp.reshape(points, (-1, 3)), xp.reshape(normals, (-1, 3))
    columns = []
    for j in range(views):
        camera = flat @ extrinsics[j, :, :3].T + extrinsics[j, :, 3]
        z = camera[:, 2]
        in_front = z > 1e-6
        inverse = 1.0 / xp.where(in_front, z, 1.0)
        x = intrinsics[j, 0, 0] * camera[:, 0] * inverse + intrinsics[j, 0, 2]
        y = intrinsics[j, 1, 1] * camera[:, 1] * inverse + intrinsics[j, 1, 2]
        seen = in_front & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        (index,) = xp.nonzero(seen)
        column, row = xp.astype(x[index], xp.int64), xp.astype(y[index], xp.int64)
        eye = -extrinsics[j, :, :3].T @ extrinsics[j, :, 3]
        facing = xp.sum(outward[index] * (eye - flat[index]), axis=-1) > 0.0
        behind = xp.sum(normals[j][row, column] * (flat[index] - points[j][row, column]), axis=-1)
        seen[index] = facing & (behind > -_OCCLUSION_TOLERANCE * depth[j][row, column])
        columns.append(xp.mean(xp.reshape(xp.astype(seen, xp.float64), (views, -1)), axis=1))
    return xp.stack(columns, axis=1)
