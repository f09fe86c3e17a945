"""Conversions of the models' own camera outputs, in torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """Convert quaternions xyzw (..., 4) of any length but 0 to rotation matrices (..., 3, 3).

    R = I + 2 / |q|^2 (w [v]x + [v]x^2) for q = (v, w). A multiple of q gives the same R.
    """
    x, y, z, w = quaternion.unbind(-1)
    s = 2.0 / (quaternion * quaternion).sum(-1)
    rows = (
        (1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)),
        (s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)),
        (s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def pose_to_cameras(pose: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Convert VGGT's pose encoding (..., 9) to extrinsics (..., 3, 4) and intrinsics (..., 3, 3).

    World to camera, OpenCV axes, intrinsics in pixels, principal point in the middle. A field of
    view of 0 gives an infinite focal length.
    """
    extrinsic = torch.cat([quaternion_to_matrix(pose[..., 3:7]), pose[..., :3, None]], dim=-1)
    focal_y = (height / 2) / torch.tan(pose[..., 7] / 2)
    focal_x = (width / 2) / torch.tan(pose[..., 8] / 2)
    zero, one = torch.zeros_like(focal_x), torch.ones_like(focal_x)
    rows = (
        (focal_x, zero, one * (width / 2)),
        (zero, focal_y, one * (height / 2)),
        (zero, zero, one),
    )
    return extrinsic, torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def nearest_rotation(matrix: Tensor) -> Tensor:
    """Return the rotation (..., 3, 3) closest to a matrix.

    Orthogonal Procrustes (Schoenemann 1966): R = U diag(1, 1, det(U V^T)) V^T of the singular value
    decomposition U S V^T.
    """
    u, _, vt = torch.linalg.svd(matrix)
    sign = torch.linalg.det(u @ vt)
    flip = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1)
    rotation: Tensor = (u * flip.unsqueeze(-2)) @ vt
    return rotation


def rotation_from_nine(nine: Tensor) -> Tensor:
    """Convert nine free numbers (..., 9), row-major, to a rotation: unit rows, then nearest."""
    return nearest_rotation(functional.normalize(torch.unflatten(nine, -1, (3, 3)), dim=-1))


def homogeneous(rotation: Tensor, translation: Tensor) -> Tensor:
    """Join rotation (..., 3, 3) and translation (..., 3) to a rigid transform (..., 4, 4)."""
    upper = torch.cat([rotation, translation.unsqueeze(-1)], dim=-1)
    return functional.pad(upper, (0, 0, 0, 1)) + functional.pad(
        torch.ones_like(upper[..., :1, :1]), (3, 0, 3, 0)
    )


def transform(pose: Tensor, points: Tensor) -> Tensor:
    """Transform points (..., H, W, 3) by the rigid transforms pose (..., 3 or 4, 4)."""
    rotation, translation = pose[..., :3, :3], pose[..., :3, 3]
    turned = points.flatten(-3, -2) @ rotation.transpose(-1, -2) + translation.unsqueeze(-2)
    return torch.unflatten(turned, -2, points.shape[-3:-1])
