"""Synthetic scenes with exact ground truth: rooms, corridors and objects, in numpy or torch."""

from covis.synthetic.cameras import PATHS, Cameras, camera_path, look_at
from covis.synthetic.covisibility import covisibility
from covis.synthetic.photos import demo_scene, write_photos
from covis.synthetic.render import RenderedScene, render
from covis.synthetic.scenes import (
    FAMILIES,
    HELD_OUT_SEEDS,
    TRAINING_SEEDS_START,
    SceneSpec,
    World,
    build,
)

__all__ = [
    "FAMILIES",
    "HELD_OUT_SEEDS",
    "PATHS",
    "TRAINING_SEEDS_START",
    "Cameras",
    "RenderedScene",
    "SceneSpec",
    "World",
    "build",
    "camera_path",
    "covisibility",
    "demo_scene",
    "look_at",
    "render",
    "write_photos",
]
