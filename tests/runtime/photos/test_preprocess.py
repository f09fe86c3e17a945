"""Pixel rules: parity with the models' own loaders, and the exact map back to original pixels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file

from covis.engines.bundle.pixel_rule import PixelRule, RuleKind, native_size, place, size_warning
from covis.engines.errors import CovisError
from covis.runtime.photos.images import load_images
from covis.runtime.photos.preprocess import (
    PixelTransform,
    model_mask,
    preprocess,
    transform_for,
)
from tests.golden_data import golden

KINDS: tuple[RuleKind, ...] = ("vggt_crop", "vggt_pad", "pi3", "mapanything")
RULES = st.builds(
    lambda kind, rows, columns: PixelRule(kind, 14 * rows, 14 * columns),
    st.sampled_from(KINDS),
    st.integers(1, 12),
    st.integers(1, 12),
)
SIDES = st.integers(20, 2000)


@pytest.mark.parametrize(("group", "kind"), list(itertools.product(range(3), KINDS)))
def test_same_pixels_as_the_models_own_loader(group: int, kind: RuleKind) -> None:
    record = load_file(golden(f"preprocess_a_g{group}.safetensors"))
    photos = [record[k] for k in sorted(k for k in record if k.startswith(f"in.g{group}."))]
    expected = record[f"g{group}.{kind}.out"]
    size = native_size(kind, [photo.shape[:2] for photo in photos])
    assert size == expected.shape[1:3]
    images = load_images(photos, PixelRule(kind, *size), threads=2)
    # The loaders' results were recorded as uint8: equality is exact, in float32 too.
    np.testing.assert_array_equal(images.uint8.transpose(0, 2, 3, 1), expected)
    reference = expected.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    assert images.pixels.dtype == np.float32
    np.testing.assert_array_equal(images.pixels, reference)
    np.testing.assert_array_equal(images.batch(0, 1), reference[:1])


@pytest.mark.parametrize("kind", KINDS)
def test_rgba_has_the_pixels_of_the_models_own_loader(kind: RuleKind) -> None:
    """VGGT's loader lays RGBA on white; those of pi^3 and MapAnything drop alpha."""
    rng = np.random.default_rng(5)
    rgba = Image.fromarray(rng.integers(0, 256, (96, 128, 4), np.uint8))
    white = Image.new("RGBA", rgba.size, "white")
    composited = kind.startswith("vggt")
    photo = (Image.alpha_composite(white, rgba) if composited else rgba).convert("RGB")
    rule = PixelRule(kind, 56, 70)
    images = load_images([rgba], rule)
    np.testing.assert_array_equal(images.uint8[0].transpose(1, 2, 0), preprocess(photo, rule)[0])
    assert images.masks is not None
    opaque = np.asarray(rgba)[..., 3] >= 128
    np.testing.assert_array_equal(images.masks[0], model_mask(opaque, rule))


def test_native_sizes_by_hand() -> None:
    # 518 / 1600 * 1200 = 388.5 = 27.75 patches, rounded to 28.
    assert native_size("vggt_crop", [(1200, 1600)]) == (392, 518)
    assert native_size("vggt_crop", [(1600, 1200)]) == (518, 518)  # cropped, not 686
    assert native_size("vggt_crop", [(1000, 2000), (1200, 1600)]) == (392, 518)
    assert native_size("vggt_pad", [(10, 1000)]) == (518, 518)
    assert native_size("mapanything", [(1080, 1920)]) == (294, 518)
    assert native_size("mapanything", [(1920, 1080)]) == (518, 294)
    height, width = native_size("pi3", [(3000, 4000)])
    assert height * width <= 255_000 < (height + 14) * (width + 14)


@pytest.mark.parametrize("kind", KINDS)
def test_native_size_leaves_no_warning_and_another_does(kind: RuleKind) -> None:
    sizes = [(1200, 1600)] * 3
    assert size_warning(PixelRule(kind, *native_size(kind, sizes)), sizes) is None
    warning = size_warning(PixelRule(kind, 518, 168), sizes)
    assert warning is not None and "--height" in warning and "\n" not in warning


def test_small_bundle_is_named_by_its_share_of_pixels() -> None:
    warning = size_warning(PixelRule("vggt_crop", 56, 70), [(400, 500)])
    assert warning is not None and "times the pixels" in warning


