"""Select the photos of a run: found, with frames of videos, thinned, named, with their masks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from covis.engines.bundle.names import IMAGES
from covis.engines.bundle.pixel_rule import PixelRule
from covis.engines.errors import CovisError, printable, user_error
from covis.engines.options import MOST_VIEWS_AT_ONCE
from covis.runtime.photos import choose, video
from covis.runtime.photos.batch import or_skip, passed_over
from covis.runtime.photos.decode import path_of
from covis.runtime.photos.find import find
from covis.runtime.photos.images import Images, load_images
from covis.runtime.photos.mask_files import match_masks
from covis.runtime.photos.names import names_of
from covis.runtime.photos.options import PhotoOptions

if TYPE_CHECKING:
    from covis.runtime.photos.decode import Photo

FPS = 2.0
"""Frames taken from each second of a video, if no option says otherwise."""
THUMBNAIL = PixelRule("pi3", 32, 32, patch=1)  # stretched to 32 x 32 pixels

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Selection:
    """Photos of a run, not decoded yet.

    Attributes:
        photos: Files, arrays, PIL images and frames of videos, in order.
        names: Different names of the photos.
        mask_paths: Mask image of each photo; None for a photo without.
        notes: One line for each thing that was passed over or chosen by default.
        skip_bad: Pass over photos that cannot be decoded.
    """

    photos: tuple[Photo, ...]
    names: tuple[str, ...]
    mask_paths: tuple[Path | None, ...]
    notes: tuple[str, ...]
    skip_bad: bool

    @property
    def paths(self) -> tuple[Path | None, ...]:
        """Image file of each photo; None for an array, a PIL image or a frame of a video."""
        return tuple(path_of(photo) for photo in self.photos)

    def first(self, count: int) -> Selection:
        """Return the first `count` photos; all of them for 0."""
        if count == 0:
            return self
        parts = self.photos[:count], self.names[:count], self.mask_paths[:count]
        return Selection(*parts, self.notes, self.skip_bad)

    def take(self, indices: Iterable[int]) -> Selection:
        """Return the photos of some indices, in their order, with the names that they have here.

        The notes are about the whole selection, and stay with it.
        """
        chosen = [int(index) for index in indices]
        return Selection(
            photos=tuple(self.photos[index] for index in chosen),
            names=tuple(self.names[index] for index in chosen),
            mask_paths=tuple(self.mask_paths[index] for index in chosen),
            notes=(),
            skip_bad=self.skip_bad,
        )

    def load(self, rule: PixelRule, progress: Progress | None = None) -> Images:
        """Decode the photos to the model's pixels.

        Raises:
            CovisError: A photo or a mask is at fault.
        """
        images = load_images(
            self.photos,
            rule,
            names=self.names,
            mask_paths=self.mask_paths,
            skip_bad=self.skip_bad,
            progress=_counted(progress, IMAGES, len(self.photos)),
        )
        return replace(images, notes=(*self.notes, *images.notes))


def load_photos(
    source: object,
    rule: PixelRule,
    options: PhotoOptions | None = None,
    progress: Progress | None = None,
) -> Images:
    """Select the photos of a run and decode them to the model's pixels.

    Args:
        source: Folder, file, or an iterable of files, arrays, PIL images and video frames.
        rule: Pixel rule of the model, with the image size of the bundle.
        options: Choice of the photos.
        progress: Called with the name of the step, the photos done and the number of photos.

    Raises:
        CovisError: A photo, a video, a mask or an option is at fault.
    """
    return select_photos(source, options, progress).load(rule, progress)


def select_photos(
    source: object, options: PhotoOptions | None = None, progress: Progress | None = None
) -> Selection:
    """Find photos, list the frames of videos, and choose among them.

    Args:
        source: Folder, file, or an iterable of files, arrays, PIL images and video frames.
        options: Choice of the photos.
        progress: Called with the name of the step, the photos done and the number of photos.

    Raises:
        CovisError: A photo, a video, a mask or an option is at fault.
    """
    options = options or PhotoOptions()
    found = find(source, options.masks)
    photos, videos, notes = _with_frames(found.photos, options)
    photos, bad = _chosen(photos[:: options.every], options, progress)
    if len(photos) > MOST_VIEWS_AT_ONCE:
        raise user_error(
            f"{len(photos):,} views are more than the {MOST_VIEWS_AT_ONCE:,} of a run",
            where="photos",
            hint="give --max-views, or a smaller --fps or a larger --every",
        )
    names = names_of(photos, found.base)
    masks: tuple[Path | None, ...] = (None,) * len(photos)
    mask_notes: tuple[str, ...] = ()
    if options.masks is not None:
        masks, mask_notes = match_masks(options.masks, names)
    taken = [_taken(of, photos, options) for of in videos]
    lines = (*found.notes, *notes, *taken, *bad, *mask_notes)
    return Selection(photos, names, masks, lines, options.skip_bad)


def _with_frames(
    photos: Sequence[Photo], options: PhotoOptions
) -> tuple[tuple[Photo, ...], list[video.Video], list[str]]:
    """Replace the paths of videos by their frames."""
    expanded: list[Photo] = []
    videos: list[video.Video] = []
    notes: list[str] = []
    for photo in photos:
        if not isinstance(photo, (str, os.PathLike)) or not is_video(Path(photo)):
            expanded.append(photo)
            continue
        try:
            of = video.scan(Path(photo))
        except CovisError as error:
            if not options.skip_bad:
                raise or_skip(error, len(photos)) from error
            notes.append(passed_over(Path(photo), error))
            continue
        videos.append(of)
        notes += of.notes
        expanded += [of.frame(index) for index in _frames(of, options)]
    if not expanded:
        raise user_error("no photo is left", where="photos", hint="give photos or a whole video")
    return tuple(expanded), videos, notes


def is_video(path: Path) -> bool:
    """Return whether a file has the suffix of a video."""
    return path.suffix.lower() in video.SUFFIXES


def _frames(of: video.Video, options: PhotoOptions) -> Sequence[int]:
    if options.fps is None and not _default_rate(options):
        return range(len(of))
    return choose.at_rate(of.seconds, options.fps or FPS)


def _default_rate(options: PhotoOptions) -> bool:
    """Return whether no option says how many frames to take from a video.

    To compare the pictures of all frames would take minutes, so `kcenter` has the rate as well.
    """
    thinned = options.max_views is not None and options.choose == "even"
    return options.fps is None and options.every == 1 and not thinned


def _taken(of: video.Video, photos: Sequence[Photo], options: PhotoOptions) -> str:
    count = sum(isinstance(p, video.VideoFrame) and p.path == of.path for p in photos)
    rate = f", at most {FPS:g} a second (--fps changes it)" if _default_rate(options) else ""
    return f"{printable(of.path.name)}: {count} of {len(of)} frames are taken{rate}"


def _chosen(
    photos: tuple[Photo, ...], options: PhotoOptions, progress: Progress | None
) -> tuple[tuple[Photo, ...], tuple[str, ...]]:
    """Choose at most `max_views` photos, and return them with notes of those that are bad."""
    most = options.max_views
    if most is None or most >= len(photos):
        return photos, ()
    if options.choose == "even":
        return tuple(photos[index] for index in choose.evenly(len(photos), most)), ()
    small = load_images(
        photos,
        THUMBNAIL,
        skip_bad=options.skip_bad,
        progress=_counted(progress, "thumbnails", len(photos)),
    )
    chosen = choose.k_center(small.uint8, most)
    return tuple(small.sources[index] for index in chosen), small.notes


def _counted(progress: Progress | None, name: str, total: int) -> Callable[[], None] | None:
    """Return a function to call after each photo, which calls `progress` with their number."""
    if progress is None:
        return None
    progress(name, 0, total)
    done = iter(range(1, total + 1))
    return lambda: progress(name, next(done), total)
