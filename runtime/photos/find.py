"""Find the photos and videos that a caller names: those of a folder, or an iterable of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Set
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from covis.engines.errors import user_error
from covis.engines.limits import LISTED_PHOTOS
from covis.runtime.photos.files import io_error
from covis.runtime.photos.folder import Found, in_folder
from covis.runtime.photos.video import VideoFrame

if TYPE_CHECKING:
    from covis.runtime.photos.decode import Photo

MOST_LISTED = LISTED_PHOTOS.most


def find(source: object, masks: Path | None = None) -> Found:
    """Find the photos and videos of a folder in natural order (img2 before img10), or of a list.

    A folder is searched at its first level. If there is none, its folder `images` is taken, or else
    all its folders that have photos. Hidden files are ignored; every other file that is not taken
    is named in a note.

    Args:
        source: Folder, file, or an iterable of files, uint8 arrays, PIL images and video frames.
        masks: Folder of mask images, which are no photos.

    Raises:
        CovisError: Something is missing or is no photo, or there is no photo.
    """
    if isinstance(source, (str, os.PathLike)):
        if not os.fspath(source):
            raise user_error("an empty path names no photo", where="photos", hint="give a folder")
        path = Path(os.fsdecode(source))
        return Found((path,)) if _is_file(path) else in_folder(path, masks)
    if not isinstance(source, Iterable) or isinstance(source, (bytes, bytearray, Mapping, Set)):
        raise user_error(
            f"a value of type {type(source).__name__} is no list of photos",
            where="photos",
            hint="give a folder, or a list of files, uint8 arrays or PIL images",
        )
    if getattr(source, "ndim", 4) < 4:  # an array, whose rows would pass as photos
        raise user_error("one array is one photo", where="photos", hint="give a list of photos")
    listed = list(islice(source, MOST_LISTED + 1))
    if not listed:
        raise user_error("the list of photos is empty", hint="give at least one photo")
    if len(listed) > MOST_LISTED:
        raise user_error(f"more than {MOST_LISTED:,} photos", where="photos", hint="give fewer")
    return Found(tuple(_checked(photo, index) for index, photo in enumerate(listed)))


def _checked(photo: Any, index: int) -> Photo:
    from PIL import Image

    if isinstance(photo, (str, os.PathLike)):
        return Path(os.fsdecode(photo))
    if isinstance(photo, (np.ndarray, Image.Image, VideoFrame)):
        return photo
    encoded = isinstance(photo, (bytes, bytearray, memoryview))
    raise user_error(
        f"a value of type {type(photo).__name__} is no photo",
        where=f"photo {index}",
        hint="decode it first: PIL.Image.open(io.BytesIO(data))"
        if encoded
        else "give a path, a uint8 array (height, width, 3) or a PIL image",
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise io_error(error, path) from error
