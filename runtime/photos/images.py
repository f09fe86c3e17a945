"""Decode photos to the model's pixels, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from covis.engines.bundle.pixel_rule import PixelRule
from covis.engines.errors import user_error
from covis.runtime.photos.batch import decode_all, failure_notes
from covis.runtime.photos.decode import header_size, path_of, quiet_pillow, upright_rgb
from covis.runtime.photos.files import stamp
from covis.runtime.photos.masks import usable
from covis.runtime.photos.names import enumerated, names_of
from covis.runtime.photos.preprocess import PixelTransform, model_mask, preprocess

if TYPE_CHECKING:
    from covis.runtime.photos.decode import Photo


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
        stamps: Size and time of the last change of each photo's file, when it was decoded; None for
            a photo that is not from a file.
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
    stamps: tuple[tuple[int, int] | None, ...] = ()
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

    results = decode_all(photos, decode, skip_bad, threads, progress)
    passed_over = failure_notes(photos, results, skip_bad)
    kept = [i for i, result in enumerate(results) if isinstance(result, _Decoded)]
    decoded = [result for result in results if isinstance(result, _Decoded)]
    named = names_of(photos) if names is None else names
    kept_names = tuple(named[i] for i in kept)
    return Images(
        uint8=pixels if len(kept) == len(photos) else pixels[kept],
        names=kept_names,
        transforms=tuple(result.transform for result in decoded),
        original_sizes=np.array([result.transform.original_size for result in decoded], np.int64),
        paths=tuple(path_of(photos[i]) for i in kept),
        sources=tuple(photos[i] for i in kept),
        stamps=tuple(stamp(photos[i]) for i in kept),
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
