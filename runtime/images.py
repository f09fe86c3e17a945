"""Finding and decoding photos: whatever people have in a folder, as the model expects it."""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import CovisError, environment_error, user_error
from covis.engines.pixel_rule import PixelRule
from covis.runtime.preprocess import PixelTransform, preprocess

if TYPE_CHECKING:
    from PIL import Image as PilImage

    Photo = Path | str | NDArray[np.uint8] | PilImage.Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})
MAX_PIXELS = 178_956_970  # where Pillow too takes a header for a decompression bomb: 0.5 GB as RGB
_LOOKS_FOR = "jpg, png, webp, bmp, tif or ppm"


@dataclass(frozen=True)
class Images:
    """The photos of one scene as a model sees them.

    Attributes:
        uint8: (M, 3, H, W), RGB; kept in a quarter of the memory of `pixels`.
        names: M different names: file names, or paths below the common folder where file names
            repeat.
        transforms: how each photo came onto its H x W pixels.
        original_sizes: (M, 2) height and width of the upright photos.
        paths: the files, where the photos came from files.
    """

    uint8: NDArray[np.uint8]
    names: tuple[str, ...]
    transforms: tuple[PixelTransform, ...]
    original_sizes: NDArray[np.int64]
    paths: tuple[Path | None, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def pixels(self) -> NDArray[np.float32]:
        """All photos, float32 (M, 3, H, W) in [0, 1], made at each call."""
        return self.batch(0, len(self))

    def batch(self, start: int, stop: int) -> NDArray[np.float32]:
        """Photos `start` to `stop` (exclusive), float32 (N, 3, H, W) in [0, 1]."""
        return np.divide(self.uint8[start:stop], np.float32(255), dtype=np.float32)

    def valid(self) -> NDArray[np.bool_]:
        """(M, H, W): the pixels that come from a photo, not from padding."""
        return np.stack([t.valid() for t in self.transforms])

    def intrinsics_to_original(self, intrinsics: NDArray[np.floating]) -> NDArray[np.float64]:
        """Intrinsics (M, 3, 3) in original pixels from those in model pixels."""
        return np.stack([t.inverse_matrix for t in self.transforms]) @ intrinsics


def find_images(source: Path | str | Sequence[Path | str]) -> list[Path]:
    """The photos of a folder in natural order (img2 before img10), or of a list in its own.

    A folder is not searched below its first level; hidden files and other suffixes are passed over.

    Raises:
        CovisError: the folder or a file is missing, or there is no photo.
    """
    from natsort import natsort_keygen, ns

    if not isinstance(source, (str, os.PathLike)):
        paths = [Path(path) for path in source]
        if not paths:
            raise user_error("the list of photos is empty", hint="give at least one photo")
        for path in paths:
            _check_file(path)
        return paths
    folder = Path(source)
    try:
        if folder.is_file():
            return [folder]
        found = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
        ]
    except FileNotFoundError:
        raise user_error("no such folder", where=folder, hint="check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _io_error(error, folder) from error
    if not found:
        raise user_error("holds no photo", where=folder, hint=f"put {_LOOKS_FOR} files into it")
    key = natsort_keygen(alg=ns.IGNORECASE)
    return sorted(found, key=lambda path: (key(path.name), path.name))


def load_images(
    photos: Sequence[Photo],
    rule: PixelRule,
    *,
    threads: int | None = None,
    progress: Callable[[], None] | None = None,
) -> Images:
    """Decode photos and bring them to the model's pixels, several at a time.

    Args:
        photos: files, uint8 arrays (height, width, 3), or PIL images, in any mixture.
        rule: the model's pixel rule and the bundle's size.
        threads: photos decoded at once, which bounds the memory too; default: cores, at most 8.
        progress: called once for each photo done, from the calling thread.

    Raises:
        CovisError: naming the first photo, in order, that cannot be read.
    """
    if not len(photos):
        raise user_error("no photo given", hint="give at least one photo")
    out = np.empty((len(photos), 3, rule.height, rule.width), np.uint8)

    def work(index: int) -> PixelTransform:
        photo = photos[index]
        try:
            canvas, transform = preprocess(_upright_rgb(photo, index), rule)
        except CovisError as error:
            if error.where:
                raise
            raise user_error(error.what, where=_title(photo, index), hint=error.hint) from error
        except MemoryError:
            raise environment_error(
                "not enough memory to decode it",
                where=_title(photo, index),
                hint="use fewer threads or a smaller photo",
            ) from None
        out[index] = canvas.transpose(2, 0, 1)
        return transform

    transforms: list[PixelTransform] = []
    workers = max(1, threads or min(os.cpu_count() or 1, 8))
    with _quiet_pillow(), ThreadPoolExecutor(workers, "covis-images") as pool:
        futures = [pool.submit(work, index) for index in range(len(photos))]
        try:
            for future in futures:
                transforms.append(future.result())
                if progress is not None:
                    progress()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    paths = tuple(Path(p) if isinstance(p, (str, os.PathLike)) else None for p in photos)
    return Images(
        uint8=out,
        names=_unique_names(paths),
        transforms=tuple(transforms),
        original_sizes=np.array([t.original_size for t in transforms], np.int64),
        paths=paths,
    )


def photo_sizes(photos: Sequence[Photo]) -> list[tuple[int, int]]:
    """(height, width) of the upright photos, from the headers of the files alone."""
    with _quiet_pillow():
        return [_header_size(photo, index) for index, photo in enumerate(photos)]


@contextlib.contextmanager
def _quiet_pillow() -> Iterator[None]:
    """No warnings of broken metadata or of half-size bombs: our own checks decide.

    Set around a whole batch, because warning filters belong to the process and not to a thread.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def _check_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise user_error("no such file", where=path, hint="check the path") from None
    except (OSError, ValueError) as error:
        raise _io_error(error, path) from error
    if stat.S_ISDIR(mode):
        raise user_error("is a folder", where=path, hint="give its files, or it alone")
    # Opening a pipe or a device could wait for ever.
    if not stat.S_ISREG(mode):
        raise user_error("is no ordinary file", where=path, hint="give a photo file")


def _io_error(error: Exception, path: Path) -> CovisError:
    if isinstance(error, PermissionError):
        return environment_error("may not be read", where=path, hint="mend its permissions")
    if isinstance(error, NotADirectoryError):
        return user_error("is no folder", where=path, hint="check the path")
    reason = getattr(error, "strerror", None) or str(error)
    return user_error(f"cannot be read ({reason})", where=path, hint="check the path")


def _title(photo: Photo, index: int) -> str | Path:
    return Path(photo) if isinstance(photo, (str, os.PathLike)) else f"photo {index}"


def _open(photo: Photo, index: int) -> PilImage.Image:
    """A PIL image of which only the header has been read, with a size that is safe to decode."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(photo, Image.Image):
        return photo
    if isinstance(photo, np.ndarray):
        return _from_array(photo, f"photo {index}")
    path = Path(photo)
    _check_file(path)
    if path.stat().st_size == 0:
        raise user_error("is empty (0 bytes)", where=path, hint="remove or replace it")
    try:
        image = Image.open(path)
    except Image.DecompressionBombError as error:
        raise _bomb(path) from error
    except UnidentifiedImageError:
        raise user_error(
            "is no image that can be read", where=path, hint=f"use {_LOOKS_FOR}, or remove it"
        ) from None
    except PermissionError as error:
        raise _io_error(error, path) from error
    except MemoryError:
        raise
    except Exception as error:  # see _upright_rgb
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


def _header_size(photo: Photo, index: int) -> tuple[int, int]:
    image = _open(photo, index)
    try:
        # Of TIFF files Pillow gives the upright size at once.
        turned = image.format != "TIFF" and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except Exception:  # a broken EXIF block says nothing about the pixels
        turned = False
    finally:
        if image is not photo:
            image.close()
    return (image.width, image.height) if turned else (image.height, image.width)


def _upright_rgb(photo: Photo, index: int) -> PilImage.Image:
    """Decoded, turned as its EXIF says, in 8-bit RGB; transparency on white; first frame."""
    from PIL import ImageOps

    title = _title(photo, index)
    image = _open(photo, index)
    try:
        image.load()
        try:
            upright = ImageOps.exif_transpose(image)
        except MemoryError:
            raise
        except Exception:  # a broken EXIF block says nothing about the pixels
            upright = image
        return _to_rgb(upright)
    except (CovisError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever malformed bytes lead them to
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
    """16-bit integer or float grey to 8 bits; Pillow's own conversion clips instead of scaling."""
    from PIL import Image

    values = np.asarray(image)
    top = 1.0 if image.mode == "F" else 65535.0
    if not (values.min() >= 0 and values.max() <= top):
        raise user_error(
            f"has grey values of {values.min()} to {values.max()}, not 0 to {top:g}",
            hint="save it as 8- or 16-bit",
        )
    return Image.fromarray(np.rint(values.astype(np.float64) * (255.0 / top)).astype(np.uint8))


def _unique_names(paths: Sequence[Path | None]) -> tuple[str, ...]:
    names = [f"view_{i:04d}" if p is None else p.name for i, p in enumerate(paths)]
    if len(set(names)) < len(names) and all(p is not None for p in paths):
        absolute = [p.absolute() for p in paths if p is not None]
        common = Path(os.path.commonpath([p.parent for p in absolute]))
        names = [p.relative_to(common).as_posix() for p in absolute]
    taken: set[str] = set()
    for index, name in enumerate(names):
        # The same photo twice is a scene too; its views still need names of their own.
        stem, dot, suffix = name.rpartition(".") if "." in name else (name, "", "")
        unique, count = name, 1
        while unique in taken:
            count += 1
            unique = f"{stem} ({count}){dot}{suffix}"
        taken.add(unique)
        names[index] = unique
    return tuple(names)
