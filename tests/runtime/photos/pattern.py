"""A photo that shows how it is turned, and files that Pillow cannot write."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

# 60 x 80 pixels, unlike itself under every turn and mirror.
PHOTO: NDArray[np.uint8] = np.dstack(
    [
        np.add.outer(np.arange(60), np.arange(80)) + 30,
        np.tile(np.arange(80) * 3, (60, 1)),
        np.tile(np.arange(60)[:, None] * 4, (1, 80)),
    ]
).astype(np.uint8)

TO_STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def stored(upright: Image.Image, orientation: int) -> Image.Image:
    """Turn an upright image as a camera stores it that writes this EXIF orientation."""
    method = TO_STORED[orientation]
    return upright if method is None else upright.transpose(method)


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png16(samples: NDArray[np.integer], *after: bytes) -> bytes:
    """A PNG of 16-bit samples (height, width) or (height, width, 2, 3 or 4), with more chunks."""
    height, width, channels = (*samples.shape, 1)[:3]
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), *after, chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(
    data: bytes, width: int, height: int, tags: dict[int, tuple[int, ...]], strips: int = 1
) -> bytes:
    """A little-endian uncompressed TIFF; `tags` are SHORT values beyond its size and its strips."""
    size = len(data) // strips
    entries: dict[int, tuple[str, tuple[int, ...]]] = {
        **{tag: ("H", values) for tag, values in tags.items()},
        256: ("I", (width,)),
        257: ("I", (height,)),
        273: ("I", tuple(8 + i * size for i in range(strips))),
        278: ("I", (height,)),
        279: ("I", (size,) * strips),
    }
    start = 8 + len(data)
    extra, rows = b"", b""
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}{kind}", *values)
        if len(packed) > 4:
            place = start + 2 + 12 * len(entries) + 4 + len(extra)
            extra, packed = extra + packed, struct.pack("<I", place)
        rows += struct.pack("<HHI", tag, {"H": 3, "I": 4}[kind], len(values)) + packed.ljust(
            4, b"\0"
        )
    head = b"II*\0" + struct.pack("<I", start)
    return head + data + struct.pack("<H", len(entries)) + rows + bytes(4) + extra


def claiming(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header claims another size."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def save(path: Path, image: Image.Image | NDArray[np.uint8], **options: object) -> Path:
    """Write an image; skips the calling test where this Pillow does not write the format."""
    kind = str(options.get("format", Image.registered_extensions().get(path.suffix, ""))).upper()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {path.suffix} files")
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path
