"""Small videos, written when a test asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 48, 64


def frame(index: int) -> NDArray[np.uint8]:
    """A grey picture that is brighter than the one before it, with a red corner at the top left."""
    pixels = np.full((HEIGHT, WIDTH, 3), 20 + index * 200 // 60, np.uint8)
    pixels[: HEIGHT // 2, : WIDTH // 2] = (230, 20, 20)
    return pixels


def write_video(
    path: Path,
    frames: Sequence[NDArray[np.uint8]],
    *,
    times: Sequence[int] | None = None,
    matrix: Sequence[int] | None = None,
    codec: str = "mpeg4",
    aspect: Fraction | None = None,
) -> Path:
    """Write frames at 30 a second, or at `times` in thousandths of a second."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height = frames[0].shape[1], frames[0].shape[0]
        stream.pix_fmt, stream.gop_size, stream.bit_rate = "yuv420p", 10, 2_000_000
        stream.codec_context.max_b_frames = 2
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for index, pixels in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts = index if times is None else times[index]
            if times is not None:
                picture.time_base = Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path
