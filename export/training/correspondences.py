"""True matches between the views of a sample, from depth and cameras, with an occlusion test."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from covis.export.models.dinov2 import PATCH
from covis.export.training.data import Batch

# Largest difference between the depth of a point and that of the surface which a view sees at the
# point's pixel, relative to the depth. A patch centre is matched to a nearest pixel, not to a
# subpixel, so surfaces that are seen at a grazing angle differ by a few percent.
OCCLUSION_TOLERANCE = 0.05
# Nearest distance of a point in front of a camera, in units of the sample.
_NEAR = 0.05


@dataclass(frozen=True)
class Correspondences:
    """Matches of the P patch centres of every view i in every view j; entry [b, i, j, p].

    Attributes:
        position: Where view j sees the point, (B, M, M, P, 2): x and y in units of half the image,
            -1 at the left and upper border, 1 at the right and lower one.
        patch: Index of the patch of view j that contains this position, int64 (B, M, M, P).
        visible: True where view j sees the point: inside of its image, in front of it and not
            occluded, bool (B, M, M, P). `position` and `patch` mean nothing elsewhere.
        points: Patch centres in the frame of view 0, (B, M, P, 3).
    """

    position: Tensor
    patch: Tensor
    visible: Tensor
    points: Tensor


def correspondences(batch: Batch) -> Correspondences:
    """Project the patch centres of every view of a batch into every view."""
    height, width = batch.depth.shape[-2:]
    rows, columns = (
        torch.arange(PATCH // 2, side, PATCH, device=batch.depth.device) for side in (height, width)
    )
    points = batch.points[:, :, rows][:, :, :, columns].flatten(2, 3)
    rotation, translation = batch.extrinsics[..., :3], batch.extrinsics[..., 3]
    # (B, i, j, P, 3): points of view i in the frame of camera j.
    local = torch.einsum("bjxy,bipy->bijpx", rotation, points) + translation[:, None, :, None]
    z = local[..., 2]
    half_angle = batch.pose[..., 7:].flip(-1) / 2  # horizontal, vertical
    focal = 1 / torch.tan(half_angle)  # in units of half the image
    position = local[..., :2] / z.clamp(min=_NEAR)[..., None] * focal[:, None, :, None]
    inside = (position.abs() < 1).all(dim=-1) & (z > _NEAR)
    pixel = ((position + 1) / 2 * position.new_tensor([width, height])).long()
    x, y = pixel[..., 0].clamp(0, width - 1), pixel[..., 1].clamp(0, height - 1)
    views = batch.depth.shape[1]
    surface = batch.depth.flatten(2)[:, None].expand(-1, views, -1, -1).gather(3, y * width + x)
    visible = inside & ((surface - z).abs() < OCCLUSION_TOLERANCE * z)
    patch = y // PATCH * (width // PATCH) + x // PATCH
    return Correspondences(position, patch, visible, points)
