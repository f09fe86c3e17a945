"""Options of a decoded scene: shared cameras, frame of the world, masks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from covis.engines.errors import user_error

World = Literal["model", "view0"]


@dataclass(frozen=True)
class SceneOptions:
    """Cameras, frame and masks of a scene.

    Attributes:
        shared_camera: Give all photos of one size one camera: the median of their focal lengths
            and principal points. For photos that one camera took without zooming.
        world: Frame of the world's coordinates. `model`: as the model returns them. `view0`: the
            camera frame of the first view.
        mask_edges: Leave out pixels at the edges of surfaces, where depth jumps by over 3 % and
            normals turn by over 5 degrees, because points float between the surfaces there.
        min_conf: Smallest confidence, on the model's own scale, of a pixel that is not left out.
    """

    shared_camera: bool = False
    world: World = "model"
    mask_edges: bool | None = None
    min_conf: float | None = None

    def __post_init__(self) -> None:
        if self.world not in get_args(World):
            raise user_error(
                f"{self.world!r} is unknown",
                where="--world",
                hint=f"use one of {', '.join(get_args(World))}",
            )
        if self.min_conf is not None and not math.isfinite(self.min_conf):
            raise user_error(
                f"{self.min_conf} is not finite", where="--min-conf", hint="give a number"
            )

    def masks(self, model: str) -> tuple[bool, float | None]:
        """Return whether edges are left out and the smallest confidence, for this model.

        None stands for what the model's own code does in its example.
        """
        edges, conf = _OWN_MASKS[model]
        return (
            edges if self.mask_edges is None else self.mask_edges,
            conf if self.min_conf is None else self.min_conf,
        )


_OWN_MASKS: dict[str, tuple[bool, float | None]] = {
    "vggt": (False, None),
    "pi3": (True, 0.1),
    "mapanything": (True, None),
}
