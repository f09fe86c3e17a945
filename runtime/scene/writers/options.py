"""Options of the scene folder: formats, points and depth images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from covis.engines.errors import user_error

Format = Literal[
    "images", "masks", "depth", "ply", "colmap", "nerfstudio", "npz", "glb", "saliency", "html"
]
FORMATS: tuple[Format, ...] = get_args(Format)  # in the order of writing
# What the files of a format refer to, which is written with it.
_NEEDS: dict[Format, tuple[Format, ...]] = {
    "masks": ("images",),
    "colmap": ("images",),
    "nerfstudio": ("images", "masks", "ply"),
}
DepthFormat = Literal["png", "exr"]


@dataclass(frozen=True)
class OutputOptions:
    """Contents of the folder of a scene.

    Attributes:
        formats: Parts to write; docs/reference/conventions.md has their axes and units. `colmap`,
            `nerfstudio` and `masks` bring their images.
        conf_percentile: Share of the least confident points, in percent from 0 to 100, to leave
            out of point clouds.
        max_points: Largest number of points in `points.ply`, evenly sampled over the views; 0
            writes all of them. `colmap` has at most 200,000. In a scene from parts, points that lie
            on each other are merged until no more than this number remain; 0 merges none.
        depth_format: File format of the depth images. `png`: 16-bit integers, in millimetres where
            the scene is metric. `exr`: 32-bit floats in the scene's own unit.
    """

    formats: tuple[Format, ...] = FORMATS
    conf_percentile: float = 20.0
    max_points: int = 1_000_000
    depth_format: DepthFormat = "png"

    def __post_init__(self) -> None:
        for name in self.formats:
            if name not in FORMATS:
                raise user_error(
                    f"{name!r} is no output format",
                    where="--formats",
                    hint=f"use {', '.join(FORMATS)}",
                )
        if not self.formats:
            raise user_error(
                "no output format given",
                where="--formats",
                hint=f"use some of {', '.join(FORMATS)}",
            )
        if not 0.0 <= self.conf_percentile <= 100.0:
            raise user_error(
                f"{self.conf_percentile} is not in [0, 100]",
                where="--conf-percentile",
                hint="give a share in percent",
            )
        if self.max_points < 0:
            raise user_error(
                f"{self.max_points} is negative", where="--max-points", hint="0 writes all points"
            )
        if self.depth_format not in get_args(DepthFormat):
            raise user_error(
                f"{self.depth_format!r} is unknown",
                where="--depth-format",
                hint=f"use {' or '.join(get_args(DepthFormat))}",
            )

    @property
    def parts(self) -> tuple[Format, ...]:
        """The formats and those that they need, in the order of writing."""
        wanted = set(self.formats)
        for name in self.formats:
            wanted.update(_NEEDS.get(name, ()))
        return tuple(name for name in FORMATS if name in wanted)
