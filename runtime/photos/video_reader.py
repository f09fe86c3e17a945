"""Open video files safely through PyAV (FFmpeg), list their packets, and decode frames forwards.

Only common containers and codecs are ever tried, and only from the file itself: FFmpeg has formats
that open other files and network addresses, and it looks for them in a file of any name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from covis.engines.errors import environment_error, first_line, user_error
from covis.engines.limits import VIDEO_FRAMES
from covis.runtime.photos.files import MAX_PIXELS, check_file

if TYPE_CHECKING:
    import av
    from PIL import Image as PilImage

INSTALL = "pip install 'covis[video]'"
MOST_FRAMES = VIDEO_FRAMES.most

_FORMATS = "mov,matroska,avi,mpegts"
_CODECS = (
    "h264,hevc,av1,libdav1d,libaom-av1,vp8,vp9,libvpx,libvpx-vp9,mpeg1video,mpeg2video,mpeg4,"
    "msmpeg4,msmpeg4v2,h263,mjpeg,prores,dnxhd,cfhd,ffv1,vc1"
)

# Pillow's name of the turn or mirror for each display matrix (a, b, c, d), where x' = ax + cy and
# y' = bx + dy in image axes (ISO/IEC 14496-12, 6.2.2).
_TURNS = {
    (-1, 0, 0, 1): "FLIP_LEFT_RIGHT",
    (1, 0, 0, -1): "FLIP_TOP_BOTTOM",
    (-1, 0, 0, -1): "ROTATE_180",
    (0, 1, -1, 0): "ROTATE_270",
    (0, -1, 1, 0): "ROTATE_90",
    (0, 1, 1, 0): "TRANSPOSE",
    (0, -1, -1, 0): "TRANSVERSE",
}


@dataclass(frozen=True)
class Packet:
    """One encoded frame: when it is shown, and where to seek it, in the stream's time base."""

    shown: int
    sought: int
    key: bool


class VideoReader:
    """Open video file that decodes its frames forwards, and seeks to keyframes.

    Attributes:
        path: Video file.
        tick: Time base of the stream: seconds in one unit of its timestamps.

    Raises:
        CovisError: The file is missing, is no video or claims too many pixels; or PyAV is not
            installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._container = _open(path)
        try:
            self._stream = self._video_stream()
        except BaseException:
            self._container.close()
            raise
        self.tick = float(self._stream.time_base or 0)
        # FFmpeg looks for presentation timestamps in these, and for decoding timestamps in others.
        self._seeks_shown = self._container.format.name.startswith(("mov", "matroska"))

    @property
    def seconds(self) -> float:
        """Duration that the header of the file states; 0 where it states none."""
        return (self._container.duration or 0) / 1e6

    @property
    def transfer(self) -> int:
        """Transfer function of the colours, as ITU-T H.273 numbers them."""
        return int(self._stream.codec_context.color_trc)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _video_stream(self) -> av.VideoStream:
        from av.stream import Disposition

        # The cover picture of a song is a video stream, too.
        streams = (
            stream
            for stream in self._container.streams.video
            if not stream.disposition & Disposition.attached_pic
        )
        stream = next(streams, None)
        if stream is None:
            raise user_error("has no video stream", where=self.path, hint="give a video or photos")
        context = stream.codec_context
        if context is None or context.name not in _CODECS.split(","):
            raise user_error(
                "has a video codec that is not read",
                where=self.path,
                hint="convert it: ffmpeg -i FILE -c:v libx264 out.mp4",
            )
        if context.width * context.height > MAX_PIXELS:
            raise user_error(
                f"claims {context.width} x {context.height} pixels, more than the "
                f"{MAX_PIXELS // 1_000_000} million that are decoded",
                where=self.path,
                hint="scale it down or remove it",
            )
        context.options = {"max_pixels": str(MAX_PIXELS)}  # the size may change on the way
        context.thread_count = 1  # parts of a video are decoded at once, each in its thread
        return stream

    def packets(self) -> tuple[list[Packet], bool]:
        """List the packets of the frames to the end, and return whether the file breaks off.

        Raises:
            CovisError: Frames have no timestamps, or there are more than `MOST_FRAMES`.
        """
        import av

        found: list[Packet] = []
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt:
                    return found, True
                if packet.size and not packet.is_discard:
                    found.append(self._packet(packet))
                if len(found) > MOST_FRAMES:
                    raise user_error(
                        f"has more than {MOST_FRAMES:,} frames", where=self.path, hint="cut it"
                    )
        except (av.error.FFmpegError, OSError):
            return found, True
        return found, False

    def _packet(self, packet: av.Packet[av.VideoStream]) -> Packet:
        shown = packet.dts if packet.pts is None else packet.pts
        if shown is None:
            raise user_error(
                "has frames without timestamps",
                where=self.path,
                hint="convert it: ffmpeg -i FILE -c:v libx264 out.mp4",
            )
        sought = shown if self._seeks_shown or packet.dts is None else packet.dts
        return Packet(shown, sought, packet.is_keyframe)

    def frames(self, keyframe: int | None = None) -> Iterator[av.VideoFrame]:
        """Decode frames, without those that are damaged.

        Args:
            keyframe: Where to seek the keyframe to start from; by default decoding goes on.
        """
        from av.error import FFmpegError, InvalidDataError

        with contextlib.suppress(FFmpegError):
            if keyframe is not None:
                with contextlib.suppress(FFmpegError):  # no index: go on from here
                    self._container.seek(keyframe, stream=self._stream)
            for packet in self._container.demux(self._stream):
                with contextlib.suppress(InvalidDataError):  # later frames may be whole
                    yield from (frame for frame in packet.decode() if not frame.is_corrupt)

    def upright(self, frame: av.VideoFrame) -> PilImage.Image:
        """Convert a frame to RGB with square pixels, turned as its display matrix says.

        In one thread: videos are decoded in several threads already, and FFmpeg would wait for
        ever for threads of its own in a forked process.
        """
        from PIL import Image

        aspect = float(self._stream.sample_aspect_ratio or 1)
        width = max(1, round(frame.width * aspect))
        rgb = frame.to_image(  # type: ignore[no-untyped-call]
            width=width, height=frame.height, threads=1
        )
        image: PilImage.Image = rgb
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")  # a buffer
        if matrix is None:
            return image
        fixed_point = np.frombuffer(bytes(matrix), np.int32)[[0, 1, 3, 4]]
        turn = _TURNS.get(tuple(np.sign(np.rint(fixed_point / 2**16)).astype(int).tolist()))
        return image if turn is None else image.transpose(Image.Transpose[turn])


def _open(path: Path) -> av.container.InputContainer:
    check_file(path)
    try:
        import av
    except ImportError:
        raise environment_error("PyAV is not installed", where=path, hint=INSTALL) from None
    allowed = {
        "format_whitelist": _FORMATS,
        "codec_whitelist": _CODECS,
        "protocol_whitelist": "file",
    }
    try:
        return av.open(f"file:{path}", "r", container_options=allowed)
    except PermissionError:
        raise environment_error(
            "may not be read", where=path, hint="mend its permissions"
        ) from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise user_error(
            f"is no video that can be read ({reason})", where=path, hint="replace or remove it"
        ) from error
