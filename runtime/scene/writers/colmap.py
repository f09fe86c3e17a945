"""`colmap/sparse/0`: a COLMAP model, binary and text, in original pixels.

Formats as COLMAP's documentation gives them ("Output Format"): one PINHOLE camera an image,
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
from covis.runtime.scene.scene import PointSamples, Scene

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
        names: M image names; image i + 1 has camera i + 1.
        cameras: M rows of the cameras' table.
        poses: M rows of the images' table.
        observations: For each image, its points in original pixels.
        points: N rows of the points' table.
    """

    names: tuple[str, ...]
    cameras: NDArray[Any]
    poses: NDArray[Any]
    observations: tuple[NDArray[Any], ...]
    points: NDArray[Any]


def write_colmap(scene: Scene, folder: Path, conf_percentile: float) -> list[Path]:
    """Write at most 200,000 points, evenly sampled, each observed at its own pixel.

    The text form ends an image's name at the first blank, so blanks, control characters and
    percent signs are written there as %20 and the like. The binary form contains names as they are.
    """
    model = colmap_model(scene, scene.point_samples(percentile=conf_percentile))
    place = folder / "colmap" / "sparse" / "0"
    place.mkdir(parents=True)
    return [*_write_binary(model, place), *_write_text(model, place)]


def colmap_model(scene: Scene, samples: PointSamples) -> ColmapModel:
    """Build the tables of `scene` with points `samples` (in view order), at most `MAX_POINTS`."""
    samples = samples.thin(MAX_POINTS)
    M, count = len(scene), len(samples.xyz)
    ids = np.arange(1, M + 1)
    cameras, poses = np.zeros(M, _CAMERA), np.zeros(M, _POSE)
    K = scene.intrinsics_original.astype(np.float64)
    cameras["id"], cameras["model"] = ids, _PINHOLE
    cameras["height"], cameras["width"] = scene.original_sizes.T
    cameras["params"] = np.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], axis=-1)
    poses["id"] = poses["camera"] = ids
    poses["qvec"] = np.roll(geometry.rotation_to_quaternion(scene.extrinsics[:, :, :3]), 1, axis=1)
    poses["tvec"] = scene.extrinsics[:, :, 3]
    points = np.zeros(count, _POINT)
    points["id"] = np.arange(1, count + 1)
    points["xyz"], points["rgb"], points["track"] = samples.xyz, samples.rgb, 1
    points["image"] = samples.view + 1
    starts = np.searchsorted(samples.view, np.arange(M + 1))
    points["index"] = np.arange(count) - starts[samples.view]
    xy = _original_pixels(scene, samples)
    observations = []
    for first, last in pairwise(starts.tolist()):
        seen = np.zeros(last - first, _OBSERVATION)
        seen["xy"], seen["point"] = xy[first:last], points["id"][first:last]
        observations.append(seen)
    return ColmapModel(scene.names, cameras, poses, tuple(observations), points)


def _original_pixels(scene: Scene, samples: PointSamples) -> Float64:
    """Return original pixels (N, 2); a view's intrinsics differ by the pixel transform alone."""
    to_original = scene.intrinsics_original @ np.linalg.inv(scene.intrinsics.astype(np.float64))
    homogeneous = np.concatenate([samples.pixel, np.ones((len(samples.pixel), 1))], axis=1)
    mapped: Float64 = np.einsum("nij,nj->ni", to_original[samples.view, :2], homogeneous)
    return mapped


def _write_binary(model: ColmapModel, place: Path) -> list[Path]:
    count = np.dtype("<u8").type
    cameras, images, points = (place / f"{n}.bin" for n in ("cameras", "images", "points3D"))
    cameras.write_bytes(count(len(model.cameras)).tobytes() + model.cameras.tobytes())
    with images.open("wb") as file:
        file.write(count(len(model.poses)).tobytes())
        for pose, name, seen in zip(model.poses, model.names, model.observations, strict=True):
            file.write(pose.tobytes() + _encoded(name) + b"\0")
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
            file.write(_encoded(_without_blanks(name)) + b"\n")
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


def _without_blanks(name: str) -> str:
    return "".join(f"%{ord(c):02X}" if c <= " " or c in "%\x7f" else c for c in name)


def _encoded(name: str) -> bytes:
    """Return a file name's bytes as in the file system, whether they are UTF-8 or not."""
    return name.encode("utf-8", "surrogateescape")
