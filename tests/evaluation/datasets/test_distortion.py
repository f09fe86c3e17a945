"""Photos without the distortion of their lens: the same world as through a pinhole."""

from __future__ import annotations

import numpy as np
import pytest

from covis.evaluation.datasets.distortion import Distortion, largest_radius, undistort
from covis.evaluation.datasets.files import pinhole

pytest.importorskip("scipy", reason="distorted photos are made with scipy")
from tests.evaluation.datasets.layouts import Float64
from tests.evaluation.datasets.rigs import LENS, rays_at, shown_at

SIZE = (60, 80)
CAMERA = pinhole(70.0, 68.0, 37.0, 33.0)


def world(rays: Float64) -> Float64:
    """Smooth colours (..., 3) of a plane at z = 1, in 0 to 255."""
    x, y = rays[..., 0], rays[..., 1]
    waves = [np.sin(4 * x), np.cos(3 * y), np.sin(3 * x + 2 * y)]
    return np.asarray(127.5 + 120 * np.stack(waves, axis=-1))


def rays_of(pixels: Float64) -> Float64:
    return np.asarray((pixels - CAMERA[:2, 2]) / CAMERA[[0, 1], [0, 1]])


def grid(height: int, width: int) -> Float64:
    v, u = np.mgrid[:height, :width] + 0.5
    return np.asarray(np.stack([u, v], axis=-1))


def test_the_lens_agrees_with_the_documented_formula() -> None:
    rays = np.random.default_rng(0).uniform(-0.6, 0.6, (50, 2))
    np.testing.assert_allclose(Distortion(*LENS)(rays), shown_at(rays), atol=1e-12)


@pytest.mark.parametrize("lens", [LENS, (0.2, 0.0, 0.0, 0.0, 0.0), (-0.2, 0.05, 0.004, 0.003, 0.0)])
def test_undistorted_photo_shows_what_a_pinhole_sees(lens: tuple[float, ...]) -> None:
    """The photo lies at an offset in a larger frame."""
    offset = (8.0, 7.5)
    frame_size = (SIZE[0] + 15, SIZE[1] + 16)
    shown = rays_of(grid(*frame_size) - offset)
    frame = np.round(world(rays_at(shown, lens))).astype(np.uint8)
    found = undistort(frame, CAMERA, Distortion(*lens), SIZE, offset)
    expected = world(rays_of(grid(*SIZE)))
    # Half a grey level of rounding twice, and the curvature of the waves between pixels.
    assert np.abs(found - expected).max() < 2.0
    plain = frame[7 : 7 + SIZE[0], 8 : 8 + SIZE[1]].astype(float)
    assert np.abs(plain - expected).max() > 4.0


def test_without_distortion_pixels_stay() -> None:
    photo = np.random.default_rng(0).integers(1, 256, (*SIZE, 3)).astype(np.uint8)
    np.testing.assert_array_equal(undistort(photo, CAMERA, Distortion(), SIZE), photo)


def test_what_the_photo_does_not_show_is_black() -> None:
    photo = np.full((*SIZE, 3), 200, np.uint8)
    moved = undistort(photo, CAMERA, Distortion(), SIZE, (10.0, 0.0))
    assert (moved[:, :70] == 200).all() and not moved[:, 71:].any()


def test_lens_that_folds_the_image_is_recognised() -> None:
    radius = largest_radius(CAMERA, SIZE)
    corner = rays_of(np.array([80.0, 0.0]))
    assert radius == pytest.approx(np.hypot(*corner))
    assert Distortion(*LENS).invertible(radius)
    limit = -1 / (3 * radius**2)  # where 1 + 3 k1 r^2 = 0
    assert Distortion(k1=0.99 * limit).invertible(radius)
    assert not Distortion(k1=1.01 * limit).invertible(radius)
