"""A decoded photo onto the model's canvas, and the exact way back to original pixels."""

from __future__ import annotations

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
    """The exact map between the pixels of a photo and those of the model's image, by axis.

    model = original * scale + offset, with pixel centres at + 0.5 on both sides; original pixels
    are those of the upright photo, after EXIF rotation.

    Attributes:
        scale: (x, y) factors, model pixels per original pixel.
        offset: (x, y) in model pixels.
        model_size: (H, W).
        original_size: (height, width) of the upright photo.
        box: (top, left, bottom, right) of the model pixels that show the photo; what lies outside
            is padding. End values are exclusive.
    """

    scale: tuple[float, float]
    offset: tuple[float, float]
    model_size: tuple[int, int]
    original_size: tuple[int, int]
    box: tuple[int, int, int, int]

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The map from original to model pixels as a homogeneous matrix (3, 3)."""
        (sx, sy), (ox, oy) = self.scale, self.offset
        return np.array([[sx, 0.0, ox], [0.0, sy, oy], [0.0, 0.0, 1.0]])

    @property
    def inverse_matrix(self) -> NDArray[np.float64]:
        """The map from model to original pixels as a homogeneous matrix (3, 3)."""
        (sx, sy), (ox, oy) = self.scale, self.offset
        return np.array([[1.0 / sx, 0.0, -ox / sx], [0.0, 1.0 / sy, -oy / sy], [0.0, 0.0, 1.0]])

    def to_model(self, intrinsics: ArrayLike) -> NDArray[np.float64]:
        """Intrinsics (..., 3, 3) of the model's image from those of the original photo."""
        return self.matrix @ np.asarray(intrinsics, np.float64)

    def to_original(self, intrinsics: ArrayLike) -> NDArray[np.float64]:
        """Intrinsics (..., 3, 3) of the original photo from those of the model's image."""
        return self.inverse_matrix @ np.asarray(intrinsics, np.float64)

    def pixels_to_model(self, pixels: ArrayLike) -> NDArray[np.float64]:
        """(..., 2) original (u, v) to model (u, v)."""
        return np.asarray(pixels, np.float64) * self.scale + self.offset

    def pixels_to_original(self, pixels: ArrayLike) -> NDArray[np.float64]:
        """(..., 2) model (u, v) to original (u, v)."""
        return (np.asarray(pixels, np.float64) - self.offset) / self.scale

    def valid(self) -> NDArray[np.bool_]:
        """(H, W): the model pixels that come from the photo, not from padding."""
        mask = np.zeros(self.model_size, bool)
        top, left, bottom, right = self.box
        mask[top:bottom, left:right] = True
        return mask


def transform_for(rule: PixelRule, height: int, width: int) -> PixelTransform:
    """The transform of an upright photo of `height` x `width` pixels under `rule`."""
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
    """An upright RGB photo as the model sees it: uint8 (H, W, 3), and its transform.

    Raises:
        CovisError: the photo's aspect ratio is beyond 100:1.
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
