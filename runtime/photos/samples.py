"""Samples of more than 8 bits, scaled to 8; Pillow's own conversion clips or cuts them.

Files of 16 bits often hold the 10, 12 or 14 bits of a sensor, in the low bits. Read as 16 bits they
are nearly black, so they are scaled by the range that they use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import user_error

if TYPE_CHECKING:
    from PIL import Image as PilImage

_BITS_PER_SAMPLE = 258  # tag of TIFF
_SENSOR_BITS = (8, 10, 12, 14)
# Pillow unpacks the high byte of 16-bit colours. In the other byte order it unpacks the low one.
_OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
_DEEP = ("RGB;16", "RGBA;16", "RGBX;16", "LA;16", "R;16")  # R: the first of three planes


def raw_mode(image: PilImage.Image) -> str:
    """Return the layout of the samples in the file of an image that is not decoded yet.

    Pillow's names: `RGB;16B` are three big-endian 16-bit samples a pixel.
    """
    tiles = getattr(image, "tile", [])
    args = tiles[0][3] if tiles else ""
    raw = args[0] if isinstance(args, tuple) and args else args
    return raw if isinstance(raw, str) else ""


def mend_planes(image: PilImage.Image) -> None:
    """Mend the layout of an uncompressed TIFF of 16-bit planes, which Pillow reads as 8-bit."""
    from PIL.TiffImagePlugin import PLANAR_CONFIGURATION, TiffImageFile

    if not isinstance(image, TiffImageFile) or image.tag_v2.get(PLANAR_CONFIGURATION) != 2:
        return
    if 16 in image.tag_v2.get(_BITS_PER_SAMPLE, ()) and len(raw_mode(image)) == 1:
        order = "L" if image.tag_v2.prefix == b"II" else "B"
        image.tile = [_relaid(tile, lambda raw: f"{raw};16{order}") for tile in image.tile]


def eight_bit(
    image: PilImage.Image, raw: str, again: Callable[[], PilImage.Image] | None
) -> tuple[PilImage.Image, str | None]:
    """Convert a decoded image to a mode of 8 bits a channel.

    Args:
        image: Decoded image of any mode; one of 8 bits is returned as it is.
        raw: Layout of its samples in the file, see `raw_mode`.
        again: Opens the file again; None for an image that is not from a file.

    Returns:
        The image, and a note where its samples were scaled by another range than 16 bits.

    Raises:
        CovisError: Grey values are outside of [0, 1] (float) or of 0 to 65,535 (integers).
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey(image)
    if raw.startswith(_DEEP) and again is not None and _dark(image):
        return _colour(image, raw, again)
    return image, None


def _grey(image: PilImage.Image) -> tuple[PilImage.Image, str | None]:
    from PIL import Image

    values = np.asarray(image)
    top = 1.0 if image.mode == "F" else 65535.0
    if not (values.min() >= 0 and values.max() <= top):
        raise user_error(
            f"has grey values of {values.min()} to {values.max()}, not 0 to {top:g}",
            hint="save it as 8- or 16-bit",
        )
    if image.mode == "F":
        grey = np.multiply(values, 255.0, dtype=np.float32)
        return Image.fromarray(np.rint(grey, out=grey).astype(np.uint8)), None
    bits_stated = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
    if tuple(bits_stated) == (12,):  # packed samples
        return Image.fromarray(_table(12)[values]), None
    bits = bits_used(values)
    return Image.fromarray(_table(bits)[values]), _note(bits)


def bits_used(values: NDArray[np.uint16]) -> int:
    """Return the bits of the samples that 16-bit integers hold: 8, 10, 12, 14 or 16.

    Less than 16 is returned where the values reach no further, unless they are visibly multiples:
    samples that were shifted to the high bits, or 8 bits that were multiplied by 257.
    """
    top = int(np.max(values))
    bits = next((bits for bits in _SENSOR_BITS if top < 1 << bits), 16)
    if bits == 16 or top == 0:
        return 16
    multiples = not (values & 1).any() or not (values % 257).any()
    return 16 if multiples else bits


def _table(bits: int) -> NDArray[np.uint8]:
    """Return the 8-bit value of each 16-bit integer, rounded."""
    top = (1 << bits) - 1
    scaled = np.rint(np.arange(1 << 16) * (255.0 / top))
    table: NDArray[np.uint8] = np.minimum(scaled, 255).astype(np.uint8)
    return table


def _note(bits: int) -> str | None:
    if bits == 16:
        return None
    return f"{bits}-bit data in a 16-bit file, scaled by {(1 << bits) - 1}"


def _dark(image: PilImage.Image) -> bool:
    """Return whether the high bytes of all colours are those of 14-bit data or less."""
    extrema = image.getextrema()
    highs = [high for _, high in extrema[:3] if isinstance(high, int)]  # type: ignore[misc]
    return 0 <= max(highs) < 1 << (_SENSOR_BITS[-1] - 8)


def _colour(
    image: PilImage.Image, raw: str, again: Callable[[], PilImage.Image]
) -> tuple[PilImage.Image, str | None]:
    from PIL import Image

    values = _grey_alpha(again) if raw.startswith("LA") else _both_bytes(image, again)
    bits = bits_used(values[..., :3])
    if bits == 16:
        return image, None
    out = _table(bits)[values]
    if values.shape[2] == 4:
        out[..., 3] = _table(bits_used(values[..., 3]))[values[..., 3]]
    return Image.fromarray(out), _note(bits)


def _both_bytes(image: PilImage.Image, again: Callable[[], PilImage.Image]) -> NDArray[np.uint16]:
    """Decode the low bytes, too, and return the full samples (height, width, channels)."""
    low = _decoded(again, lambda raw: raw[:-1] + _OTHER_ORDER[raw[-1]])
    samples: NDArray[np.uint16] = np.asarray(image).astype(np.uint16) << np.uint16(8)
    samples |= low
    return samples


def _grey_alpha(again: Callable[[], PilImage.Image]) -> NDArray[np.uint16]:
    """Return the samples (height, width, 4) of a 16-bit PNG of grey and alpha.

    Pillow has no layout for its low bytes; its four bytes a pixel are read as those of RGBA.
    """
    samples = _decoded(again, lambda raw: "RGBA").view(">u2")
    return samples[..., [0, 0, 0, 1]].astype(np.uint16)


def _decoded(
    again: Callable[[], PilImage.Image], layout: Callable[[str], str]
) -> NDArray[np.uint8]:
    """Decode a file once more with another layout of each tile than its own."""
    with again() as image:
        image.tile = [_relaid(tile, layout) for tile in image.tile]  # type: ignore[attr-defined]
        image.load()
        return np.asarray(image)


def _relaid(tile: Any, layout: Callable[[str], str]) -> Any:
    args = tile.args
    if isinstance(args, str):
        return tile._replace(args=layout(args))
    return tile._replace(args=(layout(args[0]), *args[1:]))