@given(RULES, SIDES, SIDES)
@settings(max_examples=200, deadline=None)
def test_placement_covers_or_fits(rule: PixelRule, height: int, width: int) -> None:
    p = place(rule, height, width)
    fits = (p.height <= rule.height, p.width <= rule.width)
    covers = (p.height >= rule.height, p.width >= rule.width)
    if rule.kind == "vggt_crop":
        assert p.width == rule.width and p.height % rule.patch == 0
    elif rule.kind == "vggt_pad":
        assert all(fits) and any(covers)
        assert p.height % rule.patch == p.width % rule.patch == 0
    elif rule.kind == "pi3":
        assert (p.height, p.width, p.top, p.left) == (rule.height, rule.width, 0, 0)
    else:
        # Covers, and exceeds on one axis at most (a pixel, where rounding down met the slack).
        assert all(covers) and min(p.height - rule.height, p.width - rule.width) <= 1
    # Centred to the pixel, whichever way.
    for inner, outer, offset in (
        (p.height, rule.height, p.top),
        (p.width, rule.width, p.left),
    ):
        assert abs((outer - inner) - 2 * offset) <= 1


@given(RULES, SIDES, SIDES)
@settings(max_examples=200, deadline=None)
def test_transform_there_and_back(rule: PixelRule, height: int, width: int) -> None:
    t = transform_for(rule, height, width)
    rng = np.random.default_rng(height * 4096 + width)
    uv = rng.uniform(-10, 2000, (50, 2))
    np.testing.assert_allclose(t.pixels_to_original(t.pixels_to_model(uv)), uv, atol=1e-9)
    np.testing.assert_allclose(t.matrix @ t.inverse_matrix, np.eye(3), atol=1e-12)
    K = np.array([[900.0, 1.5, 400.0], [0, 880.0, 300.0], [0, 0, 1]])
    np.testing.assert_allclose(t.to_original(t.to_model(K)), K, atol=1e-9)
    # A point seen through K lands where the transform sends its original pixel.
    points = np.column_stack([rng.normal(size=(20, 2)), rng.uniform(1, 5, 20)])
    seen = points @ K.T
    moved = points @ t.to_model(K).T
    np.testing.assert_allclose(
        moved[:, :2] / moved[:, 2:], t.pixels_to_model(seen[:, :2] / seen[:, 2:]), atol=1e-7
    )
    _box_is_the_photo(t)


def _box_is_the_photo(t: PixelTransform) -> None:
    """Valid pixels have their centres on the photo; the others do not."""
    H, W = t.model_size
    v, u = np.mgrid[:H, :W] + 0.5
    original = t.pixels_to_original(np.stack([u, v], -1))
    height, width = t.original_size
    inside = ((original > 0) & (original < (width, height))).all(-1)
    np.testing.assert_array_equal(t.valid(), inside)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(240, 320), (320, 240), (100, 310)])
def test_transform_matches_the_resampled_pixels(kind: RuleKind, size: tuple[int, int]) -> None:
    """A coordinate ramp, resampled, must read as the original coordinates of each model pixel."""
    height, width = size
    photo = np.zeros((height, width, 3), np.uint8)
    photo[..., 0] = np.rint(np.linspace(20, 230, width))
    photo[..., 1] = np.rint(np.linspace(20, 230, height))[:, None]
    images = load_images([photo], PixelRule(kind, 126, 168))
    t = images.transforms[0]
    v, u = np.nonzero(t.valid())
    original = t.pixels_to_original(np.column_stack([u, v]) + 0.5) - 0.5
    ramp = 20 + 210 * original / (width - 1, height - 1)
    inner = ((original > 8) & (original < (width - 9, height - 9))).all(-1)
    read = images.uint8[0, :2, v, u].astype(float)
    assert inner.any()
    # Rounding of the ramp and of the result: a shift of half a pixel would show as 0.3 to 1.1.
    assert np.abs((read - ramp)[inner]).max() < 1.5
    assert np.abs((read - ramp)[inner].mean(axis=0)).max() < 0.1
    outside = ~t.valid()
    assert (images.uint8[0][:, outside] == 255).all()


@pytest.mark.parametrize("side", [0, -14, 13, 100])
def test_size_that_is_no_multiple_of_the_patch(side: int) -> None:
    with pytest.raises(CovisError, match=r"--height: .*multiple of 14; use \d+"):
        PixelRule("pi3", side, 140)


def test_unknown_rule() -> None:
    with pytest.raises(CovisError, match="no pixel rule; use one of vggt_crop"):
        PixelRule("vgg", 14, 14)  # type: ignore[arg-type]


def test_strip_is_refused() -> None:
    with pytest.raises(CovisError, match="strip"):
        place(PixelRule("vggt_crop", 392, 518), 10_000, 50)
