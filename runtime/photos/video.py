"""Video files: the frames of a file as photos, by their timestamps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image as PilImage


@dataclass(frozen=True)
class VideoFrame:
    """One frame of a video file, decoded when it is needed.

    Attributes:
        path: Video file.
        index: Number of the frame in the order in which the video shows them, from 0.
        timestamp: Presentation timestamp, in the time base of the video stream.
        keyframe: Timestamp of the frame from which decoding must start.
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

        Raises:
            CovisError: The frame cannot be decoded, or PyAV is not installed.
        """
        raise NotImplementedError
