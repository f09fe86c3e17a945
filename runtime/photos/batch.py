"""Work on many photos in several threads, and what is done about those that fail."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from covis.engines.errors import CovisError, ExitCode, environment_error, printable, user_error
from covis.runtime.photos.decode import quiet_pillow, title_of
from covis.runtime.photos.video import VideoFrame

if TYPE_CHECKING:
    from covis.runtime.photos.decode import Photo

FRAMES_AT_ONCE = 16  # frames of a video that one thread decodes in a row, after one seek

T = TypeVar("T")


def decode_all(
    photos: Sequence[Photo],
    decode: Callable[[int], T],
    skip_bad: bool,
    threads: int | None,
    progress: Callable[[], None] | None,
) -> list[T | CovisError]:
    """Decode photos in several threads, and return the result or the failure of each.

    Args:
        photos: Photos of any kind.
        decode: Function that decodes the photo of an index.
        skip_bad: Pass over photos that cannot be decoded.
        threads: Number of photos to decode at once; None for the number of cores, at most 8.
        progress: Called after each photo, from the calling thread.

    Raises:
        CovisError: The first failure in order that may not be passed over.
    """

    def attempt(index: int) -> T | CovisError:
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

    def work(unit: Sequence[int]) -> list[T | CovisError]:
        return [attempt(index) for index in unit]

    results: list[T | CovisError] = []
    workers = max(1, threads or min(os.cpu_count() or 1, 8))
    with quiet_pillow(), ThreadPoolExecutor(workers, "covis-images") as pool:
        futures = [pool.submit(work, unit) for unit in _units(photos)]
        try:
            for future in futures:
                for result in future.result():
                    photo = photos[len(results)]
                    if isinstance(result, CovisError) and not (skip_bad or _at_end(photo, result)):
                        raise or_skip(result, len(photos))
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


def or_skip(error: CovisError, photos: int) -> CovisError:
    """Add `--skip-bad` to the cure of an error about one of several photos."""
    if photos == 1:
        return error
    return error.replaced(hint=f"{error.hint}, or pass over it with --skip-bad")


def failure_notes(
    photos: Sequence[Photo], results: Sequence[T | CovisError], skip_bad: bool
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
            raise or_skip(first, len(photos))
        if len(indices) > 1:
            notes.append(f"passed over {len(failed)} frames of {first.where}: {first.what}")
        else:
            notes.append(passed_over(title_of(photos[failed[0]], failed[0]), first))
    return notes


def passed_over(title: str | Path, error: CovisError) -> str:
    """Return the line about a photo that was passed over; with the cure if something is missing."""
    name = printable(title)
    fault = error.what if error.where == name else f"{error.where} {error.what}"
    cure = f" ({error.hint})" if error.code == ExitCode.ENVIRONMENT else ""
    return f"passed over {name}: {fault}{cure}"


def _file(photo: Photo, index: int) -> object:
    return photo.path if isinstance(photo, VideoFrame) else index
