"""Only decoders of photos run on a user's file, within bounds of memory."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from covis.engines.errors import CovisError
from covis.runtime.photos import decode, files
from covis.runtime.photos.decode import copyable_as, header_size, upright_rgb
from covis.runtime.photos.files import FULL_JPEG_PIXELS, MAX_JPEG_PIXELS, MAX_PIXELS
from covis.runtime.photos.masks import photo_mask
from tests.peak_memory import PEAK
from tests.places import ROOT
from tests.runtime.photos.pattern import PHOTO, chunk, claiming, exif, png16, save, stored

# Allow-list


def test_eps_named_jpg_starts_nothing(tmp_path: Path) -> None:
    """Pillow itself starts Ghostscript for it, as the last line shows."""
    path, marker = tmp_path / "a.jpg", tmp_path / "started"
    Image.fromarray(PHOTO).save(path, "eps")
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{marker}'\nexit 1\n")
    program.chmod(0o755)
    code = (
        "import pathlib, sys\n"
        "from PIL import Image\n"
        "from covis.engines.errors import CovisError\n"
        "from covis.runtime.photos.decode import header_size, upright_rgb\n"
        "from covis.runtime.photos.masks import read_mask\n"
        "path, marker = map(pathlib.Path, sys.argv[1:])\n"
        "for read in (upright_rgb, header_size, read_mask):\n"
        "    try:\n        read(path, 0)\n"
        "    except CovisError as error:\n        print(marker.exists(), int(error.code), error)\n"
        "try:\n    Image.open(path).load()\nexcept Exception:\n    print(marker.exists())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(marker)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"},
    )
    *ours, pillows = done.stdout.splitlines()
    assert len(ours) == 3 and pillows == "True"
    for line in ours:
        assert line.startswith(f"False 2 {path}: is no image that can be read; use jpg")


@pytest.mark.parametrize("kind", ["eps", "pdf", "ico", "pcx", "im", "sgi", "xbm", "msp", "dds"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "heic", "tga"])
def test_other_formats_are_refused_under_any_name(tmp_path: Path, kind: str, suffix: str) -> None:
    image = Image.fromarray(PHOTO)
    path = tmp_path / f"a.{suffix}"
    (image.convert("1") if kind in ("xbm", "msp") else image).save(path, kind)
    with pytest.raises(CovisError, match="is no image that can be read") as caught:
        upright_rgb(path, 0)
    assert caught.value.where == str(path)


def test_names_of_other_files_inside_are_not_followed(tmp_path: Path) -> None:
    secret = save(tmp_path / "secret.png", PHOTO)
    path = tmp_path / "a.jpg"
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{secret}"/></svg>')
    with pytest.raises(CovisError, match="is no image that can be read"):
        upright_rgb(path, 0)


def test_every_file_is_opened_with_a_list_of_formats() -> None:
    """`Image.open(path)` alone would try every decoder."""
    found, rooms = 0, ("covis", "engines", "evaluation", "export", "runtime", "synthetic")
    for room in rooms:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Image.open"):
                    assert any(word.arg == "formats" for word in node.keywords), path
                    found += 1
    assert found >= 2


def test_random_bytes_are_no_tga(tmp_path: Path) -> None:
    """A TGA begins with no signature, so that only its name makes one."""
    save(tmp_path / "a.tga", PHOTO)
    path = (tmp_path / "a.tga").rename(tmp_path / "a.jpg")
    with pytest.raises(CovisError, match="is no image that can be read"):
        upright_rgb(path, 0)


# Large JPEGs


def _jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).save(buffer, "jpeg", quality=95, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["jpeg", "mpo", "progressive"])
def test_large_jpeg_is_decoded_at_half_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(files, "FULL_JPEG_PIXELS", 60 * 80 - 1)
    path = tmp_path / "a.jpg"
    if kind == "mpo":
        first = Image.fromarray(PHOTO)
        first.save(path, "mpo", save_all=True, append_images=[Image.new("RGB", (80, 60))])
    else:
        path.write_bytes(_jpeg(progressive=kind == "progressive"))
    photo = upright_rgb(path, 0)
    assert photo.image.size == (40, 30) and header_size(path, 0) == (30, 40)
    means = PHOTO.reshape(30, 2, 40, 2, 3).mean(axis=(1, 3))
    inner = np.abs(np.asarray(photo.image) - means)[1:-1, 1:-1]
    assert inner.mean() < 2.5
    assert photo.notes == ("decoded at half size, 40 x 30 pixels",)
    assert copyable_as(path) is None


def test_large_jpeg_is_upright_and_takes_masks_of_full_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FULL_JPEG_PIXELS", 1000)
    path = save(tmp_path / "a.jpg", stored(Image.fromarray(PHOTO), 6), exif=exif(6))
    assert upright_rgb(path, 0).image.size == (40, 30) and header_size(path, 0) == (30, 40)
    used = np.zeros((60, 80), np.uint8)
    used[:, :40] = 255
    found = photo_mask(path, save(tmp_path / "m.png", used), 0)
    assert found is not None and found.shape == (30, 40)
    assert found[:, :20].all() and not found[:, 20:].any()


def test_odd_sides_are_rounded_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FULL_JPEG_PIXELS", 1000)
    path = save(tmp_path / "a.jpg", PHOTO[:59, :79])
    assert header_size(path, 0) == (30, 40) == upright_rgb(path, 0).image.size[::-1]


def test_ordinary_photos_are_decoded_at_full_size(tmp_path: Path) -> None:
    """50 megapixels are common, 64 the most of today's cameras without a mode for it."""
    path = tmp_path / "a.jpg"
    path.write_bytes(claiming(_jpeg(), 9248, 6936))
    assert header_size(path, 0) == (6936, 9248)
    path.write_bytes(claiming(_jpeg(), 8192, 8192))
    assert header_size(path, 0) == (8192, 8192) and FULL_JPEG_PIXELS == 8192 * 8192


