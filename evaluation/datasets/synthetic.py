"""Synthetic scenes as a dataset: rendered on demand, with exact ground truth."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import get_args

import numpy as np

from covis.engines.errors import user_error
from covis.evaluation.datasets.truth import DepthArray, GroundTruth, SceneRef
from covis.synthetic import FAMILIES, HELD_OUT_SEEDS, PATHS, SceneSpec, build, camera_path, render
from covis.synthetic.cameras import Path
from covis.synthetic.scenes import Family

_DEFAULT_SCENES = 8
_DEFAULT_VIEWS = 12
_MOST_SCENES = 100_000
_SUPERSAMPLE = 2  # colour rays of a pixel along each axis, as in training
_FORM = "family/path, family/path/seeds or family/path/seeds/views, e.g. loop/loop/1000000-1000007"


@dataclass(frozen=True)
class SyntheticScenes:
    """Scenes of `covis.synthetic`, by family, camera path and seed.

    Lengths are in metres. Photos are rendered with four colour rays per pixel, and shadows.

    Attributes:
        specs: Specifications `family/path[/seeds[/views]]`; `seeds` is a number or a range
            "first-last" (default: the first eight held-out seeds), `views` the number of views
            along the path (default: 12).
        size: (H, W) of the photos.
        shadows: Render shadows.
        name: Name of the dataset in records.
    """

    specs: tuple[str, ...]
    size: tuple[int, int] = (168, 168)
    shadows: bool = True
    name: str = "synthetic"

    def scenes(self) -> list[SceneRef]:
        """List one scene for each seed of each specification."""
        out: dict[str, SceneRef] = {}
        for spec in self.specs:
            family, path, seeds, views = parse(spec)
            for seed in seeds:
                name = f"{family}/{path}/{seed}/{views}"
                out[name] = SceneRef(name, f"{family}/{path}", (family, path, seed, views))
        return list(out.values())

    def settings(self) -> dict[str, object]:
        """Return size, colour rays and shadows; the names of scenes have the rest."""
        return {"size": list(self.size), "supersample": _SUPERSAMPLE, "shadows": self.shadows}

    def load(self, ref: SceneRef) -> GroundTruth:
        """Render a scene with numpy."""
        family, path, seed, views = ref.key
        height, width = self.size
        world = build(SceneSpec(seed, family))
        cameras = camera_path(world, views, path)
        scene = render(
            world, cameras, height, width, supersample=_SUPERSAMPLE, shadows=self.shadows
        )
        pixels = np.round(np.asarray(scene.images).transpose(0, 2, 3, 1) * 255).astype(np.uint8)
        return GroundTruth(
            scene=ref,
            images=tuple(pixels),
            extrinsics=np.asarray(scene.extrinsics),
            frames=np.arange(views),
            intrinsics=np.asarray(scene.intrinsics),
            depth=tuple(DepthArray(np.asarray(d, np.float32)) for d in scene.depth),
        )


def parse(spec: str) -> tuple[Family, Path, range, int]:
    """Parse a specification into family, path, seeds and number of views.

    Raises:
        CovisError: It has another form, or names an unknown family or path.
    """
    parts = spec.split("/")
    family = next((f for f in get_args(Family) if f == parts[0]), None)
    path = next((p for p in get_args(Path) if [p] == parts[1:2]), None)
    if family is None or path is None or len(parts) > 4:
        raise user_error(
            "names no synthetic scenes",
            where=spec,
            hint=f"write {_FORM}; families: {', '.join(FAMILIES)}; paths: {', '.join(PATHS)}",
        )
    seeds = HELD_OUT_SEEDS[:_DEFAULT_SCENES]
    if len(parts) > 2:
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", parts[2])
        if match is None:
            raise user_error("has no seeds", where=spec, hint=f"write {_FORM}")
        first = int(match[1])
        seeds = range(first, int(match[2] or first) + 1)
    if not 0 < len(seeds) <= _MOST_SCENES:
        raise user_error(f"has {len(seeds)} seeds", where=spec, hint=f"use 1 to {_MOST_SCENES}")
    views = _DEFAULT_VIEWS
    if len(parts) > 3:
        if not re.fullmatch(r"[1-9][0-9]{0,3}", parts[3]):
            raise user_error("has no number of views", where=spec, hint=f"write {_FORM}")
        views = int(parts[3])
    return family, path, seeds, views
