"""Pinhole cameras fitted to rays: exact for pinhole rays, named where rays are no pinhole's."""

from __future__ import annotations

import numpy as np
import pytest

from covis.engines.bundle.pixel_rule import PixelRule
from covis.runtime.photos.preprocess import PixelTransform, transform_for
from covis.runtime.scene.geometry import pixel_centers
from covis.runtime.scene.pinhole import PinholeFit, fit_pinhole, pinhole_note

SIZE = 98, 126


def slopes(focal: float | tuple[float, float], center: tuple[float, float]) -> np.ndarray:
    """x/z and y/z (H, W, 2) of the pixels of a pinhole camera."""
    return (pixel_centers(*SIZE) - center) / focal


def rays(slope: np.ndarray) -> np.ndarray:
    """Unit rays (H, W, 3) of x/z and y/z."""
    with_z = np.concatenate([slope, np.ones((*slope.shape[:2], 1))], axis=-1)
    return with_z / np.linalg.norm(with_z, axis=-1, keepdims=True)


def fisheye(diagonal_degrees: float) -> np.ndarray:
    """Unit rays (H, W, 3) of an equidistant fisheye, whose angle grows with the radius."""
    offset = pixel_centers(*SIZE) - (SIZE[1] / 2, SIZE[0] / 2)
    angle = offset * np.radians(diagonal_degrees) / np.hypot(*SIZE)
    theta = np.linalg.norm(angle, axis=-1, keepdims=True)
    return np.concatenate([angle * np.sinc(theta / np.pi), np.cos(theta)], axis=-1)


