"""Decoding one photo: every format and mode gives the upright pixels, or one line."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile

from covis.engines.bundle.pixel_rule import PixelRule
from covis.engines.errors import CovisError, ExitCode
from covis.runtime.photos.decode import copyable_as, header_size, upright_rgb
from covis.runtime.photos.formats import SUFFIXES
from covis.runtime.photos.images import load_images
from tests.runtime.photos.pattern import PHOTO, chunk, exif, png16, save, stored, tiff

pillow_heif.register_heif_opener()

# Options that keep the pixels, and by how much they may still differ.
FORMATS: dict[str, tuple[dict[str, object], int]] = {
    "jpg": ({"quality": 100, "subsampling": 0}, 4),
    "jfif": ({"quality": 100, "subsampling": 0}, 4),
    "png": ({}, 0),
    "heic": ({"quality": -1, "chroma": 444}, 1),
    "avif": ({"quality": 100, "subsampling": "4:4:4"}, 4),
    "webp": ({"lossless": True}, 0),
    "tif": ({}, 0),
    "bmp": ({}, 0),
    "jp2": ({}, 0),
    "ppm": ({}, 0),
    "qoi": ({}, 0),
    "tga": ({}, 0),
}


def pixels(path: Path) -> NDArray[np.int64]:
    return np.asarray(upright_rgb(path, 0).image).astype(int)


def refused(path: Path, message: str) -> CovisError:
    with pytest.raises(CovisError, match=message) as caught:
        upright_rgb(path, 0)
    assert "\n" not in str(caught.value) and ";" in str(caught.value)
    return caught.value


@pytest.mark.parametrize("suffix", FORMATS)
def test_formats(tmp_path: Path, suffix: str) -> None:
    options, tolerance = FORMATS[suffix]
    assert f".{suffix}" in SUFFIXES
    path = save(tmp_path / f"a.{suffix}", PHOTO, **options)
    assert np.abs(pixels(path) - PHOTO).max() <= tolerance
    photo = upright_rgb(path, 0)
    assert (photo.opaque, photo.notes, photo.orientation) == (None, (), 1)
    assert header_size(path, 0) == (60, 80)


def test_content_counts_and_not_the_name(tmp_path: Path) -> None:
    """Phones and chat programs rename HEIC photos to .jpg."""
    path = tmp_path / "a.jpg"
    Image.fromarray(PHOTO).save(path, "heif", quality=-1, chroma=444)
    assert np.abs(pixels(path) - PHOTO).max() <= 1


def test_first_image_of_mpo_gif_and_tiff(tmp_path: Path) -> None:
    few = (PHOTO // 64) * 64
    for name, photo, options in (
        ("a.mpo", PHOTO, FORMATS["jpg"][0]),
        ("a.gif", few, {}),
        ("a.tif", few, {}),
    ):
        first = Image.fromarray(photo)
        other = Image.new("RGB", (80, 60), "red")
        path = save(tmp_path / name, first, save_all=True, append_images=[other], **options)
        with Image.open(path) as image:
            assert image.n_frames == 2  # type: ignore[attr-defined]
        assert np.abs(pixels(path) - photo).max() <= 4


@pytest.mark.parametrize("suffix", ["heic", "avif"])
def test_brand_that_heic_and_avif_share(tmp_path: Path, suffix: str) -> None:
    options, tolerance = FORMATS[suffix]
    path = save(tmp_path / f"a.{suffix}", PHOTO, **options)
    data = path.read_bytes()
    path.write_bytes(data[:8] + b"mif1" + data[12:])
    assert np.abs(pixels(path) - PHOTO).max() <= tolerance


def test_primary_image_of_heic_and_its_ten_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.heic"
    options = {**FORMATS["heic"][0], "save_all": True, "primary_index": 1}
    Image.new("RGB", (64, 64), "red").save(path, append_images=[Image.fromarray(PHOTO)], **options)
    assert header_size(path, 0) == (60, 80) and np.abs(pixels(path) - PHOTO).max() <= 1
    deep = (PHOTO.astype(np.uint16) * 257).tobytes()
    ten = pillow_heif.from_bytes(mode="RGB;16", size=(80, 60), data=deep)
    ten.save(path, quality=-1, chroma=444)
    assert pillow_heif.open_heif(path, convert_hdr_to_8bit=False).info["bit_depth"] == 10
    assert np.abs(pixels(path) - PHOTO).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "heic", "avif", "webp", "tif"])
def test_orientation_is_applied_once(tmp_path: Path, suffix: str, orientation: int) -> None:
    options, tolerance = FORMATS[suffix]
    turned = stored(Image.fromarray(PHOTO), orientation)
    path = save(tmp_path / f"a.{suffix}", turned, exif=exif(orientation), **options)
    assert header_size(path, 0) == (60, 80)
    assert np.abs(pixels(path) - PHOTO).max() <= tolerance
    if suffix == "heic":  # as a phone writes it: libheif turns the pixels, and the tag stays
        data = path.read_bytes()
        assert (b"irot" in data or b"imir" in data) == (orientation > 1)
    else:
        assert upright_rgb(path, 0).orientation == orientation


@pytest.mark.parametrize("mode", ["L", "P", "RGBX", "RGBA", "CMYK", "I;16"])
def test_sideways_tiff_that_pillow_would_map_into_memory(tmp_path: Path, mode: str) -> None:
    """Pillow lays the rows of the file out by the size of the upright photo."""
    grey = Image.fromarray(PHOTO[..., 1])
    upright = Image.fromarray(PHOTO[..., 1].astype(np.uint16) * 257) if mode == "I;16" else grey
    if mode != "I;16":
        upright = grey.convert("RGB").convert(mode)
    path = save(tmp_path / "a.tif", stored(upright, 6), exif=exif(6))
    assert header_size(path, 0) == (60, 80)
    if mode == "I;16":
        assert (pixels(path)[..., 1] == PHOTO[..., 1]).all()
    else:
        np.testing.assert_array_equal(pixels(path), np.asarray(upright.convert("RGB")))


def test_orientation_behind_the_pixels_of_a_png(tmp_path: Path) -> None:
    grey = np.asarray(stored(Image.fromarray(PHOTO[..., 1]), 6)).astype(np.uint16) * 257
    path = tmp_path / "a.png"
    path.write_bytes(png16(grey, chunk(b"tEXt", b"Comment\0x"), chunk(b"eXIf", exif(6)[6:])))
    assert header_size(path, 0) == (60, 80)
    np.testing.assert_array_equal(pixels(path)[..., 0], PHOTO[..., 1])


def test_size_of_a_png_is_read_without_its_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    data = png16(np.zeros((60, 80), np.uint16))
    path.write_bytes(data.replace(data[data.index(b"IDAT") + 4 :][:8], b"garbage!"))
    assert header_size(path, 0) == (60, 80)
    refused(path, "is damaged")


def test_orientation_that_is_none(tmp_path: Path) -> None:
    for value in (0, 9, 255):
        path = save(tmp_path / f"{value}.png", PHOTO, exif=exif(value))
        np.testing.assert_array_equal(pixels(path), PHOTO)


def test_photo_is_turned_where_the_rest_of_its_exif_is_broken(tmp_path: Path) -> None:
    """The size of the header and the pixels always agree."""
    good = exif(6)
    entries = struct.pack("<H", 2) + good[16:28] + struct.pack("<HHII", 0x9999, 12, 50, 9999)
    path = save(tmp_path / "a.jpg", stored(Image.fromarray(PHOTO), 6), quality=100)
    block = b"Exif\0\0II*\0\x08\0\0\0" + entries
    app1 = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    data = path.read_bytes()
    path.write_bytes(data[:2] + app1 + data[2:])
    assert upright_rgb(path, 0).image.size == header_size(path, 0)[::-1]


def test_cmyk_jpeg_of_adobe_is_inverted(tmp_path: Path) -> None:
    """Adobe stores CMYK inverted; a photo of pure cyan stays cyan."""
    cyan = Image.new("CMYK", (80, 60), (255, 0, 0, 0))
    path = save(tmp_path / "a.jpg", cyan, quality=100)
    assert b"Adobe" in path.read_bytes()
    assert np.abs(pixels(path) - (0, 255, 255)).max() <= 3
    cmyk = Image.fromarray(PHOTO).convert("CMYK")
    assert np.abs(pixels(save(tmp_path / "b.tif", cmyk)) - PHOTO).max() <= 1


def test_lab_is_converted_by_its_definition(tmp_path: Path) -> None:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    image = ImageCms.buildTransform(srgb, lab, "RGB", "LAB").apply(Image.fromarray(PHOTO))
    path = save(tmp_path / "a.tif", image)
    with Image.open(path) as opened:
        assert opened.mode == "LAB"
    assert np.abs(pixels(path) - PHOTO).mean() < 2  # Lab of 8 bits is coarser than sRGB


def test_ycbcr_tiff(tmp_path: Path) -> None:
    image = Image.fromarray(PHOTO).convert("YCbCr")
    path = save(tmp_path / "a.tif", image, compression="jpeg", quality=100)
    assert np.abs(pixels(path) - PHOTO).mean() <= 2


def test_bilevel_and_grey(tmp_path: Path) -> None:
    for mode in ("1", "L"):
        image = Image.fromarray(PHOTO).convert(mode)
        for suffix in ("png", "tif"):
            grey = np.asarray(image.convert("L")).astype(int)
            found = pixels(save(tmp_path / f"{mode}.{suffix}", image))
            np.testing.assert_array_equal(found, np.repeat(grey[..., None], 3, axis=2))


def test_colour_profiles_are_ignored_as_by_the_models_loaders(tmp_path: Path) -> None:
    """Phones write Display P3; the models have seen such photos with their stored numbers."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB", 5000)).tobytes()
    for suffix in ("png", "tif", "webp"):
        options = FORMATS[suffix][0]
        path = save(tmp_path / f"a.{suffix}", PHOTO, icc_profile=profile, **options)
        np.testing.assert_array_equal(pixels(path), PHOTO)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("suffix", [*FORMATS, "gif"])
