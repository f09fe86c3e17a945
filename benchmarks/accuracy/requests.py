"""Names of the held-out scenes of the accuracy benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from covis.synthetic import HELD_OUT_SEEDS

FIRST = 1000
"""Offset in the held-out seeds. The scores that training reports while it runs are of the first
seeds; the scenes of this benchmark were never looked at before."""

Draw = Literal["random", "along"]
"""Views of a scene: some of twelve along the camera path, in random order; or as many as there are
along the path, in its order."""


@dataclass(frozen=True)
class SceneRequest:
    """A held-out scene and its views.

    Attributes:
        kind: Family and path, `family/path`.
        number: Number of the scene, from 0.
        views: Number of views M.
        draw: Choice of the views.
        size: Side of the images in pixels.
    """

    kind: str
    number: int
    views: int
    draw: Draw
    size: int = 112

    @property
    def seed(self) -> int:
        """Seed of the scene."""
        return HELD_OUT_SEEDS[FIRST + self.number]

    @property
    def name(self) -> str:
        """Unique name."""
        return f"{self.kind}/{self.seed}/{self.views}/{self.draw}/{self.size}"
