"""Which pixels of a photo may be used: its own transparency, and a mask image beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import user_error
from covis.runtime.photos.decode import Upright, upright_rgb
from covis.runtime.photos.files import damaged, open_file
from covis.runtime.photos.formats import LOSSY
from covis.runtime.photos.orientation import orientation_of, turn_left, turned

if TYPE_CHECKING:
    from covis.runtime.photos.decode import Photo

_ASPECT = 0.02  # relative difference of aspect that rounding to whole patches can cause


def photo_mask(photo: Photo, mask: Path | None, index: int) -> NDArray[np.bool_] | None:
    """Return the pixels (height, width) of the upright photo that may be used; None where all may.

    Args:
        photo: Photo; where it is transparent, it is not to be used.
        mask: Mask image of the photo, see `read_mask`; None where there is none.
        index: Place of the photo in its list, for errors.

    Raises:
        CovisError: One of the two cannot be decoded, or their shapes differ.
    """
    return usable(upright_rgb(photo, index), mask)


def usable(upright: Upright, mask: Path | None) -> NDArray[np.bool_] | None:
    """Return `photo_mask` of a photo that is decoded already."""
    if mask is None:
        return upright.opaque
    allowed = read_mask(mask, upright)
    both = allowed if upright.opaque is None else allowed & upright.opaque
    return None if both.all() else both


def read_mask(path: Path, upright: Upright) -> NDArray[np.bool_]:
    """Read a mask image as the mask (height, width) of an upright photo; true means use.

    Black means: do not use. In formats that store approximate pixels (JPEG, WebP), black is what is
    darker than half of the brightest pixel. If the mask image is itself transparent somewhere, its
    transparency counts instead. A mask of another size is resized by the nearest pixel. It has the
    orientation of the upright photo or that of the photo's stored pixels; where both fit, that of
    the upright photo is taken.

    Raises:
        CovisError: The file cannot be decoded, or its shape fits neither orientation.
    """
    from PIL import Image

    used = Image.fromarray(_used(path))
    width, height = size = upright.image.size
    if not _same_aspect(used.size, size) and _same_aspect(used.size, (height, width)):
        used = turned(used, upright.orientation)
    if not _same_aspect(used.size, size):
        raise user_error(
            f"has {used.width} x {used.height} pixels, another shape than the photo's "
            f"{width} x {height}",
            where=path,
            hint="give a mask of the photo's own size",
        )
    if used.size != size:
        used = used.resize(size, Image.Resampling.NEAREST)
    return np.asarray(used)


def _used(path: Path) -> NDArray[np.bool_]:
    """Decode a mask image, upright by its own orientation."""
    with open_file(path) as image:
        lossy, labels = image.format in LOSSY, image.mode.startswith(("I", "F"))
    if labels:
        return _nonzero(path)
    mask = upright_rgb(path, 0, drop_alpha=True)
    if mask.opaque is not None:
        return mask.opaque
    brightness = np.asarray(mask.image).max(axis=2)
    least = (int(brightness.max()) + 1) // 2 if lossy else 1
    used: NDArray[np.bool_] = brightness >= max(least, 1)
    return used


def _nonzero(path: Path) -> NDArray[np.bool_]:
    """Decode a mask of labels with 16 bits or more, of which 8 bits would lose the small ones."""
    from PIL import Image

    with open_file(path) as image:
        turn = turn_left(image, orientation_of(image, path))
        try:
            return np.asarray(turned(Image.fromarray(np.asarray(image) > 0), turn))
        except (OSError, ValueError, SyntaxError) as error:
            raise damaged(path, error) from error


def _same_aspect(size: tuple[int, int], photo: tuple[int, int]) -> bool:
    (width, height), (photo_width, photo_height) = size, photo
    return abs(width * photo_height / (height * photo_width) - 1.0) <= _ASPECT
