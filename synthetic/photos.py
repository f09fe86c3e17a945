"""Photos of a synthetic scene with known cameras, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from covis.engines.errors import environment_error
from covis.synthetic.cameras import camera_path
from covis.synthetic.render import RenderedScene, render
from covis.synthetic.scenes import HELD_OUT_SEEDS, Family, SceneSpec, build


def demo_scene(
    views: int = 12,
    height: int = 192,
    width: int = 256,
    *,
    family: Family = "loop",
    seed: int = HELD_OUT_SEEDS.start,
) -> RenderedScene:
    """
    Render a scene with numpy, for examples and tests.

    In the `loop` family the cameras go once around, and views of opposite sides do not see each
    other; in the others they circle the middle and look at it.

    Args:
        views: Number of views M.
        height: Height H in pixels.
        width: Width W in pixels.
        family: Family of scenes.
        seed: Seed of the scene; by default a held-out one, on which no model was trained.
    """
    world = build(SceneSpec(seed, family))
    cameras = camera_path(world, views, "loop" if family == "loop" else "orbit")
    return render(world, cameras, height, width, supersample=2)


def write_photos(
    folder: Path, scene: RenderedScene, *, image_format: Literal["jpg", "png"] = "jpg"
) -> list[Path]:
    """
    Write the images of a scene rendered with numpy as `view_000.jpg` and so on.

    Args:
        folder: Folder, created if it does not exist; files of the same names are replaced.
        scene: Rendered scene of M views.
        image_format: JPEG (quality 95) or PNG.

    Returns:
        The M paths in view order, which is also their natural order.

    Raises:
        CovisError: The folder cannot be written.
    """
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(np.asarray(scene.images)):
            path = folder / f"view_{i:03d}.{image_format}"
            pixels = np.round(image.transpose(1, 2, 0) * 255).astype(np.uint8)
            Image.fromarray(pixels).save(path, quality=95)
            paths.append(path)
    except OSError as error:
        raise environment_error(f"cannot write photos: {error.strerror}", where=folder) from error
    return paths
