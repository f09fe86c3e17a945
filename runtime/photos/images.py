"""Decode photos to the model's pixels, several at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from covis.engines.bundle.pixel_rule import PixelRule
from covis.engines.errors import CovisError, ExitCode, environment_error, printable, user_error
from covis.runtime.photos.decode import header_size, quiet_pillow, title_of, upright_rgb
from covis.runtime.photos.masks import usable
from covis.runtime.photos.names import enumerated, names_of
from covis.runtime.photos.preprocess import PixelTransform, model_mask, preprocess
from covis.runtime.photos.video import VideoFrame

if TYPE_CHECKING:
    from covis.runtime.photos.decode import Photo

FRAMES_AT_ONCE = 16  # frames of a video that one thread decodes in a row, after one seek


@dataclass(frozen=True)
class Images:
    """Photos of one scene in the model's pixels.

    Attributes:
        uint8: (M, 3, H, W) RGB, in a quarter of the memory of `pixels`.
        names: M different names: file names, or paths below the common folder where file names
            repeat.
        transforms: Map of each photo's pixels to the model's H x W pixels.
        original_sizes: (M, 2) height and width of the upright photos.
        paths: Image file of each photo; None for an array, a PIL image or a frame of a video.
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
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of the upright photos."""
        return [(int(height), int(width)) for height, width in self.original_sizes]

    @property
    def pixels(self) -> NDArray[np.float32]:
        """All photos, float32 (M, 3, H, W) in [0, 1], computed at each access."""
        return self.batch(0, len(self))

    def batch(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the photos `start` to `stop` (exclusive), float32 (N, 3, H, W) in [0, 1]."""
        return np.divide(self.uint8[start:stop], np.float32(255), dtype=np.float32)


def load_images(
    photos: Sequence[Photo],
    rule: PixelRule,
    *,
    names: Sequence[str] | None = None,
    mask_paths: Sequence[Path | None] | None = None,
    skip_bad: bool = False,
    threads: int | None = None,
    progress: Callable[[], None] | None = None,
) -> Images:
    """Decode photos and resize them to the model's pixels, several at a time.

    Args:
        photos: Files, uint8 arrays (height, width, 3), PIL images or video frames, also mixed.
        rule: Pixel rule of the model, with the image size of the bundle.
        names: Different names of the photos; by default from their files.
        mask_paths: Mask image of each photo, or None; see `covis.runtime.photos.masks`.
        skip_bad: Pass over photos that cannot be decoded, with a note for each.
        threads: Number of photos to decode at once, which bounds the memory; by default the number
            of cores, at most 8.
        progress: Called after each photo, from the calling thread.

    Raises:
        CovisError: A photo cannot be decoded; the message names the first one in order. Frames at
            the broken end of a video are passed over if others of it can be decoded.
    """
    if not len(photos):
        raise user_error("no photo given", hint="give at least one photo")
    masks = mask_paths or (None,) * len(photos)
    pixels = np.empty((len(photos), 3, rule.height, rule.width), np.uint8)

    def decode(index: int) -> _Decoded:
        upright = upright_rgb(photos[index], index, drop_alpha=rule.drops_alpha)
        canvas, transform = preprocess(upright.image, rule)
        pixels[index] = canvas.transpose(2, 0, 1)
        mask = usable(upright, masks[index])
        return _Decoded(transform, None if mask is None else model_mask(mask, rule), upright.notes)

    results = _decode_all(photos, decode, skip_bad, threads, progress)
    passed_over = _failure_notes(photos, results, skip_bad)
    kept = [i for i, result in enumerate(results) if isinstance(result, _Decoded)]
    decoded = [result for result in results if isinstance(result, _Decoded)]
    named = names_of(photos) if names is None else names
    kept_names = tuple(named[i] for i in kept)
    return Images(
        uint8=pixels if len(kept) == len(photos) else pixels[kept],
        names=kept_names,
        transforms=tuple(result.transform for result in decoded),
        original_sizes=np.array([result.transform.original_size for result in decoded], np.int64),
        paths=tuple(_path(photos[i]) for i in kept),
        sources=tuple(photos[i] for i in kept),
        mask_paths=tuple(masks[i] for i in kept),
        masks=_stacked([result.mask for result in decoded], rule),
        notes=(*passed_over, *_notes_by_text(kept_names, decoded)),
    )


def photo_sizes(photos: Sequence[Photo]) -> list[tuple[int, int]]:
    """Return (height, width) of the upright photos, from the headers of the files alone."""
    with quiet_pillow():
        return [header_size(photo, index) for index, photo in enumerate(photos)]


@dataclass(frozen=True)
class _Decoded:
    """Facts about one decoded photo; its pixels are in the common array."""

    transform: PixelTransform
    mask: NDArray[np.bool_] | None
    notes: tuple[str, ...]


