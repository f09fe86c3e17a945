"""Remove the distortion of a lens from a photo, with numpy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covis.evaluation.metrics.pose import Float64

_ROWS = 128  # rows computed at a time, which bounds the memory


@dataclass(frozen=True)
class Distortion:
    """Brown's model of radial and tangential distortion, with OpenCV's names and order.

    With x, y the coordinates of a ray at z = 1 and r its distance from the axis, the lens shows the
    ray at x (1 + k1 r^2 + k2 r^4 + k3 r^6) + 2 p1 x y + p2 (r^2 + 2 x^2), and y likewise (Brown,
    "Decentering distortion of lenses", 1966).
    """

    k1: float = 0.0
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0
    k3: float = 0.0

    def __call__(self, rays: Float64) -> Float64:
        """Return where the lens shows rays, both (..., 2) at z = 1."""
        x, y = rays[..., 0], rays[..., 1]
        squared = x * x + y * y
        radial = 1 + squared * (self.k1 + squared * (self.k2 + squared * self.k3))
        across = 2 * x * y
        return np.stack(
            [
                x * radial + self.p1 * across + self.p2 * (squared + 2 * x * x),
                y * radial + self.p2 * across + self.p1 * (squared + 2 * y * y),
            ],
            axis=-1,
        )

    def invertible(self, radius: float) -> bool:
        """Return whether rays up to this distance from the axis keep their order from it."""
        squared = np.linspace(0, radius, 256) ** 2
        slope = 1 + squared * (3 * self.k1 + squared * (5 * self.k2 + squared * 7 * self.k3))
        return bool((slope > 0).all())


def largest_radius(intrinsics: Float64, size: tuple[int, int]) -> float:
    """Return the largest distance from the axis, at z = 1, of a pinhole's pixels.

    Args:
        intrinsics: (3, 3).
        size: (height, width) of the image.
    """
    height, width = size
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1.0]])
    rays = corners @ np.linalg.inv(intrinsics).T
    return float(np.max(np.linalg.norm(rays[:, :2], axis=1)))


def undistort(
    photo: NDArray[np.uint8],
    intrinsics: Float64,
    distortion: Distortion,
    size: tuple[int, int],
    offset: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.uint8]:
    """Resample a photo as a pinhole camera of the same intrinsics would have taken it.

    Args:
        photo: (h, w, 3) as the lens showed it.
        intrinsics: (3, 3) of the camera, in pixels whose top-left one has its centre at (0.5, 0.5).
        distortion: Distortion of the lens.
        size: (H, W) of the result.
        offset: Where in `photo` (u, v) the camera's pixel (0, 0) lies.

    Returns:
        (H, W, 3), bilinear; black where the photo shows nothing.
    """
    height, width = size
    out = np.zeros((height, width, 3), np.uint8)
    inverse = np.linalg.inv(intrinsics)
    for first in range(0, height, _ROWS):
        last = min(first + _ROWS, height)
        v, u = np.mgrid[first:last, :width] + 0.5
        pixels = np.stack([u, v, np.ones_like(u)], axis=-1)
        shown = distortion((pixels @ inverse.T)[..., :2])
        source = shown @ intrinsics[:2, :2].T + intrinsics[:2, 2] + np.array(offset)
        out[first:last] = _bilinear(photo, source)
    return out


def _bilinear(photo: NDArray[np.uint8], pixels: Float64) -> NDArray[np.uint8]:
    """Interpolate a photo (h, w, 3) at pixels (..., 2); black outside of it."""
    height, width = photo.shape[:2]
    limits = np.array([width, height])
    # Comparisons with NaN are false, so such pixels are outside.
    x_inside, y_inside = np.moveaxis((pixels >= 0) & (pixels <= limits), -1, 0)
    inside = x_inside & y_inside
    centers = np.where(inside[..., None], pixels - 0.5, 0.0).clip(0, limits - 1)
    low = np.floor(centers).astype(np.int64)
    high = np.minimum(low + 1, limits - 1)
    weight = (centers - low).astype(np.float32)[..., None]
    x, y = weight[..., 0, :], weight[..., 1, :]
    top = photo[low[..., 1], low[..., 0]] * (1 - x) + photo[low[..., 1], high[..., 0]] * x
    bottom = photo[high[..., 1], low[..., 0]] * (1 - x) + photo[high[..., 1], high[..., 0]] * x
    mixed: NDArray[np.float32] = top * (1 - y) + bottom * y
    return np.where(inside[..., None], np.round(mixed), 0).astype(np.uint8)
