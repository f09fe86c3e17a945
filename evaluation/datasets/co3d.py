"""CO3Dv2: common objects, one folder per category (Reizenstein et al., ICCV 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from covis.evaluation.datasets.files import (
    PngDepth,
    damaged,
    folders,
    not_there,
    pinhole,
    read_json,
    read_png16,
    settings,
)
from covis.evaluation.datasets.truth import DepthArray, GroundTruth, SceneRef
from covis.evaluation.metrics.pose import Float64

# PyTorch3D's camera axes are x left, y up, z forward.
_FLIP = np.diag([-1.0, -1.0, 1.0])
# The cameras of some sequences diverged; VGGT's evaluation skips those.
_ABSURD = 1e5


@dataclass(frozen=True)
class Co3d:
    """CO3Dv2 in its published layout: `category/sequence/images/frame000001.jpg`.

    The scenes are those of VGGT's evaluation: the test part of `set_lists_fewview_dev.json`,
    sequences whose viewpoints have a quality above 0.5 and that have 50 frames or more. Without set
    lists all such sequences count. Groups are the categories. The unit is arbitrary and
    differs between sequences.

    Attributes:
        paths: Folders of categories, or categories themselves.
        min_quality: Smallest viewpoint quality of a sequence.
        min_frames: Smallest number of frames of a sequence.
    """

    paths: tuple[str, ...]
    min_quality: float = 0.5
    min_frames: int = 50
    name: str = "co3d"

    def settings(self) -> dict[str, object]:
        """Return the settings that distinguish two copies, and the limits on sequences."""
        limits = {"min_quality": self.min_quality, "min_frames": self.min_frames}
        return {**settings(self.paths), **limits}

    def scenes(self) -> list[SceneRef]:
        """List the sequences, as category/sequence."""
        out = []
        for category in self._categories():
            try:
                quality, frames = _listing(category)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise damaged(category, f"its annotations: {error!r}") from error
            for sequence in sorted(frames):
                good = quality.get(sequence, 0.0) > self.min_quality
                if good and len(frames[sequence]) >= self.min_frames:
                    key = (category, sequence, tuple(sorted(frames[sequence])))
                    out.append(SceneRef(f"{category.name}/{sequence}", category.name, key))
        if not out:
            raise not_there("no sequence to evaluate", self.paths[0])
        return out

    def _categories(self) -> list[Path]:
        found = []
        for root in folders(self.paths):
            inside = sorted(p.parent for p in root.glob("*/frame_annotations.jgz"))
            found += [root] if (root / "frame_annotations.jgz").is_file() else inside
            if not found:
                raise not_there("no category with frame_annotations.jgz in it", root)
        return found

    def load(self, ref: SceneRef) -> GroundTruth:
        """Load all listed frames of a sequence."""
        category, sequence, numbers = ref.key
        wanted, path = set(numbers), category / "frame_annotations.jgz"
        try:
            records = [
                record
                for record in frame_annotations(category)
                if record["sequence_name"] == sequence and record["frame_number"] in wanted
            ]
            records.sort(key=lambda record: int(record["frame_number"]))
            if len(records) != len(wanted):
                raise damaged(path, f"{len(records)} of {len(wanted)} frames of {sequence}")
            cameras = [camera(record) for record in records]
            depths = [_depth(category.parent, record) for record in records]
            images = tuple(category.parent / record["image"]["path"] for record in records)
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path, f"{sequence}: {error!r}") from error
        return GroundTruth(
            scene=ref,
            images=images,
            extrinsics=np.stack([extrinsics for extrinsics, _ in cameras]),
            intrinsics=np.stack([intrinsics for _, intrinsics in cameras]),
            frames=np.array([int(record["frame_number"]) for record in records]),
            depth=tuple(d for d in depths if d is not None) if all(depths) else None,
        )


def _listing(category: Path) -> tuple[dict[str, float], dict[str, list[int]]]:
    """Read viewpoint quality and numbers of the listed frames, by sequence."""
    quality = {
        str(record["sequence_name"]): float(record.get("viewpoint_quality_score") or 0.0)
        for record in read_json(category / "sequence_annotations.jgz")
    }
    lists = category / "set_lists" / "set_lists_fewview_dev.json"
    frames: dict[str, list[int]] = {}
    if lists.is_file():
        for sequence, number, _ in read_json(lists)["test"]:
            frames.setdefault(str(sequence), []).append(int(number))
    else:
        for record in frame_annotations(category):
            frames.setdefault(str(record["sequence_name"]), []).append(int(record["frame_number"]))
    return quality, frames


@lru_cache(maxsize=1)
def frame_annotations(category: Path) -> list[dict[str, Any]]:
    """Read the frames of a category, cached because they are large and used by every scene."""
    found = read_json(category / "frame_annotations.jgz")
    if not isinstance(found, list):
        raise damaged(category / "frame_annotations.jgz", "no list of frames")
    return found


def camera(record: dict[str, Any]) -> tuple[Float64, Float64]:
    """Convert PyTorch3D's viewpoint to OpenCV extrinsics (3, 4) and intrinsics (3, 3).

    PyTorch3D: x_camera = x_world R + T with row vectors, x left and y up. Focal length and
    principal point are in NDC: in units of half the shorter side ("ndc_isotropic") or of half of
    each side, with axes pointing left and up from the image's centre (PyTorch3D's documentation,
    "Cameras").
    """
    viewpoint = record["viewpoint"]
    rotation = _FLIP @ np.array(viewpoint["R"], np.float64).reshape(3, 3).T
    translation = _FLIP @ np.array(viewpoint["T"], np.float64).reshape(3)
    extrinsics = np.concatenate([rotation, translation[:, None]], axis=1)
    if np.abs(translation).sum() > _ABSURD:
        extrinsics[:] = np.nan
    height, width = record["image"]["size"]
    half = np.array([width, height], np.float64) / 2
    isotropic = viewpoint.get("intrinsics_format", "ndc_norm_image_bounds") == "ndc_isotropic"
    unit = np.full(2, np.min(half)) if isotropic else half
    focal = np.array(viewpoint["focal_length"], np.float64) * unit
    center = half - np.array(viewpoint["principal_point"], np.float64) * unit
    return extrinsics, pinhole(focal[0], focal[1], center[0], center[1])


@dataclass(frozen=True)
class _HalfDepth:
    """Sampler of a depth PNG whose 16 bits are a half-precision number."""

    place: PngDepth
    scale: float
    mask: Path | None

    def __call__(self, pixels: Float64) -> Float64:
        raw = read_png16(self.place.path)
        depth = raw.view(np.float16).astype(np.float64) * self.scale
        if self.mask is not None:
            from covis.runtime.photos.files import open_file

            try:
                with open_file(self.mask) as image:
                    known = np.asarray(image.convert("L")) > 0
            except OSError as error:
                raise damaged(self.mask, str(error)) from error
            if known.shape == depth.shape:
                depth[~known] = 0.0
        return DepthArray(depth)(self.place.moved(pixels, depth.shape))


def _depth(root: Path, record: dict[str, Any]) -> _HalfDepth | None:
    depth = record.get("depth")
    if not depth or not depth.get("path"):
        return None
    height, width = record["image"]["size"]
    mask = root / depth["mask_path"] if depth.get("mask_path") else None
    return _HalfDepth(
        PngDepth(root / depth["path"], 1.0, photo=(int(height), int(width))),
        float(depth["scale_adjustment"]),
        mask if mask is not None and mask.is_file() else None,
    )
