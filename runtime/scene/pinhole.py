"""Fit pinhole cameras to the directions in which a model sees its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from covis.runtime.photos.names import enumerated
from covis.runtime.photos.preprocess import PixelTransform
from covis.runtime.scene.geometry import Float64, pixel_centers

Array = NDArray[Any]

DOUBTFUL = 0.005
"""Median distance, as a share of the image's diagonal, from which directions are no pinhole's.

It is also the share of directions that may point backwards. At 518 x 392 the distance is 3.2
pixels. Measured there on synthetic lenses: radial distortion of k1 = +-0.1 at 60 degrees leaves 1.7
pixels and a random error of 0.1 degrees 1.0, whereas k1 = -0.2 leaves 3.8 and equidistant fisheyes
of 90 and 120 degrees 6.4 and 10.8.
"""
_THREADS = 8  # each with the arrays of one view
_LEAST_SPREAD = 1e-6  # of x/z about its mean; a rounding error of float32 is a tenth of it


@dataclass(frozen=True)
class PinholeFit:
    """Pinhole cameras of M views, and how far they are from the directions they were fitted to.

    Attributes:
        intrinsics: (M, 3, 3) in model pixels. Not finite where no camera has the directions.
        median: (M,) weighted median distance, in model pixels, between a pixel and the camera's
            projection of its direction; NaN without any.
        largest: (M,) largest such distance.
        in_front: (M,) share of the directions that point forward (z > 0), in [0, 1].
        subject: Name of the directions in messages: "rays" or "points".
        centred: True if the principal points were fixed at the image's centre.
    """

    intrinsics: Float64
    median: Float64
    largest: Float64
    in_front: Float64
    subject: str
    centred: bool

    def summary(self) -> dict[str, Any]:
        """Return the distances of all views together as JSON values, for a scene's provenance."""
        return {
            "fitted_to": self.subject,
            "principal_point": "centre" if self.centred else "fitted",
            "median_pixels": _json_number(np.median(self.median)),
            "largest_pixels": _json_number(np.max(self.largest)),
        }

    def doubtful(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the mask (M,) of the views whose directions are not those of a pinhole camera."""
        far: NDArray[np.bool_] = self.median > DOUBTFUL * np.hypot(*size)
        return far | (self.in_front < 1.0 - DOUBTFUL)


def fit_pinhole(
    directions: Array,
    size: tuple[int, int],
    weight: Array | None = None,
    *,
    subject: str = "rays",
    centred: bool = False,
) -> PinholeFit:
    """Fit focal lengths and principal point of each view to directions.

    Weighted least squares of u = fx x/z + cx and v = fy y/z + cy, exact for a pinhole camera. Each
    direction's weight is multiplied by the fourth power of its cosine with the axis, because an
    error in the angle moves x/z by up to 1/cosine^2: so all angles count the same, and directions
    at right angles to the axis do not decide the camera. Directions that point backwards or are not
    finite are left out. Where all weights are zero, all directions count alike.

    Args:
        directions: (M, H, W, 3) rays or points in the camera's frame, of any length.
        size: Image size (H, W).
        weight: (M, H, W) weights, at least 0; 1 where None.
        subject: Name of the directions in messages.
        centred: Fix the principal point at the image's centre.

    Returns:
        A camera for each view. Where the fitted focal length is not positive (mirrored
        directions), it is the ratio of the spreads of u and x/z, with the principal point at the
        centre. It is infinite where all directions are parallel and NaN where none points forward.
    """
    weights = [None] * len(directions) if weight is None else weight
    with ThreadPoolExecutor(_THREADS, "covis-cameras") as pool:
        views = pool.map(lambda d, w: _fit_view(d, w, size, centred), directions, weights)
    intrinsics, median, largest, in_front = zip(*views, strict=True)
    return PinholeFit(
        np.stack(intrinsics),
        np.array(median),
        np.array(largest),
        np.array(in_front),
        subject,
        centred,
    )


def pinhole_matrices(focal: Array, center: ArrayLike) -> Float64:
    """Return intrinsics (..., 3, 3) of focal lengths (..., 2) and principal points (..., 2)."""
    intrinsics = np.zeros((*np.shape(focal)[:-1], 3, 3))
    intrinsics[..., [0, 1], [0, 1]] = focal
    intrinsics[..., :2, 2] = center
    intrinsics[..., 2, 2] = 1.0
    return intrinsics


def pinhole_note(
    names: Sequence[str], fit: PinholeFit, transforms: Sequence[PixelTransform]
) -> str | None:
    """Return the line that names the views whose directions no pinhole camera has.

    Args:
        names: M names of the views.
        fit: Cameras that were fitted.
        transforms: Maps of the photos' pixels to the model's, to give distances at the photo's
            size.
    """
    doubtful: list[int] = np.flatnonzero(fit.doubtful(transforms[0].model_size)).tolist()
    if not doubtful:
        return None
    enlarged = np.array([np.prod(transforms[i].scale) ** -0.5 for i in doubtful])
    median = np.nanmax([0.0, *(fit.median[doubtful] * enlarged)])
    largest = np.nanmax([0.0, *(fit.largest[doubtful] * enlarged)])
    backwards = 1.0 - min(fit.in_front[doubtful].tolist())
    middle = " with its principal point in the middle" if fit.centred else ""
    behind = f", and up to {backwards:.1%} of them point backwards" if backwards > 5e-4 else ""
    cure = "undistort the photos" + (", or use them uncropped" if fit.centred else "")
    views = f"{len(doubtful)} of {len(names)} views ({enumerated([names[i] for i in doubtful])})"
    return (
        f"the {fit.subject} of {views} are not those of a pinhole camera{middle}: the fitted "
        f"cameras miss them by up to {median:.3g} (median) and {largest:.3g} (largest) pixels of "
        f"the photo{behind} ({cure})"
    )


def _fit_view(
    directions: Array, weight: Array | None, size: tuple[int, int], centred: bool
) -> tuple[Float64, float, float, float]:
    """Return intrinsics, median and largest distance and the share in front, of one view."""
    d = directions.astype(np.float64)
    with np.errstate(invalid="ignore"):
        length = np.linalg.norm(d, axis=-1)
        front = np.isfinite(length) & (d[..., 2] > 1e-6 * length)
    pixels, rays, cosine = pixel_centers(*size)[front], d[front], d[front][:, 2] / length[front]
    given = np.ones(len(rays)) if weight is None else _usable_weights(weight[front])
    w = given * cosine**4
    slopes = rays[:, :2] / rays[:, 2:]
    middle = np.array([size[1] / 2, size[0] / 2])
    axes = [_fit_axis(slopes[:, a], pixels[:, a], w, middle[a], centred) for a in (0, 1)]
    focal, center = np.array(axes).T
    with np.errstate(invalid="ignore"):
        distance = np.linalg.norm(slopes * focal + center - pixels, axis=1)
    share = float(front.mean())
    intrinsics = pinhole_matrices(focal, center)
    if not np.isfinite(distance).all() or not len(distance):
        return intrinsics, np.nan, np.nan, share
    return intrinsics, _weighted_median(distance, given), float(distance.max()), share


def _usable_weights(weight: Array) -> Float64:
    """Return finite weights (N,): 0 for those that are not, and 1 for all where none is over 0."""
    w = np.where(np.isfinite(weight), weight, 0.0).astype(np.float64)
    return w if w.any() else np.ones(len(w))


def _weighted_median(values: Float64, weight: Float64) -> float:
    order = np.argsort(values)
    up_to = np.cumsum(weight[order])
    return float(values[order[np.searchsorted(up_to, up_to[-1] / 2)]])


def _fit_axis(
    slope: Float64, pixel: Float64, weight: Float64, middle: float, centred: bool
) -> tuple[float, float]:
    """Return focal length and principal point of one axis, where pixel = focal slope + point."""
    total = weight.sum()
    if not total > 0.0:
        return np.nan, middle
    mean_slope, mean_pixel = (weight * slope).sum() / total, (weight * pixel).sum() / total
    spread = np.sqrt((weight * (slope - mean_slope) ** 2).sum() / total)
    if spread <= _LEAST_SPREAD * (1.0 + abs(mean_slope)):
        return np.inf, middle
    origin = (0.0, middle) if centred else (mean_slope, mean_pixel)
    s, p = slope - origin[0], pixel - origin[1]
    focal = float((weight * s * p).sum() / (weight * s * s).sum())
    if focal > 0.0:
        return focal, float(origin[1] - focal * origin[0])
    return float(np.sqrt((weight * (pixel - mean_pixel) ** 2).sum() / total) / spread), middle


def _json_number(value: Any) -> float | None:
    return round(float(value), 3) if np.isfinite(value) else None
