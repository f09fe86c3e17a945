"""A scene with known truth: cameras inside a coloured globe, and photos of it of every kind.

Each camera sees every point in front of it, because the globe is convex. The colour of a point is a
smooth function of its position, so the right colour is known in every pixel of every image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from covis.engines.bundle.pixel_rule import PixelRule
from covis.runtime.photos.images import Images, load_images
from covis.runtime.scene import geometry
from covis.runtime.scene.scene import Scene

RADIUS = 3.0
RULE = PixelRule("vggt_pad", 84, 84)
Array = NDArray[Any]


@dataclass(frozen=True)
class View:
    """True camera of a photo of `height` x `width` upright pixels."""

    height: int
    width: int
    intrinsics: Array
    extrinsics: Array

    def depth(self, pixels: Array, intrinsics: Array | None = None) -> Array:
        """Return the z-depth of the globe at pixels (..., 2)."""
        K = self.intrinsics if intrinsics is None else intrinsics
        one = np.ones(pixels.shape[:-1])
        shape = (*pixels.shape[:-1], 3)
        at_one = geometry.unproject(pixels.reshape(-1, 2), one.reshape(-1), K, self.extrinsics)
        centre = geometry.camera_centers(self.extrinsics)
        ray = at_one.reshape(shape) - centre
        a, b = (ray * ray).sum(-1), (ray @ centre)
        return np.asarray((-b + np.sqrt(b * b - a * (centre @ centre - RADIUS**2))) / a)

    def photo(self) -> NDArray[np.uint8]:
        """Render the upright photo, uint8 (height, width, 3)."""
        pixels = geometry.pixel_centers(self.height, self.width)
        xyz = geometry.unproject(
            pixels.reshape(-1, 2), self.depth(pixels).reshape(-1), self.intrinsics, self.extrinsics
        )
        return colours(xyz).reshape(self.height, self.width, 3)


def colours(xyz: Array) -> NDArray[np.uint8]:
    """Return the colours uint8 (N, 3) of points (N, 3) of the globe."""
    waves = np.array([[1.1, 0.3, -0.6], [-0.4, 1.2, 0.5], [0.7, -0.5, 1.0]])
    return np.rint(127.5 + 110 * np.sin(xyz @ waves.T + [0.3, 1.1, 2.0])).astype(np.uint8)


def random_view(height: int, width: int, seed: int) -> View:
    """Return a camera near the middle of the globe, with unequal focal lengths."""
    rng = np.random.default_rng(seed)
    rotation = geometry.quaternion_to_rotation(rng.normal(size=4))
    motion = np.concatenate([rotation, rng.normal(0, 0.5, (3, 1))], axis=1)
    focal = rng.uniform(0.7, 1.2, 2) * max(height, width)
    K = np.array([[focal[0], 0, width / 2], [0, focal[1], height / 2], [0, 0, 1.0]])
    return View(height, width, K, motion)


def globe_scene(views: Sequence[View], images: Images, **changes: Any) -> Scene:
    """Return the true scene of these views, as a perfect model would give it."""
    H, W = images.uint8.shape[2:]
    model = np.stack(
        [t.to_model(v.intrinsics) for t, v in zip(images.transforms, views, strict=True)]
    )
    grid = geometry.pixel_centers(H, W)
    depth = [v.depth(grid, K).astype(np.float32) for v, K in zip(views, model, strict=True)]
    valid = np.stack([t.valid() for t in images.transforms])
    scene: dict[str, Any] = {
        "names": images.names,
        "extrinsics": np.stack([v.extrinsics for v in views]),
        "intrinsics": model,
        "intrinsics_original": np.stack([v.intrinsics for v in views]),
        "image_size": (H, W),
        "original_sizes": images.original_sizes,
        "images": images.uint8,
        "depth": np.stack(depth),
        "valid": valid if images.masks is None else valid & images.masks,
        "similarity": np.eye(len(views), dtype=np.float32),
        "pair_levels": np.full((1, len(views), len(views)), 2, np.int8),
        "layer_map": np.zeros(4, np.int64),
        "paths": images.paths,
        "sources": images.sources,
        "stamps": images.stamps,
        "mask_paths": images.mask_paths or None,
    }
    return Scene(**{**scene, **changes})


def every_kind(folder: Path) -> tuple[Scene, list[View]]:
    """Return a scene from photos of every kind, portrait and landscape: see `_SAVERS`."""
    folder.mkdir()
    sizes = [(200, 150), (150, 200), (160, 120), (120, 160), (190, 140), (140, 190), (180, 132)]
    views = [random_view(h, w, seed) for seed, (h, w) in enumerate(sizes)]
    photos = [save(view.photo(), folder) for view, save in zip(views, _SAVERS, strict=True)]
    return globe_scene(views, load_images(photos, RULE)), views


def sideways(photo: Array, folder: Path) -> Path:
    """Save a JPEG as phones do: stored turned, with EXIF orientation 6."""
    path = folder / "IMG 0001.JPG"
    exif = Image.Exif()
    exif[0x0112] = 6  # the reader must turn it clockwise by 90 degrees
    turned = Image.fromarray(photo).transpose(Image.Transpose.ROTATE_90)
    turned.save(path, exif=exif, quality=97, subsampling=0)
    return path


def plain_jpeg(photo: Array, folder: Path, name: str = "IMG_0001.jpg") -> Path:
    """Save an ordinary JPEG."""
    Image.fromarray(photo).save(folder / name, quality=97, subsampling=0)
    return folder / name


def transparent(photo: Array, folder: Path) -> Path:
    """Save a PNG whose upper third is transparent."""
    alpha = np.full(photo.shape[:2], 255, np.uint8)
    alpha[: len(alpha) // 3] = 0
    path = folder / "Küche\u3000写真 %20.png"
    Image.fromarray(np.dstack([photo, alpha])).save(path)
    return path


def _in_memory(photo: Array, folder: Path) -> Image.Image:
    return Image.fromarray(photo)


def _webp(photo: Array, folder: Path) -> Path:
    Image.fromarray(photo).save(folder / "con.webp", quality=95)
    return folder / "con.webp"


_SAVERS: list[Callable[[Array, Path], Any]] = [
    sideways,
    plain_jpeg,
    transparent,
    lambda photo, folder: photo,
    _in_memory,
    lambda photo, folder: plain_jpeg(photo, folder, "-x.y\tz.jpeg"),
    _webp,
]


def colour_error(pixels: Array, image: Array, rgb: Array) -> tuple[float, float]:
    """Return the mean absolute colour error of points at their pixels, and that of chance.

    Args:
        pixels: (N, 2) coordinates (u, v) of the points in the image; all in front of the camera.
        image: uint8 (height, width, 3) as a reader opens the file.
        rgb: uint8 (N, 3) colours of the points.
    """
    column, row = np.floor(pixels).astype(int).T
    inside = (column >= 0) & (row >= 0) & (column < image.shape[1]) & (row < image.shape[0])
    assert inside.sum() > 50, "too few points fall into the image"
    there = image[row[inside], column[inside]].astype(float)
    mine = rgb[inside].astype(float)
    shuffled = np.random.default_rng(0).permutation(mine)
    return float(np.abs(there - mine).mean()), float(np.abs(there - shuffled).mean())
