"""Finding and decoding photos: order, modes, EXIF, and every fault of files."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from covis.engines.bundle.pixel_rule import PixelRule
from covis.engines.errors import CovisError, ExitCode
from covis.runtime.photos.find import find
from covis.runtime.photos.images import Images, load_images, photo_sizes
from covis.runtime.photos.preprocess import original_intrinsics, valid_pixels
from tests.golden_data import scenes
from tests.peak_memory import PEAK
from tests.runtime.photos.pattern import TO_STORED

RULE = PixelRule("vggt_crop", 42, 56)
# Bigger than the canvas needs, and unlike itself under every turn and mirror.
PHOTO = np.dstack(
    [
        np.add.outer(np.arange(60), np.arange(80)) + 30,
        np.tile(np.arange(80) * 3, (60, 1)),
        np.tile(np.arange(60)[:, None] * 4, (1, 80)),
    ]
).astype(np.uint8)


def save(path: Path, image: Image.Image | None = None, **options: object) -> Path:
    (image or Image.fromarray(PHOTO)).save(path, **options)
    return path


def one(path: Path) -> np.ndarray:
    return load_images([path], RULE).uint8[0].astype(int)


def expected(photo: np.ndarray = PHOTO) -> np.ndarray:
    return load_images([photo], RULE).uint8[0].astype(int)


def fails(photos: list[object], message: str) -> CovisError:
    with pytest.raises(CovisError, match=message) as caught:
        load_images(photos, RULE)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value) and ";" in str(caught.value)
    return caught.value


# Decoding


def test_plain_rgb(tmp_path: Path) -> None:
    np.testing.assert_array_equal(one(save(tmp_path / "a.png")), expected())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_rotation(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = Image.fromarray(PHOTO)
    stored = upright.transpose(TO_STORED[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    lossy = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}
    stored.save(path, exif=exif, **lossy.get(suffix, {}))
    images = load_images([path], RULE)
    assert images.original_sizes.tolist() == [[60, 80]]
    assert photo_sizes([path]) == [(60, 80)]
    assert np.abs(images.uint8[0].astype(int) - expected()).max() <= (4 if suffix == "jpg" else 0)


def test_broken_exif_does_not_lose_the_photo(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff\x01\x02")
    np.testing.assert_array_equal(one(path), expected())
    assert photo_sizes([path]) == [(60, 80)]


def test_cmyk(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(PHOTO).convert("CMYK"), quality=100)
    assert np.abs(one(path) - expected()).max() <= 6


def test_palette(tmp_path: Path) -> None:
    few = (PHOTO // 64) * 64
    path = save(tmp_path / "a.png", Image.fromarray(few).quantize(256))
    assert Image.open(path).mode == "P"
    np.testing.assert_array_equal(one(path), expected(few))


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_and_bilevel(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(PHOTO).convert(mode)
    grey = np.repeat(np.asarray(image.convert("L"))[..., None], 3, axis=2)
    np.testing.assert_array_equal(one(save(tmp_path / "a.png", image)), expected(grey))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    grey = PHOTO[..., 1]
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(grey.astype(np.uint16) * 257))
    assert Image.open(path).mode.startswith("I")
    np.testing.assert_array_equal(one(path), expected(np.repeat(grey[..., None], 3, axis=2)))


def test_sixteen_bit_rgb_png(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in (PHOTO.astype(">u2") * 257))
    path = tmp_path / "a.png"
    path.write_bytes(_png(80, 60, 16, 2, zlib.compress(rows)))
    np.testing.assert_array_equal(one(path), expected())


def test_float_tiff(tmp_path: Path) -> None:
    grey = PHOTO[..., 1]
    path = save(tmp_path / "a.tif", Image.fromarray(grey.astype(np.float32) / 255))
    np.testing.assert_array_equal(one(path), expected(np.repeat(grey[..., None], 3, axis=2)))
    path = save(tmp_path / "b.tif", Image.fromarray(grey.astype(np.float32)))
    fails([path], r"b\.tif: has grey values of 0\.0 to 237\.0, not 0 to 1; save it as")


def test_alpha_is_laid_on_white(tmp_path: Path) -> None:
    alpha = np.full((60, 80, 1), 255, np.uint8)
    alpha[:, 40:] = 0
    white = PHOTO.copy()
    white[:, 40:] = 255
    path = save(tmp_path / "a.png", Image.fromarray(np.concatenate([PHOTO, alpha], axis=2)))
    np.testing.assert_array_equal(one(path), expected(white))
    grey = Image.fromarray(PHOTO).convert("L")
    grey.putalpha(Image.fromarray(alpha[..., 0]))
    white_grey = np.array(grey.convert("L"))
    white_grey[:, 40:] = 255
    path = save(tmp_path / "la.png", grey)
    np.testing.assert_array_equal(one(path), expected(np.repeat(white_grey[..., None], 3, axis=2)))


def test_transparent_palette(tmp_path: Path) -> None:
    index = Image.fromarray((np.arange(80)[None] // 40 + np.zeros((60, 1))).astype(np.uint8), "P")
    index.putpalette([200, 10, 10, 0, 0, 0])
    path = save(tmp_path / "a.gif", index, transparency=1)
    photo = np.full((60, 80, 3), 255, np.uint8)
    photo[:, :40] = (200, 10, 10)
    np.testing.assert_array_equal(one(path), expected(photo))


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.fromarray(PHOTO), Image.new("RGB", (80, 60), "red")]
    path = tmp_path / "a.webp"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(one(path), expected())


def test_names_with_spaces_and_newlines(tmp_path: Path) -> None:
    paths = [save(tmp_path / name, format="png") for name in ("a b.png", "c\nd.png")]
    assert load_images(paths, RULE).names == ("a b.png", "c\nd.png")
    (tmp_path / "bad\nname.png").write_bytes(b"no")
    error = fails([tmp_path / "bad\nname.png"], r"bad\\nname\.png: is no image")
    assert error.code == ExitCode.USER


def test_names_are_made_to_differ(tmp_path: Path) -> None:
    for folder in ("left", "right"):
        (tmp_path / folder).mkdir()
        save(tmp_path / folder / "1.png")
    both = [tmp_path / "left" / "1.png", tmp_path / "right" / "1.png"]
    assert load_images(both, RULE).names == ("left/1.png", "right/1.png")
    assert load_images([both[0]] * 3, RULE).names == ("1.png", "1 (2).png", "1 (3).png")


def test_arrays_and_images_in_memory() -> None:
    images = load_images([PHOTO, Image.fromarray(PHOTO), PHOTO[..., 0]], RULE)
    assert images.names == ("view_0000", "view_0001", "view_0002") and images.paths == (None,) * 3
    np.testing.assert_array_equal(images.uint8[0], images.uint8[1])
    assert (images.uint8[2] == images.uint8[2, :1]).all()
    fails([PHOTO.astype(np.float32)], r"photo 0: an array of float32 .*; give uint8")
    fails([PHOTO[:0]], "photo 0: has no pixels")
    fails([Image.new("P", (0, 0))], "photo 0: has no pixels")
    fails([], "no photo given; ")
    fails([PHOTO, np.zeros((2000, 10, 3), np.uint8)], r"photo 1: 10 x 2000 pixels is a strip")


def test_images_of_mixed_sizes_and_their_transforms(tmp_path: Path) -> None:
    images: Images = load_images([PHOTO, PHOTO[:30], PHOTO[:, :50]], RULE)
    assert valid_pixels(images.transforms).shape == (3, 42, 56)
    K = np.tile(np.diag([50.0, 50.0, 1.0]), (3, 1, 1))
    K[:, :2, 2] = (28, 21)
    original = original_intrinsics(images.transforms, K)
    # Every photo is centred, so the middle of the canvas is the middle of the photo.
    middles = images.original_sizes[:, ::-1] / 2
    np.testing.assert_allclose(original[:, :2, 2], middles, atol=1e-9)
    for t, k, o in zip(images.transforms, K, original, strict=True):
        np.testing.assert_allclose(t.to_original(k), o)


# Damage


def _png(width: int, height: int, bits: int, colour: int, data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", data), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)).save(
        buffer, "jpeg"
    )
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: _jpeg()[:2000], "is damaged and cannot be decoded .*truncated.*; replace"),
        (lambda: b"", r"is empty \(0 bytes\); remove"),
        (lambda: b"<html>not found</html>", "is no image that can be read; use jpg"),
        (lambda: _png(50_000, 50_000, 8, 2, b""), "more than the 178 million"),
        (lambda: _png(80, 60, 8, 2, zlib.compress(b"\0" * 100)), "is damaged"),
        (lambda: _png(80, 60, 8, 2, b"garbage"), "is damaged"),
        (lambda: b"\x89PNG\r\n\x1a\n" + b"\xff" * 50, "bad.jpg: is "),
        (lambda: _jpeg()[:20], "bad.jpg: is "),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, data: Callable[[], bytes], message: str) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(data())
    good = save(tmp_path / "good.png")
    error = fails([good, path, good], message)
    assert error.where == str(path) and error.code == ExitCode.USER


def test_bomb_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(_png(50_000, 50_000, 8, 2, zlib.compress(bytes(1 << 20))))
    limit = Image.MAX_IMAGE_PIXELS
    tracemalloc.start()
    fails([path], "bomb.png: claims more than")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000
    assert limit == Image.MAX_IMAGE_PIXELS


def test_own_limit_holds_where_a_program_has_switched_pillows_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    path = tmp_path / "bomb.png"
    path.write_bytes(_png(50_000, 50_000, 8, 2, b""))
    fails([path], "claims 50000 x 50000 pixels")


def test_random_damage_never_escapes_as_another_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    path = tmp_path / "x.img"
    refused = 0
    for suffix in ("jpeg", "png", "webp", "tiff", "bmp", "ppm", "gif"):
        buffer = io.BytesIO()
        Image.fromarray(PHOTO).save(buffer, suffix)
        for _ in range(30):
            data = bytearray(buffer.getvalue())
            for position in rng.integers(0, min(len(data), 400), 6):
                data[position] = rng.integers(256)
            path.write_bytes(bytes(data[: int(rng.integers(10, len(data) + 1))]))
            try:
                load_images([path], RULE, threads=1)
            except CovisError as error:
                refused += 1
                assert "\n" not in str(error)
    assert refused > 50


def test_unreadable_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user reads everything")
    assert fails([path], "may not be read").code == ExitCode.ENVIRONMENT


def test_first_bad_photo_in_order_is_named(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    assert fails([PHOTO, tmp_path / "a.png", tmp_path / "b.png"], "a.png").where.endswith("a.png")


def test_progress() -> None:
    seen: list[int] = []
    load_images([PHOTO] * 12, RULE, threads=2, progress=lambda: seen.append(1))
    assert len(seen) == 12


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_decoded_originals_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "big.png"
    Image.new("RGB", (2000, 1500), "gray").save(path, compress_level=1)  # 12 MB decoded in Pillow
    code = PEAK + (
        "import sys\n"
        "from covis.runtime.photos.images import load_images\n"
        "from covis.engines.bundle.pixel_rule import PixelRule\n"
        "rule, peaks = PixelRule('vggt_crop', 42, 56), []\n"
        "for count in (2, 22):\n"
        "    load_images([sys.argv[1]] * count, rule, threads=2)\n"
        "    peaks.append(peak())\n"
        "print((peaks[1] - peaks[0]) / 1024)"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60  # MiB; 20 more originals would be 240


def test_interrupt_stops_the_rest() -> None:
    seen: list[int] = []

    def interrupt() -> None:
        seen.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_images([PHOTO] * 50, RULE, threads=1, progress=interrupt)
    assert len(seen) == 1


def test_importing_is_light() -> None:
    code = (
        "import sys, covis.runtime.photos.selection\n"
        "import covis.runtime.scene.scene, covis.runtime.scene.writers\n"
        "heavy = {'onnxruntime', 'onnx', 'trimesh', 'torch', 'PIL', 'pydantic', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("name", "count"), [("kitchen", 25), ("llff_fern", 20)])
def test_real_photos(name: str, count: int) -> None:
    paths = find(scenes(name)).photos
    images = load_images(paths, PixelRule("vggt_crop", 140, 182))
    assert len(images) == count
    assert images.names == tuple(sorted(images.names))
    assert images.pixels.min() >= 0 and images.pixels.max() <= 1
    assert 20 < images.uint8.mean() < 235
