"""Tanks and Temples: large scenes with laser scans (Knapitsch et al., SIGGRAPH 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from covis.evaluation.datasets.colmap import intrinsics, read_model
from covis.evaluation.datasets.files import (
    damaged,
    folders,
    listed,
    not_there,
    photos_in,
    read_cloud,
    read_json,
    read_matrix,
    read_numbers,
    settings,
    to_extrinsics,
)
from covis.evaluation.datasets.truth import GroundTruth, SceneRef
from covis.evaluation.metrics.pose import Float64
from covis.runtime.scene.similarity import Similarity


@dataclass(frozen=True)
class TanksTemples:
    """The published training scenes: photos, `Barn_COLMAP_SfM.log`, and the scan's files.

    `Barn/` or `Barn/images/` contains the photos. Cameras come from a COLMAP model in `sparse/0` or
    `sparse` where there is one (pycolmap), else from the log: for each photo a row of three numbers
    and camera to world (4, 4), OpenCV axes; the log has no intrinsics. With `Barn_trans.txt` (a
    similarity into the scan's frame, metres), `Barn.ply` (the scan) and `Barn.json` (the volume
    that is judged), points are compared as well.

    Attributes:
        paths: Folders of scenes, or scenes themselves.
    """

    paths: tuple[str, ...]
    name: str = "tanks_temples"

    def settings(self) -> dict[str, object]:
        """Return the settings that distinguish two copies of the dataset."""
        return settings(self.paths)

    def scenes(self) -> list[SceneRef]:
        """List the scenes by folder name."""
        out = []
        for root in folders(self.paths):
            inside = [root] if _is_scene(root) else listed(root)
            scenes = [place for place in inside if _is_scene(place)]
            if not scenes:
                raise not_there("no scene with *_COLMAP_SfM.log or sparse/ in it", root)
            out += [SceneRef(scene.name, self.name, scene) for scene in scenes]
        return out

    def load(self, ref: SceneRef) -> GroundTruth:
        """Load all photos of a scene that have a camera."""
        folder: Path = ref.key
        home = folder / "images" if (folder / "images").is_dir() else folder
        matrices = None
        model = next((m for m in (folder / "sparse/0", folder / "sparse") if _model(m)), None)
        if model is not None:
            views = read_model(model)
            if not views:
                raise damaged(model, "no images")
            images = [home / view.name for view in views]
            extrinsics, matrices = np.stack([v.extrinsics for v in views]), intrinsics(views)
        else:
            images = photos_in(home)
            numbers, poses = read_log(folder / f"{folder.name}_COLMAP_SfM.log")
            last = int(np.max(numbers))
            if last >= len(images):
                raise not_there(f"photo {last + 1} of the log", home)
            images = [images[number] for number in numbers]
            extrinsics = to_extrinsics(poses)
        points, crop = None, None
        trans = folder / f"{folder.name}_trans.txt"
        if trans.is_file():
            extrinsics = _similarity(trans).cameras(extrinsics)
            if (folder / f"{folder.name}.ply").is_file():
                crop = Crop.read(folder / f"{folder.name}.json")
                points = read_cloud(folder / f"{folder.name}.ply")
                points = points[crop(points)]
        return GroundTruth(
            scene=ref,
            images=tuple(images),
            extrinsics=extrinsics,
            intrinsics=matrices,
            frames=np.arange(len(images)),
            points=points,
            judged=crop,
        )


def _model(folder: Path) -> bool:
    return any((folder / f"cameras.{suffix}").is_file() for suffix in ("txt", "bin"))


def _is_scene(folder: Path) -> bool:
    log = folder / f"{folder.name}_COLMAP_SfM.log"
    return log.is_file() or _model(folder / "sparse/0") or _model(folder / "sparse")


def read_log(path: Path) -> tuple[NDArray[np.int64], Float64]:
    """Read photo numbers (M,) and camera to world (M, 4, 4) of a trajectory log.

    Raises:
        CovisError: It is missing or damaged.
    """
    found = read_numbers(path)
    if not found.size or found.size % 19:
        raise damaged(path, f"{found.size} numbers are no entries of 19")
    entries = found.reshape(-1, 19)
    return entries[:, 0].astype(np.int64), entries[:, 3:].reshape(-1, 4, 4)


def _similarity(path: Path) -> Similarity:
    matrix = read_matrix(path, 4, 4)
    determinant = np.linalg.det(matrix[:3, :3])
    if not determinant > 0:
        raise damaged(path, "no similarity")
    scale = float(np.cbrt(determinant))
    return Similarity(scale, matrix[:3, :3] / scale, matrix[:3, 3])


@dataclass(frozen=True)
class Crop:
    """Open3D's `SelectionPolygonVolume`: a polygon in two axes, an interval in the third.

    Attributes:
        axis: Axis of the interval.
        low: Lower end of the interval.
        high: Upper end of the interval.
        polygon: (K, 2) corners in the other two axes, in their order.
    """

    axis: int
    low: float
    high: float
    polygon: Float64

    @classmethod
    def read(cls, path: Path) -> Crop:
        """Read the crop volume of a scene.

        Raises:
            CovisError: It is missing or damaged.
        """
        record = read_json(path)
        try:
            axis = "XYZ".index(str(record["orthogonal_axis"]).upper())
            corners = np.array(record["bounding_polygon"], np.float64).reshape(-1, 3)
            low, high = float(record["axis_min"]), float(record["axis_max"])
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path, repr(error)) from error
        return cls(axis, low, high, np.delete(corners, axis, axis=1))

    def __call__(self, points: Float64) -> NDArray[np.bool_]:
        """Return the mask (N,) of the points (N, 3) inside, by the edges that a ray crosses."""
        along = points[:, self.axis]
        x, y = np.delete(points, self.axis, axis=1).T
        inside = np.zeros(len(points), bool)
        for (x1, y1), (x2, y2) in zip(self.polygon, np.roll(self.polygon, -1, axis=0), strict=True):
            if y1 != y2:
                crosses = ((y1 > y) != (y2 > y)) & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
                inside ^= crosses
        found: NDArray[np.bool_] = inside & (along >= self.low) & (along <= self.high)
        return found
