"""Resize a decoded photo to the model's image, with the exact map back to original pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from covis.engines.bundle.pixel_rule import PixelRule, place

if TYPE_CHECKING:
    from PIL import Image

WHITE = 255


@dataclass(frozen=True)
class PixelTransform:
    """Exact map between the pixels of a photo and those of the model's image, by axis.

    model = original * scale + offset, with pixel centres at + 0.5 on both sides; original pixels
    are those of the upright photo, after EXIF rotation.

    Attributes:
        scale: Factors (x, y), model pixels per original pixel.
        offset: Offset (x, y) in model pixels.
        model_size: Size (H, W) of the model's image.
        original_size: Size (height, width) of the upright photo.
        box: Model pixels (top, left, bottom, right) that show the photo, ends exclusive. The
            pixels outside are padding.
    """

    scale: tuple[float, float]
    offset: tuple[float, float]
    model_size: tuple[int, int]
    original_size: tuple[int, int]
    box: tuple[int, int, int, int]

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Map from original to model pixels as a homogeneous matrix (3, 3)."""
        (sx, sy), (ox, oy) = self.scale, self.offset
        return np.array([[sx, 0.0, ox], [0.0, sy, oy], [0.0, 0.0, 1.0]])

    @property
    def inverse_matrix(self) -> NDArray[np.float64]:
        """Map from model to original pixels as a homogeneous matrix (3, 3)."""
        (sx, sy), (ox, oy) = self.scale, self.offset
        return np.array([[1.0 / sx, 0.0, -ox / sx], [0.0, 1.0 / sy, -oy / sy], [0.0, 0.0, 1.0]])

    def to_model(self, intrinsics: ArrayLike) -> NDArray[np.float64]:
        """Convert intrinsics (..., 3, 3) of the original photo to those of the model's image."""
        return self.matrix @ np.asarray(intrinsics, np.float64)

    def to_original(self, intrinsics: ArrayLike) -> NDArray[np.float64]:
        """Convert intrinsics (..., 3, 3) of the model's image to those of the original photo."""
        return self.inverse_matrix @ np.asarray(intrinsics, np.float64)

    def pixels_to_model(self, pixels: ArrayLike) -> NDArray[np.float64]:
        """Convert original pixels (u, v), (..., 2), to model pixels."""
        return np.asarray(pixels, np.float64) * self.scale + self.offset

    def pixels_to_original(self, pixels: ArrayLike) -> NDArray[np.float64]:
        """Convert model pixels (u, v), (..., 2), to original pixels."""
        return (np.asarray(pixels, np.float64) - self.offset) / self.scale

    def valid(self) -> NDArray[np.bool_]:
        """Return the mask (H, W) of the model pixels that come from the photo, not from padding."""
        mask = np.zeros(self.model_size, bool)
        top, left, bottom, right = self.box
        mask[top:bottom, left:right] = True
        return mask


def valid_pixels(transforms: Sequence[PixelTransform]) -> NDArray[np.bool_]:
    """Return the mask (M, H, W) of the model pixels that come from the photos, not from padding."""
    return np.stack([transform.valid() for transform in transforms])


def original_intrinsics(
    transforms: Sequence[PixelTransform], intrinsics: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Convert intrinsics (M, 3, 3) of the model's images to those of the original photos."""
    return np.stack([transform.inverse_matrix for transform in transforms]) @ intrinsics


def transform_for(rule: PixelRule, height: int, width: int) -> PixelTransform:
    """Return the transform of an upright photo of `height` x `width` pixels under `rule`."""
    p = place(rule, height, width)
    return PixelTransform(
        scale=(p.width / width, p.height / height),
        offset=(float(p.left), float(p.top)),
        model_size=(rule.height, rule.width),
        original_size=(height, width),
        box=(
            max(p.top, 0),
            max(p.left, 0),
            min(p.top + p.height, rule.height),
            min(p.left + p.width, rule.width),
        ),
    )


def preprocess(photo: Image.Image, rule: PixelRule) -> tuple[NDArray[np.uint8], PixelTransform]:
    """Resize an upright RGB photo to the model's image, uint8 (H, W, 3), with its transform.

    Raises:
        CovisError: The photo's aspect ratio is beyond 100:1.
    """
    from PIL import Image

    transform = transform_for(rule, photo.height, photo.width)
    p = place(rule, photo.height, photo.width)
    resample = Image.Resampling.LANCZOS if p.lanczos else Image.Resampling.BICUBIC
    resized = np.asarray(photo.resize((p.width, p.height), resample))
    canvas = np.full((rule.height, rule.width, 3), WHITE, np.uint8)
    top, left, bottom, right = transform.box
    canvas[top:bottom, left:right] = resized[
        top - p.top : bottom - p.top, left - p.left : right - p.left
    ]
    return canvas, transform


def model_mask(mask: NDArray[np.bool_], rule: PixelRule) -> NDArray[np.bool_]:
    """Map a mask (height, width) of an upright photo to the model's pixels (H, W).

    A model pixel is true where the mask is true on at least half of its area; padding is false.
    """
    from PIL import Image

    height, width = mask.shape
    p = place(rule, height, width)
    share = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    resized = np.asarray(share.resize((p.width, p.height), Image.Resampling.BOX)) >= 128
    top, left, bottom, right = transform_for(rule, height, width).box
    out = np.zeros((rule.height, rule.width), bool)
    out[top:bottom, left:right] = resized[
        top - p.top : bottom - p.top, left - p.left : right - p.left
    ]
    return out
