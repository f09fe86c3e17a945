"""Transparency and mask images: which pixels of a photo may be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from numpy.typing import NDArray
from PIL import Image

from covis.engines.bundle.pixel_rule import PixelRule, RuleKind
from covis.engines.errors import CovisError, ExitCode
from covis.runtime.photos.decode import upright_rgb
from covis.runtime.photos.masks import photo_mask, read_mask, usable
from covis.runtime.photos.preprocess import model_mask, transform_for
from tests.runtime.photos.pattern import PHOTO, exif, png16, save, stored

# Used pixels, unlike themselves under every turn and mirror.
USED = np.zeros((60, 80), bool)
USED[5:30, 10:70] = True
USED[30:55, 10:20] = True
GREY = np.where(USED, 255, 0).astype(np.uint8)
RGBA = np.dstack([PHOTO, GREY])


def every_alpha() -> NDArray[np.uint8]:
    """An RGBA image (256, 256, 4) of every alpha with every value, the colours being unlike."""
    value, alpha = np.meshgrid(np.arange(256), np.arange(256))
    return np.dstack([value, 255 - value, value // 2, alpha]).astype(np.uint8)


# Transparency


def test_transparency_is_composited_as_by_vggts_loader(tmp_path: Path) -> None:
    rgba = Image.fromarray(every_alpha())
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    loader = np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
    photo = upright_rgb(save(tmp_path / "a.png", rgba), 0)
    np.testing.assert_array_equal(np.asarray(photo.image), loader)


def test_transparency_is_dropped_as_by_the_loaders_of_pi3_and_mapanything(tmp_path: Path) -> None:
    files = {
        "rgba.png": Image.fromarray(every_alpha()),
        "la.png": Image.fromarray(every_alpha()).convert("LA"),
        "key.png": Image.fromarray(PHOTO),
        "palette.png": Image.fromarray(PHOTO).quantize(32),
        "rgba.webp": Image.fromarray(every_alpha()),
    }
    options = {
        "key.png": {"transparency": (30, 0, 0)},
        "palette.png": {"transparency": 3},
        "rgba.webp": {"lossless": True, "exact": True},
    }
    for name, image in files.items():
        path = save(tmp_path / name, image, **options.get(name, {}))
        with Image.open(path) as opened:
            loader = np.asarray(opened.convert("RGB"))
        photo = upright_rgb(path, 0, drop_alpha=True)
        np.testing.assert_array_equal(np.asarray(photo.image), loader)
        assert photo.opaque is not None and not photo.opaque.all()


def test_rules_whose_loaders_drop_transparency() -> None:
    kinds: tuple[RuleKind, ...] = ("vggt_crop", "vggt_pad", "pi3", "mapanything")
    assert [PixelRule(kind, 14, 14).drops_alpha for kind in kinds] == [False, False, True, True]


@pytest.mark.parametrize("drop_alpha", [False, True])
def test_opaque_is_half_or_more(drop_alpha: bool) -> None:
    photo = upright_rgb(Image.fromarray(every_alpha()), 0, drop_alpha=drop_alpha)
    expected = np.repeat(np.arange(256)[:, None] >= 128, 256, axis=1)
    np.testing.assert_array_equal(photo.opaque, expected)


@pytest.mark.parametrize("orientation", [1, 2, 6])
def test_opaque_is_upright(tmp_path: Path, orientation: int) -> None:
    turned = stored(Image.fromarray(RGBA), orientation)
    for suffix in ("png", "tif"):
        path = save(tmp_path / f"a.{suffix}", turned, exif=exif(orientation))
        np.testing.assert_array_equal(upright_rgb(path, 0).opaque, USED)
        np.testing.assert_array_equal(photo_mask(path, None, 0), USED)


def test_opaque_of_every_kind_of_transparency(tmp_path: Path) -> None:
    palette = Image.fromarray(USED.astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 200, 10, 10])
    red = np.where(USED[..., None], (200, 10, 10), (0, 0, 0)).astype(np.uint8)
    grey = Image.fromarray(GREY)
    kinds = [
        save(tmp_path / "palette.png", palette, transparency=0),
        save(tmp_path / "palette.gif", palette, transparency=0),
        save(tmp_path / "key.png", red, transparency=(0, 0, 0)),
        save(tmp_path / "grey.png", grey, transparency=0),
        save(tmp_path / "la.png", Image.merge("LA", [grey, grey])),
        save(tmp_path / "rgba.webp", RGBA, lossless=True),
        save(tmp_path / "rgba.tga", RGBA),
        save(tmp_path / "rgba.jp2", RGBA),
    ]
    for path in kinds:
        found = upright_rgb(path, 0).opaque
        assert found is not None, path.name
        np.testing.assert_array_equal(found, USED, err_msg=path.name)


def test_opaque_of_avif_and_heic(tmp_path: Path) -> None:
    pillow_heif.register_heif_opener()
    for suffix, quality in (("heic", -1), ("avif", 100)):
        path = save(tmp_path / f"a.{suffix}", RGBA, quality=quality)
        np.testing.assert_array_equal(upright_rgb(path, 0).opaque, USED)


def test_opaque_alpha_masks_nothing(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.dstack([PHOTO, np.full((60, 80), 255, np.uint8)]))
    photo = upright_rgb(path, 0)
    assert photo.opaque is None and photo_mask(path, None, 0) is None
    np.testing.assert_array_equal(np.asarray(photo.image), PHOTO)


# Mask images


def mask_of(path: Path, photo: object = PHOTO) -> NDArray[np.bool_] | None:
    return photo_mask(photo, path, 0)  # type: ignore[arg-type]


def test_masks_of_every_kind(tmp_path: Path) -> None:
    labels = Image.fromarray(USED.astype(np.uint8), "P")
    labels.putpalette([0, 0, 0, 0, 128, 0])
    cut_out = np.where(USED[..., None], RGBA, (9, 9, 9, 0)).astype(np.uint8)
    cut_out[10, 20, :3] = 0  # a black pixel of the subject
    deep = tmp_path / "deep.png"
    deep.write_bytes(png16(USED.astype(np.uint16)))
    many = USED.astype(np.uint16)
    many[8, 15] = 60_000
    deep_labels = save(tmp_path / "labels.tif", Image.fromarray(many))
    for path in (
        save(tmp_path / "grey.png", GREY),
        save(tmp_path / "ones.png", USED.astype(np.uint8)),
        save(tmp_path / "bits.png", Image.fromarray(GREY).convert("1")),
        save(tmp_path / "rgb.png", np.repeat(GREY[..., None], 3, axis=2)),
        save(tmp_path / "labels.png", labels),
        save(tmp_path / "blue.bmp", np.dstack([GREY * 0, GREY * 0, GREY])),
        save(tmp_path / "float.tif", Image.fromarray(USED.astype(np.float32))),
        save(tmp_path / "cut-out.png", cut_out),
        save(tmp_path / "alpha.png", Image.merge("LA", [Image.fromarray(GREY)] * 2)),
        deep,
        deep_labels,
    ):
        np.testing.assert_array_equal(mask_of(path), USED, err_msg=path.name)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_masks_have_no_rim(tmp_path: Path, suffix: str) -> None:
    """The black of a JPEG is up to 30 beside an edge: nonzero is not enough."""
    path = save(tmp_path / f"a.{suffix}", GREY, quality=60)
    with Image.open(path) as image:
        assert (np.asarray(image.convert("L"))[~USED] > 0).any()
    found = mask_of(path)
    assert found is not None and (found != USED).mean() < 0.005


def test_mask_and_transparency_are_combined(tmp_path: Path) -> None:
    rgba = np.dstack([PHOTO, np.full((60, 80), 255, np.uint8)])
    rgba[:, 40:, 3] = 0
    found = mask_of(save(tmp_path / "a.png", GREY), rgba)
    np.testing.assert_array_equal(found, USED & (np.arange(80) < 40))


def test_white_mask_is_none_and_black_masks_everything(tmp_path: Path) -> None:
    assert mask_of(save(tmp_path / "a.png", np.full((60, 80), 255, np.uint8))) is None
    for suffix in ("png", "jpg"):
        found = mask_of(save(tmp_path / f"b.{suffix}", np.zeros((60, 80), np.uint8)))
        assert found is not None and not found.any()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_mask_of_stored_pixels_is_turned_with_the_photo(tmp_path: Path, orientation: int) -> None:
    """Programs that do not know EXIF make masks that lie as the file does; others upright ones."""
    image = stored(Image.fromarray(PHOTO), orientation)
    photo = save(tmp_path / "a.jpg", image, exif=exif(orientation))
    as_stored = save(tmp_path / "stored.png", stored(Image.fromarray(GREY), orientation))
    upright = save(tmp_path / "upright.png", GREY)
    tagged = save(
        tmp_path / "tagged.png",
        stored(Image.fromarray(GREY), orientation),
        exif=exif(orientation),
    )
    for mask in (as_stored, upright, tagged):
        np.testing.assert_array_equal(mask_of(mask, photo), USED)


def test_mask_of_labels_is_turned_by_its_own_tag(tmp_path: Path) -> None:
    labels = stored(Image.fromarray(USED.astype(np.uint16)), 6)
    for suffix in ("png", "tif"):
        path = save(tmp_path / f"a.{suffix}", labels, exif=exif(6))
        np.testing.assert_array_equal(mask_of(path), USED)


def test_mask_of_another_size_is_resized_by_the_nearest_pixel(tmp_path: Path) -> None:
    half = save(tmp_path / "half.png", GREY[::5, ::5])
    double = save(tmp_path / "double.png", np.kron(GREY, np.ones((2, 2), np.uint8)))
    np.testing.assert_array_equal(mask_of(double), USED)
    np.testing.assert_array_equal(mask_of(half), np.kron(USED[::5, ::5], np.ones((5, 5))) > 0)
    # 518 x 392 is what 4000 x 3000 becomes in whole patches: 1 % off in aspect.
    patches = save(tmp_path / "patches.png", np.full((392, 518), 255, np.uint8))
    assert mask_of(patches) is None


@pytest.mark.parametrize("size", [(60, 60), (60, 90), (80, 60), (1, 1)])
def test_mask_of_another_shape_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    path = save(tmp_path / "a.png", np.full(size, 255, np.uint8))
    with pytest.raises(CovisError, match="another shape than the photo's 80 x 60; give") as caught:
        mask_of(path)
    assert caught.value.where == str(path) and caught.value.code == ExitCode.USER


def test_broken_masks_are_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80), np.uint8)
    labels = save(tmp_path / "a.png", Image.fromarray(noise.astype(np.uint16) * 99))
    for path in (labels, save(tmp_path / "b.png", noise)):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(CovisError, match="is damaged and cannot be decoded") as caught:
            mask_of(path)
        assert caught.value.where == str(path)
    with pytest.raises(CovisError, match="no such file"):
        mask_of(tmp_path / "none.png")


def test_mask_of_a_photo_that_is_decoded_already(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", GREY)
    photo = upright_rgb(PHOTO, 0)
    np.testing.assert_array_equal(usable(photo, path), read_mask(path, photo))
    assert usable(photo, None) is None


# Model pixels


@pytest.mark.parametrize("kind", ["vggt_crop", "vggt_pad", "pi3", "mapanything"])
@pytest.mark.parametrize("size", [(600, 800), (800, 600), (60, 80)])
def test_model_mask_lies_where_the_photo_lies(kind: RuleKind, size: tuple[int, int]) -> None:
    """A rectangle of the photo is the rectangle of its mapped corners, to half a pixel."""
    rule = PixelRule(kind, 126, 168)
    transform = transform_for(rule, *size)
    height, width = size
    top, left, bottom, right = height // 4, width // 5, height // 2, width * 3 // 4
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    (u0, v0), (u1, v1) = transform.pixels_to_model([(left, top), (right, bottom)])
    v, u = np.mgrid[:126, :168] + 0.5
    inside = (u > u0 + 0.5) & (u < u1 - 0.5) & (v > v0 + 0.5) & (v < v1 - 0.5)
    outside = (u < u0 - 0.5) | (u > u1 + 0.5) | (v < v0 - 0.5) | (v > v1 + 0.5)
    found = model_mask(mask, rule)
    assert inside.any() and found[inside].all() and not found[outside].any()


def test_model_mask_is_true_from_half_of_the_area() -> None:
    rule = PixelRule("pi3", 14, 14)
    for used, expected in ((1, False), (2, True), (3, True)):
        mask = np.zeros((56, 56), bool)
        mask[:, np.arange(56) % 4 < used] = True
        assert (model_mask(mask, rule) == expected).all()


@pytest.mark.parametrize("kind", ["vggt_crop", "vggt_pad", "pi3", "mapanything"])
def test_model_mask_of_all_is_what_shows_the_photo(kind: RuleKind) -> None:
    rule = PixelRule(kind, 126, 168)
    full = model_mask(np.ones((600, 350), bool), rule)
    np.testing.assert_array_equal(full, transform_for(rule, 600, 350).valid())
