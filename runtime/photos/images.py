"""Find photos in a folder, and decode them to the model's pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from covis.engines.bundle.pixel_rule import PixelRule
from covis.engines.errors import CovisError, environment_error, user_error
from covis.runtime.photos.decode import header_size, quiet_pillow, title_of, upright_rgb
from covis.runtime.photos.files import check_file, io_error
from covis.runtime.photos.formats import LOOKS_FOR
from covis.runtime.photos.preprocess import PixelTransform, preprocess

if TYPE_CHECKING:
    from covis.runtime.photos.decode import Photo

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})


@dataclass(frozen=True)
class Images:
    """Photos of one scene in the model's pixels.

    Attributes:
        uint8: (M, 3, H, W) RGB, in a quarter of the memory of `pixels`.
        names: M different names: file names, or paths below the common folder where file names
            repeat.
        transforms: Map of each photo's pixels to the model's H x W pixels.
        original_sizes: (M, 2) height and width of the upright photos.
        paths: File of each photo; None for a photo that is not from a file.
        sources: Photos as they were given, to decode again at full size.
        mask_paths: Mask image of each photo; None for a photo without.
        masks: (M, H, W) in the model's pixels, False where a pixel is transparent or masked; None
            where every pixel may be used.
        notes: One line for each thing that was passed over or changed.
    """

    uint8: NDArray[np.uint8]
    names: tuple[str, ...]
    transforms: tuple[PixelTransform, ...]
    original_sizes: NDArray[np.int64]
    paths: tuple[Path | None, ...]
    sources: tuple[Photo, ...] = ()
    mask_paths: tuple[Path | None, ...] = ()
    masks: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def pixels(self) -> NDArray[np.float32]:
        """All photos, float32 (M, 3, H, W) in [0, 1], computed at each access."""
        return self.batch(0, len(self))

    def batch(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the photos `start` to `stop` (exclusive), float32 (N, 3, H, W) in [0, 1]."""
        return np.divide(self.uint8[start:stop], np.float32(255), dtype=np.float32)


def find_images(source: Path | str | Sequence[Path | str]) -> list[Path]:
    """List the photos of a folder in natural order (img2 before img10), or of a list as it is.

    A folder is searched at its first level only; hidden files and other suffixes are ignored.

    Raises:
        CovisError: The folder or a file is missing, or there is no photo.
    """
    from natsort import natsort_keygen, ns

    if not isinstance(source, (str, os.PathLike)):
        paths = [Path(path) for path in source]
        if not paths:
            raise user_error("the list of photos is empty", hint="give at least one photo")
        for path in paths:
            check_file(path)
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
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise io_error(error, folder) from error
    if not found:
        raise user_error("holds no photo", where=folder, hint=f"put {LOOKS_FOR} files into it")
    key = natsort_keygen(alg=ns.IGNORECASE)
    return sorted(found, key=lambda path: (key(path.name), path.name))


def load_images(
    photos: Sequence[Photo],
    rule: PixelRule,
    *,
    threads: int | None = None,
    progress: Callable[[], None] | None = None,
) -> Images:
    """Decode photos and resize them to the model's pixels, several at a time.

    Args:
        photos: Files, uint8 arrays (height, width, 3) or PIL images, also mixed.
        rule: Pixel rule of the model, with the image size of the bundle.
        threads: Number of photos to decode at once, which bounds the memory; by default the number
            of cores, at most 8.
        progress: Called after each photo, from the calling thread.

    Raises:
        CovisError: A photo cannot be read; the message names the first one in order.
    """
    if not len(photos):
        raise user_error("no photo given", hint="give at least one photo")
    out = np.empty((len(photos), 3, rule.height, rule.width), np.uint8)

    def work(index: int) -> PixelTransform:
        photo = photos[index]
        try:
            upright = upright_rgb(photo, index, drop_alpha=rule.drops_alpha)
            canvas, transform = preprocess(upright.image, rule)
        except CovisError as error:
            if error.where:
                raise
            raise error.replaced(where=title_of(photo, index)) from error
        except MemoryError:
            raise environment_error(
                "not enough memory to decode it",
                where=title_of(photo, index),
                hint="use fewer threads or a smaller photo",
            ) from None
        out[index] = canvas.transpose(2, 0, 1)
        return transform

    transforms: list[PixelTransform] = []
    workers = max(1, threads or min(os.cpu_count() or 1, 8))
    with quiet_pillow(), ThreadPoolExecutor(workers, "covis-images") as pool:
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
        sources=tuple(photos),
    )


def photo_sizes(photos: Sequence[Photo]) -> list[tuple[int, int]]:
    """Return (height, width) of the upright photos, from the headers of the files alone."""
    with quiet_pillow():
        return [header_size(photo, index) for index, photo in enumerate(photos)]


def _unique_names(paths: Sequence[Path | None]) -> tuple[str, ...]:
    names = [f"view_{i:04d}" if p is None else p.name for i, p in enumerate(paths)]
    if len(set(names)) < len(names) and all(p is not None for p in paths):
        absolute = [p.absolute() for p in paths if p is not None]
        common = Path(os.path.commonpath([p.parent for p in absolute]))
        names = [p.relative_to(common).as_posix() for p in absolute]
    taken: set[str] = set()
    for index, name in enumerate(names):
        # A scene may contain the same photo twice; its views still need different names.
        stem, dot, suffix = name.rpartition(".") if "." in name else (name, "", "")
        unique, count = name, 1
        while unique in taken:
            count += 1
            unique = f"{stem} ({count}){dot}{suffix}"
        taken.add(unique)
        names[index] = unique
    return tuple(names)
