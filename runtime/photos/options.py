"""Options that choose the photos of a run: masks, video frames, and how many views."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from covis.engines.errors import user_error

Choose = Literal["even", "kcenter"]

_MOST_FPS = 1000.0


@dataclass(frozen=True)
class PhotoOptions:
    """Choice of the photos and video frames that a run takes, and of the pixels it uses.

    Attributes:
        masks: Folder of mask images, one for each photo, with the photo's relative path and name:
            `IMG_1.png` or `IMG_1.jpg.png` for `IMG_1.jpg`. Pixels where the mask is 0 (black) are
            left out of the scene; the model still sees the whole photo.
        fps: Number of frames to take from each second of a video. Without it, `--every` counts all
            frames, and so does an even choice of `--max-views`.
        every: Take only every N-th photo or video frame, from the first.
        max_views: Largest number of views; which ones, --choose decides.
        choose: Choice of the views if there are more than --max-views. `even`: evenly spaced, with
            the first and the last. `kcenter`: those that look most different, which leaves out
            the frames of a camera that stands still.
        skip_bad: Pass over photos that cannot be decoded, with one line for each, instead of
            stopping at the first.
    """

    masks: Path | None = None
    fps: float | None = None
    every: int = 1
    max_views: int | None = None
    choose: Choose = "even"
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if self.fps is not None and not (math.isfinite(self.fps) and 0 < self.fps <= _MOST_FPS):
            raise user_error(
                f"{self.fps} is not above 0 and up to {_MOST_FPS:g}",
                where="--fps",
                hint="give a number of frames for each second, such as 2 or 0.5",
            )
        if self.every < 1:
            raise user_error(f"{self.every} is below 1", where="--every", hint="1 takes all")
        if self.max_views is not None and self.max_views < 1:
            raise user_error(
                f"{self.max_views} is below 1", where="--max-views", hint="give 1 or more"
            )
        if self.choose not in get_args(Choose):
            raise user_error(
                f"{self.choose!r} is unknown",
                where="--choose",
                hint=f"use one of {', '.join(get_args(Choose))}",
            )
