"""ETH3D: laser-scanned scenes with high-resolution photos (Schoeps et al., CVPR 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from covis.evaluation.datasets.colmap import View, intrinsics, read_model
from covis.evaluation.datasets.files import damaged, folders, listed, not_there, settings
from covis.evaluation.datasets.truth import DepthArray, GroundTruth, SceneRef
from covis.evaluation.metrics.pose import Float64

_CALIBRATION = "dslr_calibration_undistorted"
_DISTORTED = "dslr_calibration_jpg"
_DEPTH = Path("ground_truth_depth") / "dslr_images"


@dataclass(frozen=True)
class Eth3d:
    """High-resolution multi-view training scenes, undistorted, with the ground-truth depth.

    `<scene>/images/dslr_images_undistorted/*.JPG`, `<scene>/dslr_calibration_undistorted/` (a
    COLMAP model), and for depth `<scene>/ground_truth_depth/dslr_images/*.JPG` (raw float32,
    metres, infinite where unknown) with `<scene>/dslr_calibration_jpg/`: depth is given for the
    *original* images, so an undistorted pixel's ray is sent through the original, distorted camera.
    Without those two there is no depth.

    Attributes:
        paths: Folders of scenes, or scenes themselves.
    """

    paths: tuple[str, ...]
    name: str = "eth3d"

    def settings(self) -> dict[str, object]:
        """Return the settings that distinguish two copies of the dataset."""
        return settings(self.paths)

    def scenes(self) -> list[SceneRef]:
        """List the scenes by folder name."""
        out = []
        for root in folders(self.paths):
            inside = [root] if (root / _CALIBRATION).is_dir() else listed(root)
            scenes = [place for place in inside if (place / _CALIBRATION).is_dir()]
            if not scenes:
                raise not_there(f"no scene with {_CALIBRATION} in it", root)
            out += [SceneRef(scene.name, self.name, scene) for scene in scenes]
        return out

    def load(self, ref: SceneRef) -> GroundTruth:
        """Load all views of a scene."""
        folder: Path = ref.key
        views = read_model(folder / _CALIBRATION)
        matrices = intrinsics(views)
        if not views or matrices is None:
            raise damaged(folder / _CALIBRATION, "no images, or their cameras are no pinholes")
        depth = None
        if (folder / _DEPTH).is_dir() and (folder / _DISTORTED).is_dir():
            depth = _depth(folder, views, matrices)
        return GroundTruth(
            scene=ref,
            images=tuple(folder / "images" / view.name for view in views),
            extrinsics=np.stack([view.extrinsics for view in views]),
            intrinsics=matrices,
            frames=np.arange(len(views)),
            depth=depth,
        )


@dataclass(frozen=True)
class _RawDepth:
    """Sampler of a raw depth file through the original camera.

    Attributes:
        path: File of float32 numbers by rows, in the size of the original photo.
        camera: Pycolmap's camera of the original photo.
        intrinsics: (3, 3) of the undistorted photo.
    """

    path: Path
    camera: Any
    intrinsics: Float64

    def __call__(self, pixels: Float64) -> Float64:
        height, width = int(self.camera.height), int(self.camera.width)
        try:
            size = self.path.stat().st_size
        except OSError:
            raise not_there("no such file", self.path) from None
        if size != 4 * height * width:
            raise damaged(self.path, f"{size} bytes, not {4 * height * width}")
        depth = np.memmap(self.path, "<f4", "r", shape=(height, width))
        homogeneous = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
        rays = np.linalg.solve(self.intrinsics, homogeneous.T).T
        return DepthArray(depth)(np.asarray(self.camera.img_from_cam(rays), np.float64))


def _depth(folder: Path, views: list[View], matrices: Float64) -> tuple[_RawDepth, ...]:
    original = {Path(view.name).name: view.camera for view in read_model(folder / _DISTORTED)}
    out = []
    for view, matrix in zip(views, matrices, strict=True):
        name = Path(view.name).name
        if name not in original:
            raise damaged(folder / _DISTORTED, f"it lacks {name}")
        out.append(_RawDepth(folder / _DEPTH / name, original[name], matrix))
    return tuple(out)
