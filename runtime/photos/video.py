"""Frames of video files as photos: listed by their timestamps, decoded when they are needed."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import CovisError, printable, user_error
from covis.runtime.photos.files import damaged
from covis.runtime.photos.video_reader import VideoReader

if TYPE_CHECKING:
    import av
    from PIL import Image as PilImage

SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".3gp", ".mkv", ".webm", ".avi", ".mts", ".m2ts"})
# A file breaks off if it shows less than this share of its stated duration, less these seconds.
_WHOLE, _PAUSE = 0.9, 0.3
_HDR = {16: "PQ", 18: "HLG"}  # transfer functions of ITU-T H.273


@dataclass(frozen=True)
class VideoFrame:
    """One frame of a video file, decoded when it is needed.

    Attributes:
        path: Video file.
        index: Number of the frame in the order in which the video shows them, from 0.
        timestamp: Presentation timestamp, in the time base of the video stream.
        keyframe: Where to seek the keyframe from which decoding must start, in the same units.
        size: (height, width) of the upright frame.
    """

    path: Path
    index: int
    timestamp: int
    keyframe: int
    size: tuple[int, int]

    @property
    def name(self) -> str:
        """File name of the frame as an image, such as `clip_000123.jpg`."""
        return f"{self.path.stem}_{self.index:06d}.jpg"

    def decode(self) -> PilImage.Image:
        """Return the upright RGB frame at full size.

        Each thread keeps its last video open, so that frames asked for in order, with one keyframe,
        are decoded in one pass.

        Raises:
            CovisError: The frame cannot be decoded, or PyAV is not installed.
        """
        with _one_line(self.path.with_name(self.name)):
            return _cursor(self.path).image(self)


@dataclass(frozen=True)
class Video:
    """All frames of a video file, in the order in which it shows them.

    Attributes:
        path: Video file.
        timestamps: (N,) presentation timestamps, in the time base of the stream.
        keyframes: (N,) where to seek the keyframes from which decoding must start.
        seconds: (N,) times of the frames, from 0.
        size: (height, width) of the upright frames.
        notes: One line for each thing that a user should know about the file.
    """

    path: Path
    timestamps: NDArray[np.int64]
    keyframes: NDArray[np.int64]
    seconds: NDArray[np.float64]
    size: tuple[int, int]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.timestamps)

    def frame(self, index: int) -> VideoFrame:
        """Return the frame of this number."""
        timestamp, keyframe = int(self.timestamps[index]), int(self.keyframes[index])
        return VideoFrame(self.path, index, timestamp, keyframe, self.size)


def scan(path: Path) -> Video:
    """List the frames of a video from its packets; only the first frame is decoded.

    Raises:
        CovisError: The file is missing, is no video, or has no frame that can be decoded; or PyAV
            is not installed.
    """
    with _one_line(path):
        return _scan(path)


def _scan(path: Path) -> Video:
    with closing(VideoReader(path)) as reader:
        first = next(reader.frames(), None)
        if first is None:
            raise user_error(
                "has no frame that can be decoded", where=path, hint="replace or remove it"
            )
        width, height = reader.upright(first).size
        notes = _hdr_note(path, reader.transfer)
    with closing(VideoReader(path)) as reader:
        packets, breaks_off = reader.packets()
        tick, stated = reader.tick, reader.seconds
    timestamps: NDArray[np.int64] = np.unique([p.shown for p in packets]).astype(np.int64)
    keys = sorted((p.shown, p.sought) for p in packets if p.key)
    latest = np.searchsorted([shown for shown, _ in keys], timestamps, side="right") - 1
    playable = latest >= 0  # what is shown before the first keyframe cannot be decoded
    timestamps, latest = timestamps[playable], latest[playable]
    seconds = (timestamps - timestamps[0]) * tick
    if breaks_off or seconds[-1] < _WHOLE * stated - _PAUSE:
        notes += (
            f"{printable(path.name)} breaks off after {len(timestamps)} frames, which are used",
        )
    return Video(
        path=path,
        timestamps=timestamps,
        keyframes=np.array([sought for _, sought in keys], np.int64)[latest],
        seconds=seconds,
        size=(height, width),
        notes=notes,
    )


@contextlib.contextmanager
def _one_line(title: Path) -> Iterator[None]:
    """Convert any exception that malformed bytes raise in a decoder into one line."""
    try:
        yield
    except (CovisError, MemoryError):
        raise
    except Exception as error:
        raise damaged(title, error) from error


def _hdr_note(path: Path, transfer: int) -> tuple[str, ...]:
    curve = _HDR.get(transfer)
    if curve is None:
        return ()
    name = printable(path.name)
    return (f"{name} is HDR video ({curve}), used without tone mapping: its colours are pale",)


class _Cursor:
    """Open video and its last frame, from which later frames are reached without a seek."""

    def __init__(self, path: Path) -> None:
        self.reader = VideoReader(path)
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._last: VideoFrame | None = None

    def image(self, frame: VideoFrame) -> PilImage.Image:
        last, self._last = self._last, None
        if last is None or last.keyframe != frame.keyframe or last.index >= frame.index:
            self._frames = self.reader.frames(frame.keyframe)
        found, too_late = self._find(frame)
        if too_late:  # an index of the file that leads past the keyframe
            self.reader.close()
            self.reader = VideoReader(frame.path)
            self._frames = self.reader.frames()
            found, _ = self._find(frame)
        if found is None:
            raise user_error(
                f"frame {frame.index} cannot be decoded", where=frame.path, hint="replace the video"
            )
        self._last = frame
        return self.reader.upright(found)

    def _find(self, frame: VideoFrame) -> tuple[av.VideoFrame | None, bool]:
        """Decode up to a frame and return it, and whether decoding began behind it."""
        too_late = True
        for decoded in self._frames:
            if decoded.pts == frame.timestamp:
                return decoded, False
            if decoded.pts is not None and decoded.pts > frame.timestamp:
                return None, too_late
            too_late = False
        return None, False


_of_thread = threading.local()


def _cursor(path: Path) -> _Cursor:
    """Return this thread's cursor in a video, which replaces the one in another video."""
    cursor: _Cursor | None = getattr(_of_thread, "cursor", None)
    if cursor is None or cursor.reader.path != path:
        if cursor is not None:
            cursor.reader.close()
        _of_thread.cursor = None
        cursor = _of_thread.cursor = _Cursor(path)
    return cursor


def _forget_cursor() -> None:
    """Open videos anew in a forked process: its parent goes on reading from the same open file."""
    _of_thread.cursor = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_cursor)