@pytest.mark.parametrize(("width", "height"), [(16320, 12240), (12000, 9000), (16384, 16384)])
def test_photos_of_phones_with_200_megapixels(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(claiming(_jpeg(), width, height))
    assert header_size(path, 0) == (height // 2, width // 2)


@pytest.mark.parametrize(("width", "height"), [(16384, 16385), (65500, 65500)])
def test_jpeg_of_more_than_the_decoder_may_keep(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(claiming(_jpeg(), width, height))
    with pytest.raises(CovisError, match=f"claims {width} x {height} .* 268 million") as caught:
        upright_rgb(path, 0)
    assert "\n" not in str(caught.value) and MAX_JPEG_PIXELS == 4 * FULL_JPEG_PIXELS


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "ppm"])
def test_other_formats_keep_their_limit(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    save(path, PHOTO)
    data, (width, height) = bytearray(path.read_bytes()), (16380, 16380)
    if suffix == "png":
        sides = width.to_bytes(4, "big") + height.to_bytes(4, "big")
        data[8:33] = chunk(b"IHDR", sides + data[24:29])
    elif suffix == "webp":
        save(path, PHOTO, lossless=False)
        data = bytearray(path.read_bytes())
        at = data.index(b"\x9d\x01\x2a") + 3
        data[at : at + 4] = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    elif suffix == "bmp":
        data[18:26] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    else:
        data = bytearray(data.replace(b"80 60", b"%d %d" % (width, height)))
    path.write_bytes(data)
    for read in (upright_rgb, header_size):
        with pytest.raises(CovisError, match="more than the 178 million"):
            read(path, 0)
    assert width * height > MAX_PIXELS


# Memory


def _peak_bytes_per_pixel(path: Path, drop_alpha: bool = False) -> float:
    """Return the peak memory of decoding one photo, over that of the process before."""
    code = PEAK + (
        "import pathlib, sys\n"
        "from covis.runtime.photos.decode import header_size, upright_rgb\n"
        "path, drop = pathlib.Path(sys.argv[1]), sys.argv[2] == 'True'\n"
        "small = pathlib.Path(sys.argv[3])\n"
        "upright_rgb(small, 0, drop_alpha=drop)\n"
        "before = peak()\n"
        "upright_rgb(path, 0, drop_alpha=drop)\n"
        "height, width = header_size(path, 0)\n"
        "print((peak() - before) * 1024 / (height * width))"
    )
    small = path.with_name(f"small{path.suffix}")
    with Image.open(path) as image:
        image.crop((0, 0, 8, 8)).save(small)
    arguments = [str(path), str(drop_alpha), str(small)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


@pytest.mark.parametrize("large", [True, False])
def test_large_photos_are_decoded_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    """Threads would multiply the memory of photos that take gigabytes each."""
    inside, most, eight_bit = [], [], decode.eight_bit

    def watched(*arguments: Any) -> Any:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return eight_bit(*arguments)

    monkeypatch.setattr(decode, "eight_bit", watched)
    monkeypatch.setattr(decode, "_LARGE", 100 if large else 60 * 80)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda index: upright_rgb(PHOTO, index), range(4)))
    assert len(most) == 4 and (max(most) == 1) == large


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(
    ("name", "most"),
    [("a.jpg", 9), ("rgba.png", 20), ("a.webp", 20), ("deep.png", 20), ("float.tif", 20)],
)
def test_peak_memory_of_a_photo(tmp_path: Path, name: str, most: int) -> None:
    """Bytes a decoded pixel: Pillow keeps 4 for each colour image, and some need a second."""
    path, ramp = tmp_path / name, np.tile(np.arange(2400, dtype=np.uint16), (1600, 1))
    photo = Image.fromarray((ramp // 16).astype(np.uint8)).convert("RGB")
    if name == "a.jpg":
        photo.save(path, exif=exif(6))
    elif name == "rgba.png":
        photo.putalpha(77)
        photo.save(path, exif=exif(6))
    elif name == "a.webp":
        photo.save(path, quality=50, method=0)
    elif name == "deep.png":
        path.write_bytes(png16(np.repeat(ramp[..., None], 3, axis=2)))
    else:
        Image.fromarray(ramp.astype(np.float32) / 2400).save(path)
    assert 3 < _peak_bytes_per_pixel(path) < most
