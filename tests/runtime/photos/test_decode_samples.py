"""Samples of more than 8 bits: 10-, 12- and 14-bit data in 16-bit files, 32-bit and float grey."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from covis.engines.errors import CovisError
from covis.runtime.photos.decode import upright_rgb
from tests.runtime.photos.pattern import PHOTO, chunk, exif, png16, save, stored, tiff

GREY = PHOTO[..., 1]
RGB_TAGS = {258: (16, 16, 16), 259: (1,), 262: (2,), 277: (3,)}


def sensor(photo: NDArray[np.uint8], bits: int) -> NDArray[np.uint16]:
    """The photo as the numbers of a sensor of that many bits; its brightest is near the top."""
    return np.rint(photo * ((2**bits - 1) / 255)).astype(np.uint16) | 1


def check(path: Path, expected: NDArray[np.uint8], note: str | None, within: int = 1) -> None:
    photo = upright_rgb(path, 0)
    found = np.asarray(photo.image).astype(int)
    expected = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=2)
    assert np.abs(found - expected).max() <= within
    assert photo.notes == (() if note is None else (note,))


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_a_sensor(tmp_path: Path, bits: int, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(sensor(GREY, bits)))
    check(path, GREY, f"{bits}-bit data in a 16-bit file, scaled by {2**bits - 1}")


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_colours_of_a_sensor(tmp_path: Path, bits: int) -> None:
    """Pillow gives the high byte of each colour alone: 15 of 255 for the white of 12 bits."""
    note = f"{bits}-bit data in a 16-bit file, scaled by {2**bits - 1}"
    data = sensor(PHOTO, bits)
    png = tmp_path / "a.png"
    png.write_bytes(png16(data))
    check(png, PHOTO, note)
    little = data.astype("<u2")
    interleaved = tmp_path / "a.tif"
    interleaved.write_bytes(tiff(little.tobytes(), 80, 60, RGB_TAGS))
    check(interleaved, PHOTO, note)
    planes = tmp_path / "b.tif"
    bands = np.ascontiguousarray(little.transpose(2, 0, 1)).tobytes()
    planes.write_bytes(tiff(bands, 80, 60, {**RGB_TAGS, 284: (2,)}, strips=3))
    check(planes, PHOTO, note)


def test_compressed_tiff_of_a_sensor(tmp_path: Path) -> None:
    raw = save(tmp_path / "raw.tif", Image.fromarray(sensor(GREY, 12)), compression="tiff_lzw")
    check(raw, GREY, "12-bit data in a 16-bit file, scaled by 4095")


def test_colours_with_alpha(tmp_path: Path) -> None:
    alpha = np.full((60, 80, 1), 4095, np.uint16)
    alpha[:, 40:] = 0
    white = PHOTO.copy()
    white[:, 40:] = 255
    path = tmp_path / "a.png"
    path.write_bytes(png16(np.concatenate([sensor(PHOTO, 12), alpha], axis=2)))
    check(path, white, "12-bit data in a 16-bit file, scaled by 4095")
    assert (upright_rgb(path, 0).opaque == (alpha[..., 0] > 0)).all()
    path.write_bytes(png16(np.concatenate([sensor(GREY, 12)[..., None], alpha], axis=2)))
    grey = np.repeat(GREY[..., None], 3, axis=2)
    grey[:, 40:] = 255
    check(path, grey, "12-bit data in a 16-bit file, scaled by 4095")


def test_colours_are_turned_after_scaling(tmp_path: Path) -> None:
    turned = np.asarray(stored(Image.fromarray(PHOTO), 6))
    path = tmp_path / "a.png"
    path.write_bytes(png16(sensor(turned, 12), chunk(b"eXIf", exif(6)[6:])))
    check(path, PHOTO, "12-bit data in a 16-bit file, scaled by 4095")


def test_sixteen_bits_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png16(PHOTO.astype(np.uint16) * 257))
    check(path, PHOTO, None, within=0)
    path.write_bytes(png16(GREY.astype(np.uint16) * 257))
    check(path, GREY, None, within=0)
    planes = tmp_path / "b.tif"
    deep = (PHOTO.astype("<u2") * 257).transpose(2, 0, 1)
    planes.write_bytes(
        tiff(np.ascontiguousarray(deep).tobytes(), 80, 60, {**RGB_TAGS, 284: (2,)}, strips=3)
    )
    check(planes, PHOTO, None, within=0)


@pytest.mark.parametrize("unit", [257, 16])
def test_dark_photo_of_true_sixteen_bits_stays_dark(tmp_path: Path, unit: int) -> None:
    """Multiples of 257 were 8 bits, multiples of 16 are 12 bits in the high ones."""
    dark = (GREY // 8).astype(np.uint16) * unit
    for name, data in (("a", dark), ("b", np.repeat(dark[..., None], 3, axis=2))):
        path = tmp_path / f"{name}.png"
        path.write_bytes(png16(data))
        check(path, (dark / 257).astype(np.uint8), None)


def test_black_photo_stays_black(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png16(np.zeros((60, 80, 3), np.uint16)))
    check(path, np.zeros((60, 80, 3), np.uint8), None, within=0)


def test_tiff_that_states_twelve_bits(tmp_path: Path) -> None:
    """Packed samples say how many bits they have, so that a dark photo is not brightened."""
    dark = np.rint(GREY * (4095 / 255) / 8).astype(np.uint16).reshape(60, 40, 2)
    first, second = dark[..., 0], dark[..., 1]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=2)
    path = tmp_path / "a.tif"
    tags = {258: (12,), 259: (1,), 262: (1,), 277: (1,)}
    path.write_bytes(tiff(packed.astype(np.uint8).tobytes(), 80, 60, tags))
    check(path, (GREY / 8).astype(np.uint8), None)


def test_integers_of_32_bits(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Image.fromarray(GREY.astype(np.int32) * 257))
    check(path, GREY, None)
    for wrong in (-1, 65536):
        values = GREY.astype(np.int32)
        values[3, 4] = wrong
        path = save(tmp_path / "b.tif", Image.fromarray(values))
        with pytest.raises(CovisError, match=rf"grey values of .*{wrong}.*, not 0 to 65535; save"):
            upright_rgb(path, 0)


@pytest.mark.parametrize("wrong", [-0.01, 1.01, np.nan, np.inf])
def test_float_grey(tmp_path: Path, wrong: float) -> None:
    values = GREY.astype(np.float32) / 255
    path = save(tmp_path / "a.tif", Image.fromarray(values))
    check(path, GREY, None, within=0)
    values[3, 4] = wrong
    path = save(tmp_path / "b.tif", Image.fromarray(values))
    with pytest.raises(CovisError, match=r"has grey values of .*, not 0 to 1; save it as"):
        upright_rgb(path, 0)


def test_ppm_of_many_levels(tmp_path: Path) -> None:
    """Pillow scales by the maximum that the header states."""
    grey, colour = tmp_path / "a.pgm", tmp_path / "a.ppm"
    grey.write_bytes(b"P5 80 60 4095\n" + sensor(GREY, 12).astype(">u2").tobytes())
    check(grey, GREY, None)
    colour.write_bytes(b"P6 80 60 4095\n" + sensor(PHOTO, 12).astype(">u2").tobytes())
    check(colour, PHOTO, None)
