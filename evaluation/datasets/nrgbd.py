"""NRGBD: synthetic rooms of Neural RGB-D Surface Reconstruction (Azinovic et al., CVPR 2022)."""

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
    photo_size,
    photos_in,
    pinhole,
    read_numbers,
    read_png16,
    settings,
    to_extrinsics,
)
from covis.evaluation.datasets.truth import GroundTruth, SceneRef

# OpenGL's camera axes are x right, y up, z backward.
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Nrgbd:
    """The published layout: `<scene>/{images/img0.png,depth/depth0.png,poses.txt,focal.txt}`.

    Poses are camera to world, four lines each, OpenGL axes, metres; frames without one have `nan`.
    Depth is z-depth in millimetres. `depth/` is the ground truth; the fallbacks are
    `depth_filtered/`, and `trainval_poses.txt` for `poses.txt`. The focal length is in pixels of
    the depth images, the principal point in the middle.

    Attributes:
        paths: Folders of scenes, or scenes themselves.
    """

    paths: tuple[str, ...]
    name: str = "nrgbd"

    def settings(self) -> dict[str, object]:
        """Return the settings that distinguish two copies of the dataset."""
        return settings(self.paths)

    def scenes(self) -> list[SceneRef]:
        """List the scenes by folder name."""
        out = []
        for root in folders(self.paths):
            inside = [root] if (root / "images").is_dir() else listed(root)
            scenes = [place for place in inside if (place / "images").is_dir()]
            if not scenes:
                raise not_there("no scene with an images folder in it", root)
            out += [SceneRef(scene.name, self.name, scene) for scene in scenes]
        return out

    def load(self, ref: SceneRef) -> GroundTruth:
        """Load all frames of a scene."""
        folder: Path = ref.key
        images = photos_in(folder / "images", "img*")
        written, other = folder / "poses.txt", folder / "trainval_poses.txt"
        if not written.is_file() and other.is_file():
            written = other
        poses = read_numbers(written)
        if poses.size != 16 * len(images):
            raise damaged(written, f"{poses.size} numbers for {len(images)} images")
        name = "depth" if (folder / "depth").is_dir() else "depth_filtered"
        depths = [folder / name / path.name.replace("img", "depth", 1) for path in images]
        depths = [path.with_suffix(".png") for path in depths]
        focal = read_numbers(folder / "focal.txt")
        if focal.size < 1:
            raise damaged(folder / "focal.txt", "empty")
        height, width = photo_size(images[0])
        scale = width / read_png16(depths[0]).shape[1]
        camera = pinhole(focal[0] * scale, focal[0] * scale, width / 2, height / 2)
        return GroundTruth(
            scene=ref,
            images=tuple(images),
            extrinsics=to_extrinsics(poses.reshape(-1, 4, 4) @ _FLIP),
            intrinsics=np.tile(camera, (len(images), 1, 1)),
            frames=np.arange(len(images)),
            depth=tuple(PngDepth(path, 1e-3, photo=(height, width)) for path in depths),
        )
