"""Decode one photo robustly: header first, then upright 8-bit RGB; errors take one line."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import CovisError, user_error
from covis.runtime.photos.colour import rgb_and_alpha
from covis.runtime.photos.files import FULL_JPEG_PIXELS, damaged, halved, open_file
from covis.runtime.photos.orientation import orientation_of, stated_orientation, turn_left, turned
from covis.runtime.photos.samples import eight_bit, raw_mode
from covis.runtime.photos.video import VideoFrame

if TYPE_CHECKING:
    from PIL import Image as PilImage

    Photo = Path | str | NDArray[np.uint8] | PilImage.Image | VideoFrame

# A PIL image of the caller loads at its first use, and may stand in a list twice.
_loading = threading.Lock()
# Photos of more pixels are decoded one at a time, so that threads do not multiply their memory.
_LARGE = FULL_JPEG_PIXELS
_large = threading.Lock()


@dataclass(frozen=True)
class Upright:
    """A decoded photo as it is viewed.

    Attributes:
        image: PIL image, upright, 8-bit RGB.
        opaque: Mask (height, width) of the pixels that are at least half opaque; None where all
            are.
        notes: What was changed beyond the usual, a line each.
        orientation: EXIF orientation of the stored pixels, 1 to 8.
    """

    image: PilImage.Image
    opaque: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()
    orientation: int = 1


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings of broken metadata and large photos, which are checked here.

    Files that are cut off are refused inside, even if the program has set Pillow to fill them with
    grey. Set around a whole batch, because both belong to the process and not to a thread.
    """
    from PIL import ImageFile

    cut_off_allowed = ImageFile.LOAD_TRUNCATED_IMAGES
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = cut_off_allowed


def title_of(photo: Photo, index: int) -> str | Path:
    """Return a photo's name for errors: its path, or its place in the list."""
    if isinstance(photo, VideoFrame):
        return photo.path.with_name(photo.name)
    return path_of(photo) or f"photo {index}"


def header_size(photo: Photo, index: int) -> tuple[int, int]:
    """Return (height, width) of the image of `upright_rgb`, without decoding the photo."""
    if isinstance(photo, VideoFrame):
        return photo.size
    image = _open(photo, index)
    try:
        across = turn_left(image, orientation_of(image, path_of(photo))) >= 5
        return (image.width, image.height) if across else (image.height, image.width)
    finally:
        if image is not photo:
            image.close()


def upright_rgb(photo: Photo, index: int, *, drop_alpha: bool = False) -> Upright:
    """Decode a photo to upright 8-bit RGB at full size.

    The orientation of EXIF is applied. Of an animation or a stereo pair the first image is taken,
    of a HEIC file its primary one. Colour profiles are ignored, as by the models' own loaders. A
    JPEG of more than 67 million pixels is decoded at half size.

    Args:
        photo: Photo of any kind.
        index: Place of the photo in its list, for errors.
        drop_alpha: Keep the colours of transparent pixels. By default they are laid on white.

    Raises:
        CovisError: The photo cannot be read, is too large, damaged or cut off.
    """
    image = _open(photo, index)
    large = halved(image) or image.width * image.height > _LARGE
    try:
        with _large if large else contextlib.nullcontext():
            return _upright(image, photo, drop_alpha)
    except (CovisError, MemoryError):
        raise
    except Exception as error:  # malformed bytes can raise any exception in a decoder
        raise damaged(title_of(photo, index), error) from error
    finally:
        _close_file(image, photo)


def copyable_as(photo: Path) -> str | None:
    """Return the suffix under which a file's bytes may be copied as the upright photo.

    Returns:
        `.jpg` or `.png` where the stored pixels are upright, opaque, 8-bit RGB and of full size, so
        that all readers show the same; else None. Trainers take three channels as given, so grey
        is not copied.

    Raises:
        CovisError: The file cannot be opened.
    """
    image = open_file(photo)
    with image:
        suffix = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png"}.get(image.format or "")
        plain = raw_mode(image) == "RGB" and "transparency" not in image.info
        if suffix is None or not plain or halved(image):
            return None
        if suffix == ".png" and getattr(image, "is_animated", False):
            return None
        try:
            upright = stated_orientation(image, photo) == 1
            # Each reader may understand a broken EXIF block in its own way.
            whole = "exif" not in image.info or len(image.getexif()) > 0
        except Exception:
            return None
        return suffix if upright and whole else None


def _open(photo: Photo, index: int) -> PilImage.Image:
    """Open a photo; only its header is read if it is a file."""
    image = _identified(photo, index)
    if image.width < 1 or image.height < 1:
        raise user_error("has no pixels", where=title_of(photo, index), hint="remove it")
    return image


def path_of(photo: Photo) -> Path | None:
    """Return the image file of a photo; None for an array, a PIL image or a frame of a video."""
    return Path(photo) if isinstance(photo, (str, os.PathLike)) else None


def _identified(photo: Photo, index: int) -> PilImage.Image:
    from PIL import Image

    if isinstance(photo, Image.Image):
        return photo
    if isinstance(photo, np.ndarray):
        return _from_array(photo, f"photo {index}")
    if isinstance(photo, VideoFrame):
        return photo.decode()
    if (path := path_of(photo)) is not None:
        return open_file(path)
    raise user_error(
        f"a {type(photo).__name__} is no photo",
        where=f"photo {index}",
        hint="give a path, a uint8 array or a PIL image",
    )


def _from_array(array: NDArray[np.uint8], title: str) -> PilImage.Image:
    from PIL import Image

    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise user_error(
            f"an array of {array.dtype} {array.shape} is no photo",
            where=title,
            hint="give uint8 of shape (height, width, 3)",
        )
    if array.size == 0:
        raise user_error("has no pixels", where=title, hint="remove it")
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and channels == 1 else array)


def _upright(image: PilImage.Image, photo: Photo, drop_alpha: bool) -> Upright:
    orientation, raw = _load(image, photo)
    eight, note = eight_bit(image, raw, _reopen(photo))
    rgb, alpha = rgb_and_alpha(eight, drop_alpha)
    turn = turn_left(image, orientation)
    return Upright(
        image=turned(rgb, turn) if rgb is not photo or turn > 1 else rgb.copy(),
        opaque=None if alpha is None else _opaque(turned(alpha, turn)),
        notes=tuple(line for line in (note, _halved_note(image)) if line),
        orientation=orientation,
    )


def _load(image: PilImage.Image, photo: Photo) -> tuple[int, str]:
    """Decode the pixels, and return the orientation and the layout of the samples in the file."""
    with _loading if image is photo else contextlib.nullcontext():
        raw = raw_mode(image)
        orientation = orientation_of(image, path_of(photo))
        image.load()
    return orientation, raw


def _reopen(photo: Photo) -> Callable[[], PilImage.Image] | None:
    path = path_of(photo)
    return None if path is None else lambda: open_file(path)


def _opaque(alpha: PilImage.Image) -> NDArray[np.bool_] | None:
    opaque = np.asarray(alpha) >= 128
    return None if opaque.all() else opaque


def _halved_note(image: PilImage.Image) -> str | None:
    if not halved(image):
        return None
    return f"decoded at half size, {image.width} x {image.height} pixels"


def _close_file(image: PilImage.Image, photo: Photo) -> None:
    """Close the file of a photo and keep its pixels, which the result may share."""
    from PIL import ImageFile

    if image is not photo and isinstance(image, ImageFile.ImageFile):
        image.__exit__(None, None, None)
