"""`sparse/0`: a COLMAP model, binary and text, in pixels of the files in `images/`.

Formats as COLMAP's documentation gives them ("Output Format"): PINHOLE cameras,
world-to-camera poses with w-first quaternions, pixel (0, 0) at the corner of the top-left pixel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.runtime.scene import geometry
from covis.runtime.scene.geometry import Float64
from covis.runtime.scene.points import PointSamples
from covis.runtime.scene.scene import Scene
from covis.runtime.scene.writers.folder import SceneFolder
from covis.runtime.scene.writers.frames import Frames

MAX_POINTS = 200_000  # a sparse model: tools load all of it at once, in its text form, too
_PINHOLE = 1  # COLMAP's id of the camera model with fx, fy, cx, cy

_CAMERA = np.dtype(
    [("id", "<i4"), ("model", "<i4"), ("width", "<u8"), ("height", "<u8"), ("params", "<f8", 4)]
)
_POSE = np.dtype([("id", "<i4"), ("qvec", "<f8", 4), ("tvec", "<f8", 3), ("camera", "<i4")])
_OBSERVATION = np.dtype([("xy", "<f8", 2), ("point", "<u8")])
_POINT = np.dtype(
    [
        ("id", "<u8"),
        ("xyz", "<f8", 3),
        ("rgb", "u1", 3),
        ("error", "<f8"),
        ("track", "<u8"),
        ("image", "<i4"),
        ("index", "<i4"),
    ]
)


@dataclass(frozen=True)
class ColmapModel:
    """Tables of a COLMAP model with one observation per point; ids count from 1.

    Attributes:
        names: M names of files in `images/`.
        cameras: Rows of the cameras' table.
        poses: M rows of the images' table.
        observations: For each image, its points in the file's pixels.
        points: N rows of the points' table.
    """

    names: tuple[str, ...]
    cameras: NDArray[Any]
    poses: NDArray[Any]
    observations: tuple[NDArray[Any], ...]
    points: NDArray[Any]


def write_colmap(folder: SceneFolder) -> list[Path]:
    """Write at most 200,000 points, evenly sampled, each observed at its own pixel."""
    limit = min(folder.options.max_points or MAX_POINTS, MAX_POINTS)
    model = colmap_model(folder.scene, folder.frames, folder.cloud(limit))
    place = folder.place / "sparse" / "0"
    place.mkdir(parents=True)
    return [*_write_binary(model, place), *_write_text(model, place)]


def colmap_model(scene: Scene, frames: Frames, samples: PointSamples) -> ColmapModel:
    """Build the tables of `scene`, with the images `frames` and points `samples` in view order."""
    M, count = len(scene), len(samples.xyz)
    ids = np.arange(1, M + 1)
    points = np.zeros(count, _POINT)
    points["id"] = np.arange(1, count + 1)
    points["xyz"], points["rgb"], points["track"] = samples.xyz, samples.rgb, 1
    points["image"] = samples.view + 1
    starts = np.searchsorted(samples.view, np.arange(M + 1))
    points["index"] = np.arange(count) - starts[samples.view]
    poses = np.zeros(M, _POSE)
    poses["id"], poses["camera"] = ids, scene.camera_groups() + 1
    poses["qvec"] = np.roll(geometry.rotation_to_quaternion(scene.extrinsics[:, :, :3]), 1, axis=1)
    poses["tvec"] = scene.extrinsics[:, :, 3]
    xy = _image_pixels(scene, frames, samples)
    observations = []
    for first, last in pairwise(starts.tolist()):
        seen = np.zeros(last - first, _OBSERVATION)
        seen["xy"], seen["point"] = xy[first:last], points["id"][first:last]
        observations.append(seen)
    cameras = _cameras(frames, scene.camera_groups())
    return ColmapModel(frames.names, cameras, poses, tuple(observations), points)


def _cameras(frames: Frames, groups: NDArray[np.int64]) -> NDArray[Any]:
    """Return one row for each camera; the views of a group have the same camera."""
    numbers, first = np.unique(groups, return_index=True)
    cameras = np.zeros(len(numbers), _CAMERA)
    K = frames.intrinsics[first]
    cameras["id"], cameras["model"] = numbers + 1, _PINHOLE
    cameras["height"], cameras["width"] = frames.sizes[first].T
    cameras["params"] = np.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], axis=-1)
    return cameras


def _image_pixels(scene: Scene, frames: Frames, samples: PointSamples) -> Float64:
    """Return image pixels (N, 2); a view's intrinsics differ by the pixel transform alone."""
    to_image = frames.intrinsics @ np.linalg.inv(scene.intrinsics.astype(np.float64))
    homogeneous = np.concatenate([samples.pixel, np.ones((len(samples.pixel), 1))], axis=1)
    mapped: Float64 = np.einsum("nij,nj->ni", to_image[samples.view, :2], homogeneous)
    return mapped


def _write_binary(model: ColmapModel, place: Path) -> list[Path]:
    count = np.dtype("<u8").type
    cameras, images, points = (place / f"{n}.bin" for n in ("cameras", "images", "points3D"))
    cameras.write_bytes(count(len(model.cameras)).tobytes() + model.cameras.tobytes())
    with images.open("wb") as file:
        file.write(count(len(model.poses)).tobytes())
        for pose, name, seen in zip(model.poses, model.names, model.observations, strict=True):
            file.write(pose.tobytes() + name.encode("ascii") + b"\0")
            file.write(count(len(seen)).tobytes() + seen.tobytes())
    with points.open("wb") as file:
        file.write(count(len(model.points)).tobytes())
        file.write(model.points.tobytes())
    return [cameras, images, points]


def _write_text(model: ColmapModel, place: Path) -> list[Path]:
    cameras, images, points = (place / f"{n}.txt" for n in ("cameras", "images", "points3D"))
    with cameras.open("w", encoding="ascii", newline="\n") as file:
        file.write("# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]: fx, fy, cx, cy\n")
        for camera in model.cameras:
            size = f"{camera['width']} {camera['height']}"
            file.write(f"{camera['id']} PINHOLE {size} {_numbers(camera['params'])}\n")
    with images.open("wb") as file:
        file.write(b"# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME\n")
        file.write(b"# POINTS2D[] as (X, Y, POINT3D_ID)\n")
        for pose, name, seen in zip(model.poses, model.names, model.observations, strict=True):
            motion = _numbers([*pose["qvec"], *pose["tvec"]])
            file.write(f"{pose['id']} {motion} {pose['camera']} ".encode())
            file.write(name.encode("ascii") + b"\n")
            rows = zip(seen["xy"].tolist(), seen["point"].tolist(), strict=True)
            file.write(" ".join(f"{x!r} {y!r} {point}" for (x, y), point in rows).encode() + b"\n")
    with points.open("w", encoding="ascii", newline="\n") as file:
        file.write("# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)\n")
        columns = (model.points[n].tolist() for n in ("id", "xyz", "rgb", "image", "index"))
        for i, (x, y, z), (r, g, b), image, index in zip(*columns, strict=True):
            file.write(f"{i} {x!r} {y!r} {z!r} {r} {g} {b} 0 {image} {index}\n")
    return [cameras, images, points]


def _numbers(values: Iterable[Any]) -> str:
    """Format numbers as decimals that read back as the same float64."""
    return " ".join(repr(float(value)) for value in values)