def matrix(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def note(fit: PinholeFit, transforms: list[PixelTransform] | None = None) -> str | None:
    names = [f"{i}.jpg" for i in range(len(fit.median))]
    return pinhole_note(
        names,
        fit,
        transforms or [transform_for(PixelRule("mapanything", *SIZE), *SIZE)] * len(names),
    )


def test_a_principal_point_off_the_middle_is_found_exactly() -> None:
    middle = np.array([SIZE[1] / 2, SIZE[0] / 2])
    offsets = [(25.0, 10.0), (0.0, 0.0), (-40.0, 30.0)]
    exact = np.stack([rays(slopes(400.0, middle + offset)) for offset in offsets])
    fit = fit_pinhole(exact, SIZE)
    wanted = np.stack([matrix(400, 400, *(middle + offset)) for offset in offsets])
    np.testing.assert_allclose(fit.intrinsics, wanted, atol=1e-8)
    assert fit.largest.max() < 1e-8
    assert (fit.in_front == 1.0).all()
    rounded = fit_pinhole(exact.astype(np.float32), SIZE)
    np.testing.assert_allclose(rounded.intrinsics, wanted, atol=1e-3)
    assert note(rounded) is None


def test_rays_of_any_length_and_focal_length() -> None:
    """Wide, narrow and unequal focal lengths; the length of a direction has no effect."""
    cameras = [(25.0, 27.0, 60.0, 50.0), (90.0, 11.0, 70.0, 20.0), (9000.0, 9100.0, 63.0, 49.0)]
    exact = np.stack([rays(slopes((fx, fy), (cx, cy))) for fx, fy, cx, cy in cameras])
    exact *= np.random.default_rng(0).uniform(0.1, 9, size=(3, *SIZE, 1))
    fit = fit_pinhole(exact, SIZE)
    np.testing.assert_allclose(fit.intrinsics, [matrix(*c) for c in cameras], rtol=1e-9)


def test_directions_that_are_no_directions_are_left_out() -> None:
    exact = np.stack([rays(slopes(100.0, (60.0, 50.0)))] * 2)
    for i, bad in enumerate([(1, 1, -1), (np.nan, 0, 1), (0, 0, np.inf), (0, 0, 0), (1, 0, 1e-9)]):
        exact[0, i, 3 + i] = bad
    fit = fit_pinhole(exact, SIZE)
    np.testing.assert_allclose(fit.intrinsics[0], matrix(100, 100, 60, 50), rtol=1e-9)
    assert fit.in_front[0] == pytest.approx(1 - 5 / (SIZE[0] * SIZE[1]))
    assert not fit.doubtful(SIZE).any()


def test_weights_decide_which_directions_count() -> None:
    exact = np.stack([rays(slopes(100.0, (60.0, 50.0)))] * 3)
    exact[:, :40] = rays(slopes(50.0, (60.0, 50.0)))[:40]
    weight = np.ones((3, *SIZE))
    weight[0, :40] = 0.0
    weight[1, :40], weight[1, 40:] = np.nan, 1e-30
    weight[2] = 0.0  # no direction is surer than another
    fit = fit_pinhole(exact, SIZE, weight)
    wanted = np.stack([matrix(100, 100, 60, 50)] * 2)
    np.testing.assert_allclose(fit.intrinsics[:2], wanted, rtol=1e-9)
    assert fit.median[:2].max() < 1e-9
    np.testing.assert_array_equal(fit.intrinsics[2], fit_pinhole(exact, SIZE).intrinsics[2])


def test_the_centre_may_be_fixed() -> None:
    shifted = rays(slopes(100.0, (SIZE[1] / 2 + 25, SIZE[0] / 2)))[None]
    fit = fit_pinhole(shifted, SIZE, centred=True, subject="points")
    np.testing.assert_array_equal(fit.intrinsics[0, :2, 2], [SIZE[1] / 2, SIZE[0] / 2])
    text = note(fit)
    assert text is not None
    assert "the points of 1 of 1 views (0.jpg) are not those of a pinhole camera with its" in text
    assert "use them uncropped" in text


def test_directions_without_a_camera() -> None:
    """Parallel ones have an infinite focal length; without any in front there is none at all."""
    parallel = np.broadcast_to([0.1, 0.2, 1.0], (1, *SIZE, 3))
    backwards = -rays(slopes(100.0, (60.0, 50.0)))[None]
    fit = fit_pinhole(np.concatenate([parallel, parallel.astype(np.float32), backwards]), SIZE)
    np.testing.assert_array_equal(fit.intrinsics[:2, [0, 1], [0, 1]], np.inf)
    assert np.isnan(fit.intrinsics[2, [0, 1], [0, 1]]).all()
    assert np.isnan(fit.median).all()
    assert "up to 100.0% of them point backwards" in str(note(fit))


def test_mirrored_rays_get_a_positive_focal_length_and_are_named() -> None:
    mirrored = slopes(100.0, (SIZE[1] / 2, SIZE[0] / 2)) * (-1, 1)
    fit = fit_pinhole(rays(mirrored)[None], SIZE)
    assert fit.intrinsics[0, 0, 0] > 0
    assert fit.intrinsics[0, 1, 1] == pytest.approx(100)
    assert "0.jpg" in str(note(fit))


def test_fisheye_rays_are_named_with_their_distance_at_the_photos_size() -> None:
    """A photo of ten times the model's size has ten times the distance."""
    exact = rays(slopes(100.0, (60.0, 50.0)))
    fit = fit_pinhole(np.stack([exact, fisheye(120.0), exact]), SIZE)
    np.testing.assert_array_equal(fit.doubtful(SIZE), [False, True, False])
    photo = transform_for(PixelRule("mapanything", *SIZE), 10 * SIZE[0], 10 * SIZE[1])
    assert note(fit, [photo] * 3) == (
        "the rays of 1 of 3 views (1.jpg) are not those of a pinhole camera: the fitted cameras "
        f"miss them by up to {10 * fit.median[1]:.3g} (median) and {10 * fit.largest[1]:.3g} "
        "(largest) pixels of the photo (undistort the photos)"
    )
    assert fit.summary()["largest_pixels"] == pytest.approx(fit.largest[1], abs=1e-3)


def test_a_lens_of_180_degrees_does_not_break_the_fit() -> None:
    """Rays at right angles to the axis have x/z without bound, and do not decide the camera."""
    fit = fit_pinhole(fisheye(179.9)[None], SIZE)
    equidistant = np.hypot(*SIZE) / np.radians(179.9)
    assert 0.5 * equidistant < fit.intrinsics[0, 0, 0] < equidistant
    assert fit.doubtful(SIZE).all()


@pytest.mark.parametrize("degrees", [0.05, 0.1])
def test_small_errors_of_rays_are_no_reason_to_doubt(degrees: float) -> None:
    noise = np.random.default_rng(0).normal(size=(1, *SIZE, 3)) * np.radians(degrees)
    fit = fit_pinhole(rays(slopes(100.0, (70.0, 50.0))) + noise, SIZE)
    np.testing.assert_allclose(fit.intrinsics[0], matrix(100, 100, 70, 50), atol=0.05)
    assert not fit.doubtful(SIZE).any()


def test_many_views_are_counted_and_some_named() -> None:
    text = note(fit_pinhole(np.stack([fisheye(120.0)] * 7), SIZE))
    assert text is not None
    assert "7 of 7 views (0.jpg, 1.jpg, 2.jpg, 3.jpg and 3 more)" in text


@pytest.mark.parametrize("photo", [(1200, 1600), (900, 400), (98, 126)])
def test_the_original_photos_camera_is_found_through_the_crop(photo: tuple[int, int]) -> None:
    transform = transform_for(PixelRule("mapanything", *SIZE), *photo)
    true = matrix(1100.0, 1150.0, photo[1] / 2 + 31.0, photo[0] / 2 - 17.0)
    pixels = transform.pixels_to_original(pixel_centers(*SIZE))
    slope = (pixels - true[:2, 2]) / true[[0, 1], [0, 1]]
    fit = fit_pinhole(rays(slope)[None], SIZE)
    np.testing.assert_allclose(transform.to_original(fit.intrinsics[0]), true, rtol=1e-9, atol=1e-9)