def test_cut_off_files_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    path = save(tmp_path / f"a.{suffix}", noise)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, r"is damaged|is no image|file that is damaged")


def test_cut_off_file_in_a_program_that_allows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other libraries set this option of Pillow when they are imported."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = save(tmp_path / "a.jpg", PHOTO)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CovisError, match="truncated"):
        load_images([path], PixelRule("vggt_crop", 42, 56))
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_jpeg_with_zeros_at_its_end_is_refused(tmp_path: Path) -> None:
    """A copy that stopped half-way often has its full length."""
    path = save(tmp_path / "a.jpg", PHOTO)
    data = path.read_bytes()
    kept = int(len(data) * 0.7)
    path.write_bytes(data[:kept] + bytes(len(data) - kept))
    refused(path, "is damaged and cannot be decoded .*truncated")


def test_raw_file_of_a_camera_is_no_tiff_photo(tmp_path: Path) -> None:
    """Pillow would read the preview of 160 x 120 pixels, which raw files begin with."""
    rgb = {258: (8, 8, 8), 259: (1,), 262: (2,), 277: (3,)}
    path = tmp_path / "a.dng"
    path.write_bytes(tiff(PHOTO.tobytes(), 80, 60, {**rgb, 254: (1,)}))
    refused(path, "a camera's raw file, of which only a preview could be read; develop it")
    path.write_bytes(tiff(PHOTO.tobytes(), 80, 60, rgb))
    np.testing.assert_array_equal(pixels(path), PHOTO)


