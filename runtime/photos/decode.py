"""Decode one photo robustly: header first, then upright 8-bit RGB; errors take one line."""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import CovisError, environment_error, user_error

if TYPE_CHECKING:
    from PIL import Image as PilImage

    Photo = Path | str | NDArray[np.uint8] | PilImage.Image

MAX_PIXELS = 178_956_970  # Pillow's own limit for decompression bombs: 0.5 GB as RGB
LOOKS_FOR = "jpg, png, webp, bmp, tif or ppm"


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings of broken metadata and large photos, which are checked here.

    Set around a whole batch, because warning filters belong to the process and not to a thread.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


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


def io_error(error: Exception, path: Path) -> CovisError:
    """Convert an error of the operating system about `path` into one line."""
    if isinstance(error, PermissionError):
        return environment_error("may not be read", where=path, hint="mend its permissions")
    if isinstance(error, NotADirectoryError):
        return user_error("is no folder", where=path, hint="check the path")
    reason = getattr(error, "strerror", None) or str(error)
    return user_error(f"cannot be read ({reason})", where=path, hint="check the path")


def title_of(photo: Photo, index: int) -> str | Path:
    """Return a photo's name for errors: its path, or its place in the list."""
    return Path(photo) if isinstance(photo, (str, os.PathLike)) else f"photo {index}"


def _open(photo: Photo, index: int) -> PilImage.Image:
    """Open a photo, read its header alone, and reject a size that is not safe to decode."""
    image = _identified(photo, index)
    if image.width < 1 or image.height < 1:
        raise user_error("has no pixels", where=title_of(photo, index), hint="remove it")
    return image


def _identified(photo: Photo, index: int) -> PilImage.Image:
    from PIL import Image, UnidentifiedImageError

    if isinstance(photo, Image.Image):
        return photo
    if isinstance(photo, np.ndarray):
        return _from_array(photo, f"photo {index}")
    path = Path(photo)
    check_file(path)
    if path.stat().st_size == 0:
        raise user_error("is empty (0 bytes)", where=path, hint="remove or replace it")
    try:
        image = Image.open(path)
    except Image.DecompressionBombError as error:
        raise _bomb(path) from error
    except UnidentifiedImageError:
        raise user_error(
            "is no image that can be read", where=path, hint=f"use {LOOKS_FOR}, or remove it"
        ) from None
    except PermissionError as error:
        raise io_error(error, path) from error
    except MemoryError:
        raise
    except Exception as error:  # see upright_rgb
        raise _damaged(path, error) from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise _bomb(path, image.size)
    return image


def _damaged(title: str | Path, error: Exception) -> CovisError:
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return user_error(
        f"is damaged and cannot be decoded ({reason})", where=title, hint="replace or remove it"
    )


def _bomb(path: Path, size: tuple[int, int] | None = None) -> CovisError:
    claim = f"claims {size[0]} x {size[1]} pixels, " if size else "claims "
    return user_error(
        f"{claim}more than the {MAX_PIXELS // 1_000_000} million that are decoded",
        where=path,
        hint="scale it down or remove it",
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


def header_size(photo: Photo, index: int) -> tuple[int, int]:
    """Return (height, width) of the upright photo, without decoding it."""
    image = _open(photo, index)
    try:
        # Pillow already returns the upright size of TIFF files.
        turned = image.format != "TIFF" and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except Exception:  # a broken EXIF block does not affect the pixels
        turned = False
    finally:
        if image is not photo:
            image.close()
    return (image.width, image.height) if turned else (image.height, image.width)


def upright_rgb(photo: Photo, index: int) -> PilImage.Image:
    """Decode a photo to upright 8-bit RGB: EXIF applied, transparency on white, first frame."""
    from PIL import ImageOps

    title = title_of(photo, index)
    image = _open(photo, index)
    try:
        image.load()
        try:
            upright = ImageOps.exif_transpose(image)
        except MemoryError:
            raise
        except Exception:  # a broken EXIF block does not affect the pixels
            upright = image
        return _to_rgb(upright)
    except (CovisError, MemoryError):
        raise
    except Exception as error:  # malformed bytes can raise any exception in a decoder
        raise _damaged(title, error) from error
    finally:
        if image is not photo:
            image.close()


def _to_rgb(image: PilImage.Image) -> PilImage.Image:
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _deep_grey(image: PilImage.Image) -> PilImage.Image:
    """Scale 16-bit integer or float grey to 8 bits; Pillow's own conversion clips instead."""
    from PIL import Image

    values = np.asarray(image)
    top = 1.0 if image.mode == "F" else 65535.0
    if not (values.min() >= 0 and values.max() <= top):
        raise user_error(
            f"has grey values of {values.min()} to {values.max()}, not 0 to {top:g}",
            hint="save it as 8- or 16-bit",
        )
    return Image.fromarray(np.rint(values.astype(np.float64) * (255.0 / top)).astype(np.uint8))
