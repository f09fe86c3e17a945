"""The scene folder that all readers of this directory open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from covis.runtime.scene.scene import Scene
from tests.runtime.scene.globe import View


@dataclass(frozen=True)
class Written:
    """Scene folder, and what is true of it."""

    place: Path
    scene: Scene
    views: list[View]
    photos: Path