def test_kind_of_tiff_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    floats = (PHOTO / 255).astype("<f4").tobytes()
    tags = {258: (32, 32, 32), 259: (1,), 262: (2,), 277: (3,), 339: (3, 3, 3)}
    path.write_bytes(tiff(floats, 80, 60, tags))
    refused(path, "is a TIFF file that is damaged, or of a kind that cannot be read; replace it")


@pytest.mark.parametrize("photo", [None, 7, b"\xff\xd8\xff", [PHOTO], object()])
def test_what_is_no_photo(photo: object) -> None:
    with pytest.raises(CovisError, match=r"photo 3: a \w+ is no photo; give a path") as caught:
        upright_rgb(photo, 3)  # type: ignore[arg-type]
    assert caught.value.code == ExitCode.USER


def test_callers_image_is_left_as_it_was(tmp_path: Path) -> None:
    image = Image.fromarray(PHOTO)
    result = upright_rgb(image, 0).image
    result.putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(np.asarray(image), PHOTO)
    opened = Image.open(save(tmp_path / "a.jpg", stored(image, 6), exif=exif(6)))
    assert upright_rgb(opened, 0).image.size == (80, 60)
    assert opened.size == (60, 80) and opened.getpixel((0, 0)) is not None


def test_one_image_of_the_caller_in_many_threads(tmp_path: Path) -> None:
    """The same opened file may stand in a list many times, and is loaded at its first use."""
    path = save(tmp_path / "a.png", np.tile(PHOTO, (10, 10, 1)))
    opened, found = Image.open(path), []
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        found.append(np.asarray(upright_rgb(opened, 0).image))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all((array == found[0]).all() for array in found)