_Result = _Decoded | CovisError


def _decode_all(
    photos: Sequence[Photo],
    decode: Callable[[int], _Decoded],
    skip_bad: bool,
    threads: int | None,
    progress: Callable[[], None] | None,
) -> list[_Result]:
    """Decode in several threads; stop at the first failure in order that may not be passed over."""

    def attempt(index: int) -> _Result:
        title = title_of(photos[index], index)
        try:
            return decode(index)
        except CovisError as error:
            return error if error.where else error.replaced(where=title)
        except MemoryError:
            raise environment_error(
                "not enough memory to decode it",
                where=title,
                hint="use fewer threads or a smaller photo",
            ) from None

    def work(unit: Sequence[int]) -> list[_Result]:
        return [attempt(index) for index in unit]

    results: list[_Result] = []
    workers = max(1, threads or min(os.cpu_count() or 1, 8))
    with quiet_pillow(), ThreadPoolExecutor(workers, "covis-images") as pool:
        futures = [pool.submit(work, unit) for unit in _units(photos)]
        try:
            for future in futures:
                for result in future.result():
                    photo = photos[len(results)]
                    if isinstance(result, CovisError) and not (skip_bad or _at_end(photo, result)):
                        raise _with_cure(result, len(photos))
                    results.append(result)
                    if progress is not None:
                        progress()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results


def _units(photos: Sequence[Photo]) -> Iterator[Sequence[int]]:
    """Divide photos among threads: one by one, and frames of a video in rows."""

    def key(index: int) -> tuple[object, int]:
        photo = photos[index]
        return (photo.path, 0) if isinstance(photo, VideoFrame) else (None, index)

    for _, group in groupby(range(len(photos)), key):
        row = list(group)
        for start in range(0, len(row), FRAMES_AT_ONCE):
            yield row[start : start + FRAMES_AT_ONCE]


def _at_end(photo: Photo, error: CovisError) -> bool:
    """Return whether a photo may be a frame at the broken end of a video."""
    return isinstance(photo, VideoFrame) and error.code == ExitCode.USER


def _with_cure(error: CovisError, photos: int) -> CovisError:
    if photos == 1:
        return error
    return error.replaced(hint=f"{error.hint}, or pass over it with --skip-bad".lstrip(", "))


def _failure_notes(
    photos: Sequence[Photo], results: Sequence[_Result], skip_bad: bool
) -> list[str]:
    """Return a line for each photo and each video that was passed over, in whole or in part.

    Raises:
        CovisError: Nothing is left, or no frame of a video without `skip_bad`.
    """
    failures = {i: error for i, error in enumerate(results) if isinstance(error, CovisError)}
    if len(failures) == len(photos) == 1:
        raise failures[0]
    if len(failures) == len(photos):
        raise user_error(
            f"none of {len(photos)} photos can be decoded; the first is {failures[0].where}, which "
            f"{failures[0].what}",
            hint="give photos that are whole",
        )
    notes = []
    for _, part in groupby(range(len(photos)), lambda index: _file(photos[index], index)):
        indices = list(part)
        failed = [index for index in indices if index in failures]
        if not failed:
            continue
        first = failures[failed[0]]
        if len(failed) == len(indices) and not skip_bad:
            raise _with_cure(first, len(photos))
        if len(indices) > 1:
            notes.append(f"passed over {len(failed)} frames of {first.where}: {first.what}")
        else:
            notes.append(_passed_over(title_of(photos[failed[0]], failed[0]), first))
    return notes


def _passed_over(title: str | Path, error: CovisError) -> str:
    name = printable(title)
    return f"passed over {name}: " + (
        error.what if error.where == name else f"{error.where} {error.what}"
    )


def _file(photo: Photo, index: int) -> object:
    return photo.path if isinstance(photo, VideoFrame) else index


def _notes_by_text(names: Sequence[str], decoded: Sequence[_Decoded]) -> list[str]:
    """Return one line for each different note, with the names of its photos."""
    photos: dict[str, list[str]] = {}
    for name, result in zip(names, decoded, strict=True):
        for note in result.notes:
            photos.setdefault(note, []).append(name)
    return [f"{enumerated(of)}: {note}" for note, of in photos.items()]


def _stacked(
    masks: Sequence[NDArray[np.bool_] | None], rule: PixelRule
) -> NDArray[np.bool_] | None:
    if all(mask is None for mask in masks):
        return None
    everywhere = np.ones((rule.height, rule.width), bool)
    stacked = np.stack([everywhere if mask is None else mask for mask in masks])
    if not stacked.any():
        raise user_error(
            "the masks and the transparency of the photos leave no pixel",
            hint="black in a mask means: do not use",
        )
    return stacked


def _path(photo: Photo) -> Path | None:
    return Path(photo) if isinstance(photo, (str, os.PathLike)) else None
