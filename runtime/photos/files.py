"""Open an image file safely: an ordinary file, an allowed decoder, a size that memory allows."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from covis.engines.errors import CovisError, environment_error, first_line, user_error
from covis.engines.limits import JPEG, PHOTO
from covis.runtime.photos.formats import decoders, unidentified
from covis.runtime.photos.samples import mend_planes

if TYPE_CHECKING:
    from PIL import ImageFile

MAX_PIXELS = PHOTO.most
# A larger JPEG is decoded at half size, in the frequency domain: the photos of 200-megapixel phones
# are no sharper. Ordinary photos stay bit for bit as the models' own loaders read them.
FULL_JPEG_PIXELS = 2**26
MAX_JPEG_PIXELS = JPEG.most

_DNG_VERSION, _NEW_SUBFILE_TYPE = 50706, 254  # tags of TIFF; bit 0 of the type means a preview


def check_file(path: Path) -> None:
    """Reject a path that is not an ordinary file.

    Raises:
        CovisError: There is no such file, or it is a folder, a pipe or a device.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise user_error("no such file", where=path, hint="check the path") from None
    except (OSError, ValueError) as error:
        raise io_error(error, path) from error
    if stat.S_ISDIR(mode):
        raise user_error("is a folder", where=path, hint="give its files, or it alone")
    # Opening a pipe or a device could take for ever.
    if not stat.S_ISREG(mode):
        raise user_error("is no ordinary file", where=path, hint="give a photo file")


def stamp(photo: object) -> tuple[int, int] | None:
    """Return size in bytes and time of the last change, in ns, of the file of a photo or video.

    Two stamps differ if the file was written to between them. None for a photo that is not from a
    file, or whose file cannot be looked at.
    """
    path = photo if isinstance(photo, (str, os.PathLike)) else getattr(photo, "path", None)
    if path is None:
        return None
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def io_error(error: Exception, path: Path) -> CovisError:
    """Convert an error of the operating system about `path` into one line."""
    if isinstance(error, PermissionError):
        return environment_error("may not be read", where=path, hint="mend its permissions")
    if isinstance(error, NotADirectoryError):
        return user_error("is no folder", where=path, hint="check the path")
    reason = getattr(error, "strerror", None) or str(error)
    return user_error(f"cannot be read ({reason})", where=path, hint="check the path")


def damaged(title: str | Path, error: Exception) -> CovisError:
    """Convert any exception of a decoder into one line."""
    return user_error(
        f"is damaged and cannot be decoded ({first_line(error, 200)})",
        where=title,
        hint="replace or remove it",
    )


def open_file(path: Path) -> ImageFile.ImageFile:
    """Open an image file with one of the allowed decoders, and read its header alone.

    A JPEG of more than `FULL_JPEG_PIXELS` is set to be decoded at half size.

    Raises:
        CovisError: It is missing, empty, damaged, of an unknown format or too large.
    """
    image = _identified(path)
    try:
        _limit(image, path)
        _refuse_raw(image, path)
        mend_planes(image)
        # Without a name Pillow reads the file instead of mapping it: a mapping scrambles sideways
        # TIFFs, and kills the process if the file shrinks meanwhile.
        image.filename = ""
    except BaseException:
        image.close()
        raise
    return image


def halved(image: object) -> bool:
    """Return whether `open_file` has set a file to be decoded at half size."""
    return bool(getattr(image, "decoderconfig", ()))


def _identified(path: Path) -> ImageFile.ImageFile:
    from PIL import Image, UnidentifiedImageError

    check_file(path)
    if path.stat().st_size == 0:
        raise user_error("is empty (0 bytes)", where=path, hint="remove or replace it")
    try:
        return Image.open(path, formats=decoders(path))
    except Image.DecompressionBombError:
        return _large_jpeg(path)
    except UnidentifiedImageError:
        raise unidentified(path) from None
    except PermissionError as error:
        raise io_error(error, path) from error
    except MemoryError:
        raise
    except Exception as error:  # malformed bytes can raise any exception in a decoder
        raise damaged(path, error) from error


def _large_jpeg(path: Path) -> ImageFile.ImageFile:
    """Open a JPEG past Pillow's limit, which counts the pixels before they are halved."""
    from PIL.JpegImagePlugin import JpegImageFile

    try:
        return JpegImageFile(path)
    except SyntaxError:
        raise _bomb(path, None, MAX_PIXELS) from None


def _limit(image: ImageFile.ImageFile, path: Path) -> None:
    """Reject a size that is not safe to decode, and halve a large JPEG."""
    pixels = image.width * image.height
    if image.format not in ("JPEG", "MPO"):
        if pixels > MAX_PIXELS:
            raise _bomb(path, image.size, MAX_PIXELS)
    elif pixels > MAX_JPEG_PIXELS:
        raise _bomb(path, image.size, MAX_JPEG_PIXELS)
    elif pixels > FULL_JPEG_PIXELS:
        image.draft(image.mode, (max(image.width // 2, 1), max(image.height // 2, 1)))


def _bomb(path: Path, size: tuple[int, int] | None, limit: int) -> CovisError:
    claim = f"claims {size[0]} x {size[1]} pixels, " if size else "claims "
    return user_error(
        f"{claim}more than the {limit // 1_000_000} million that are decoded",
        where=path,
        hint="scale it down or remove it",
    )


def _refuse_raw(image: ImageFile.ImageFile, path: Path) -> None:
    """Reject a camera's raw file: it is a TIFF, of which Pillow would read a small preview."""
    tags = getattr(image, "tag_v2", {})
    dng_version, subfile_type = tags.get(_DNG_VERSION), tags.get(_NEW_SUBFILE_TYPE, 0)
    if dng_version is not None or (isinstance(subfile_type, int) and subfile_type & 1):
        raise user_error(
            "is a camera's raw file, of which only a preview could be read",
            where=path,
            hint="develop it to JPEG or TIFF",
        )
