"""ScanNet: RGB-D sequences of rooms (Dai et al., CVPR 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from covis.evaluation.datasets.files import (
    PngDepth,
    damaged,
    folders,
    listed,
    not_there,
    photos_in,
    read_matrix,
    settings,
    to_extrinsics,
)
from covis.evaluation.datasets.truth import GroundTruth, SceneRef

_PARTS = ("scans_test", "scans")


@dataclass(frozen=True)
class ScanNet:
    """The layout of ScanNet's `SensReader`: `scene0707_00/{color,depth,pose,intrinsic}/`.

    `color/0.jpg`, `depth/0.png` (millimetres, 0 unknown), `pose/0.txt` (camera to world, OpenCV
    axes, metres; infinite where tracking was lost), `intrinsic/intrinsic_{color,depth}.txt`. Colour
    and depth have the same pose but different cameras: depth is sampled through both intrinsics.

    Attributes:
        paths: Folders with `scans_test/`, `scans/` or scenes, or scenes themselves.
    """

    paths: tuple[str, ...]
    name: str = "scannet"

    def settings(self) -> dict[str, object]:
        """Return the settings that distinguish two copies of the dataset."""
        return settings(self.paths)

    def scenes(self) -> list[SceneRef]:
        """List the scenes by folder name."""
        out = []
        for root in folders(self.paths):
            inside = [root] if (root / "color").is_dir() else listed(root)
            for part in _PARTS:
                inside += listed(root / part) if (root / part).is_dir() else []
            scenes = [place for place in inside if (place / "color").is_dir()]
            if not scenes:
                raise not_there("no scene with a color folder in it (run SensReader)", root)
            out += [SceneRef(scene.name, self.name, scene) for scene in scenes]
        return out

    def load(self, ref: SceneRef) -> GroundTruth:
        """Load all frames of a scene."""
        folder: Path = ref.key
        images = photos_in(folder / "color")
        cameras = folder / "intrinsic"
        color, depth = (
            read_matrix(cameras / f"intrinsic_{kind}.txt", 4, 4)[:3, :3]
            for kind in ("color", "depth")
        )
        if not (np.isfinite(color).all() and abs(np.linalg.det(color)) > 0):
            raise damaged(cameras / "intrinsic_color.txt", "no intrinsics")
        poses = [read_matrix(folder / "pose" / f"{path.stem}.txt", 4, 4) for path in images]
        to_depth = depth @ np.linalg.inv(color)
        return GroundTruth(
            scene=ref,
            images=tuple(images),
            extrinsics=to_extrinsics(np.stack(poses)),
            intrinsics=np.tile(color, (len(images), 1, 1)),
            frames=np.arange(len(images)),
            depth=tuple(
                PngDepth(folder / "depth" / f"{path.stem}.png", 1e-3, to_depth=to_depth)
                for path in images
            ),
        )