def test_heic_is_registered_once_by_many_threads(tmp_path: Path) -> None:
    path = save(tmp_path / "a.heic", PHOTO)
    code = (
        "import sys, threading, pathlib\n"
        "import covis.runtime.photos.decode as decode\n"
        "assert 'pillow_heif' not in sys.modules and 'PIL' not in sys.modules\n"
        "import pillow_heif\n"
        "calls, register = [], pillow_heif.register_heif_opener\n"
        "pillow_heif.register_heif_opener = lambda: (calls.append(1), register())\n"
        "found, path = [], pathlib.Path(sys.argv[1])\n"
        "work = lambda: found.append(decode.upright_rgb(path, 0).image.tobytes())\n"
        "threads = [threading.Thread(target=work) for _ in range(8)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "print(len(calls), len(found), len(set(found)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "8", "1"]


@pytest.mark.parametrize(
    ("suffix", "lacking", "message"),
    [
        (
            "heic",
            "sys.modules['pillow_heif'] = None",
            "photo in HEIF, .* pip install 'covis[heic]'",
        ),
        (
            "avif",
            "from PIL import features; there = features.get_supported()\n"
            "features.get_supported = lambda: [name for name in there if name != 'avif']",
            "photo in AVIF, .* pip install --upgrade pillow",
        ),
    ],
)
def test_decoder_that_is_not_installed(
    tmp_path: Path, suffix: str, lacking: str, message: str
) -> None:
    path = save(tmp_path / f"a.{suffix}", PHOTO)
    path = path.rename(tmp_path / "a.jpg")  # the content counts
    code = (
        f"import sys, pathlib\n{lacking}\n"
        "from covis.engines.errors import CovisError\n"
        "from covis.runtime.photos.decode import upright_rgb\n"
        "try:\n    upright_rgb(pathlib.Path(sys.argv[1]), 0)\n"
        "except CovisError as error:\n    print(int(error.code), error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    first, second = message.split(" .* ")
    assert done.stdout.startswith(f"{int(ExitCode.ENVIRONMENT)} {path}: is a {first}")
    assert done.stdout.rstrip().endswith(f"; {second}") and done.stdout.count("\n") == 1


def test_which_files_may_be_copied(tmp_path: Path) -> None:
    rgba = np.dstack([PHOTO, np.full((60, 80), 255, np.uint8)])
    grey = Image.fromarray(PHOTO).convert("L")
    few = Image.fromarray(PHOTO).quantize(16)
    two = {"save_all": True, "append_images": [Image.new("RGB", (80, 60))]}
    may = {
        save(tmp_path / "a.jpg", PHOTO): ".jpg",
        save(tmp_path / "upright.jpg", PHOTO, exif=exif(1)): ".jpg",
        save(tmp_path / "grey.jpeg", grey): None,
        save(tmp_path / "a.mpo", Image.fromarray(PHOTO), **two): ".jpg",
        save(tmp_path / "a.png", PHOTO): ".png",
        save(tmp_path / "grey.png", grey): None,
        save(tmp_path / "png-named.jpg", PHOTO, format="png"): ".png",
        save(tmp_path / "sideways.jpg", PHOTO, exif=exif(6)): None,
        save(tmp_path / "sideways.png", PHOTO, exif=exif(8)): None,
        save(tmp_path / "mirrored.jpg", PHOTO, exif=exif(2)): None,
        save(tmp_path / "broken.jpg", PHOTO, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"): None,
        save(tmp_path / "cmyk.jpg", grey.convert("CMYK")): None,
        save(tmp_path / "rgba.png", rgba): None,
        save(tmp_path / "key.png", PHOTO, transparency=(30, 0, 0)): None,
        save(tmp_path / "palette.png", few): None,
        save(tmp_path / "bits.png", grey.convert("1")): None,
        save(tmp_path / "moving.png", PHOTO, **two): None,
        save(tmp_path / "a.tif", PHOTO): None,
        save(tmp_path / "a.bmp", PHOTO): None,
        save(tmp_path / "a.webp", PHOTO): None,
        save(tmp_path / "a.heic", PHOTO): None,
    }
    deep = tmp_path / "deep.png"
    deep.write_bytes(png16(PHOTO.astype(np.uint16) * 257))
    may[deep] = None
    assert {path.name: copyable_as(path) for path in may} == {p.name: s for p, s in may.items()}


@pytest.mark.parametrize("suffix", ["heic", "avif", "jp2", "mpo", "qoi", "tga", "gif"])
def test_broken_data_never_escapes_as_another_error(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(3)
    path = save(tmp_path / f"x.{suffix}", PHOTO)
    whole, refusals = path.read_bytes(), 0
    for _ in range(25):
        data = bytearray(whole)
        for position in rng.integers(0, min(len(data), 400), 8):
            data[position] = rng.integers(256)
        path.write_bytes(data)
        for function in (upright_rgb, header_size):
            try:
                function(path, 0)
            except CovisError as error:
                refusals += 1
                assert "\n" not in str(error)
    assert refusals > 0
