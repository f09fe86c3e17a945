"""Orientation of a photo: the tag of EXIF, and the turn that makes the stored pixels upright."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image as PilImage

# EXIF orientation to the transposition that makes a photo upright (EXIF 2.32, tag 0x0112).
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def orientation_of(image: PilImage.Image, path: Path | None) -> int:
    """Return the orientation of EXIF, 1 to 8; a broken EXIF block does not affect the pixels.

    Args:
        image: Image whose file is still open.
        path: Its file; None for an image in memory.
    """
    try:
        orientation = stated_orientation(image, path)
    except MemoryError:
        raise
    except Exception:  # malformed bytes can raise any exception
        return 1
    return orientation if orientation in _UPRIGHT else 1


def stated_orientation(image: PilImage.Image, path: Path | None) -> int:
    """Return the number that EXIF (or XMP) gives as orientation, 1 where none does.

    Raises:
        Exception: The EXIF block is broken.
    """
    # Pillow would decode a whole PNG, since EXIF data may follow its pixels.
    if image.format == "PNG" and "exif" not in image.info and path and not _exif_in_png(path):
        return 1
    return int(image.getexif().get(0x0112, 1))


def turn_left(image: PilImage.Image, orientation: int) -> int:
    """Return the orientation that is left to apply: Pillow turns TIFF files itself."""
    return 1 if image.format == "TIFF" else orientation


def turned(stored: PilImage.Image, orientation: int) -> PilImage.Image:
    """Turn an image of a photo's stored orientation upright."""
    from PIL import Image

    name = _UPRIGHT.get(orientation)
    return stored if name is None else stored.transpose(Image.Transpose[name])


def _exif_in_png(path: Path) -> bool:
    """Walk over the chunks of a PNG, and return whether one may state an orientation."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            text = file.read(min(size, 24)) if kind in (b"tEXt", b"zTXt", b"iTXt") else b""
            if kind == b"eXIf" or text.startswith((b"Raw profile type exif", b"XML:com.adobe")):
                return True
            file.seek(size - len(text) + 4, os.SEEK_CUR)
    return False
