"""Read the cameras of a Pose2Sim session: its own TOML file, or Qualisys' calibration file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from natsort import natsort_keygen

from covis.engines.errors import first_line, user_error
from covis.evaluation.datasets.distortion import Distortion, largest_radius
from covis.evaluation.datasets.files import damaged, listed, not_there, pinhole, read_text
from covis.evaluation.metrics.pose import Float64

_TOML, _QUALISYS = "*.toml", "*.qca.txt"
# Tables of Pose2Sim's, Anipose's and FreeMoCap's calibrations that are not cameras.
_NO_CAMERAS = frozenset({"metadata", "capture_volume", "charuco", "checkerboard"})
_SUBPIXELS = 64  # Qualisys gives focal lengths and centres in these parts of a pixel
# Qualisys' camera axes are x right, y up, z backward.
_FLIP = np.diag([1.0, -1.0, -1.0])
_ORTHOGONAL = 1e-3  # largest entry of R R^T - 1 of a rotation
_MALFORMED = (
    TypeError,
    ValueError,
    OverflowError,
    AttributeError,
    RecursionError,
    ElementTree.ParseError,
)


@dataclass(frozen=True)
class Camera:
    """Calibrated camera.

    Attributes:
        name: Name in the calibration, such as `cam01`.
        size: (height, width) of the calibrated image.
        intrinsics: (3, 3), with the centre of the top-left pixel at (0.5, 0.5).
        distortion: Distortion of the lens.
        extrinsics: (3, 4) world to camera, OpenCV axes, metres.
    """

    name: str
    size: tuple[int, int]
    intrinsics: Float64
    distortion: Distortion
    extrinsics: Float64


def calibration_file(folder: Path) -> Path:
    """Return the calibration of a session's folder `calibration`, a TOML file where there is one.

    Raises:
        CovisError: There is none, or more than one of a kind.
    """
    for pattern in (_TOML, _QUALISYS):
        found = listed(folder, pattern)
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise user_error(
                f"has {len(found)} calibrations ({names})", where=folder, hint="keep one of them"
            )
        if found:
            return found[0]
    raise not_there("neither a calibration as .toml nor as .qca.txt in it", folder)


def read_calibration(path: Path) -> list[Camera]:
    """Read the cameras of a calibration in their order.

    Raises:
        CovisError: The file is missing or damaged, or a camera is of a kind that is not read.
    """
    text = read_text(path)
    read = _read_toml if path.suffix == ".toml" else _read_qualisys
    try:
        cameras = read(text, path)
        for camera in cameras:
            _check(camera)
    except KeyError as error:
        raise damaged(path, f"no {error}") from error
    except _MALFORMED as error:
        raise damaged(path, first_line(error)) from error
    if not cameras:
        raise damaged(path, "no camera")
    return cameras


def _check(camera: Camera) -> None:
    """Refuse a camera whose image cannot be undistorted."""
    values = np.concatenate([camera.intrinsics.ravel(), camera.extrinsics.ravel()])
    lens = np.array(list(vars(camera.distortion).values()))
    focal = camera.intrinsics[[0, 1], [0, 1]]
    if not (np.isfinite(values).all() and np.isfinite(lens).all() and (focal > 0).all()):
        raise ValueError(f"{camera.name}: its numbers are not those of a camera")
    if min(camera.size) < 1:
        raise ValueError(f"{camera.name}: a size of {camera.size[1]} x {camera.size[0]}")
    with np.errstate(all="ignore"):  # absurd numbers overflow, and are refused
        whole = camera.distortion.invertible(largest_radius(camera.intrinsics, camera.size))
    if not whole:
        raise ValueError(f"{camera.name}: its distortion folds the image over")


def _read_toml(text: str, path: Path) -> list[Camera]:
    """Read a table for each camera; the rotation is a Rodrigues vector, world to camera."""
    out = []
    for key, table in tomllib.loads(text).items():
        if key in _NO_CAMERAS or not isinstance(table, dict):
            continue
        name = str(table.get("name", key))
        if table.get("fisheye", False):
            raise user_error(f"{name} is a fisheye camera", where=path, hint="it is not read")
        lens = np.array(table["distortions"], np.float64)
        if lens.shape not in ((4,), (5,)):
            raise ValueError(f"{name}: distortions of shape {lens.shape}, not 4 or 5 numbers")
        width, height = _shaped(table, "size", (2,))
        matrix = _shaped(table, "matrix", (3, 3))
        if not (matrix[2] == [0, 0, 1]).all() or matrix[0, 1] or matrix[1, 0]:
            raise ValueError(f"{name}: matrix is not that of a camera without skew")
        pose = np.concatenate(
            [
                rotation_of(_shaped(table, "rotation", (3,))),
                _shaped(table, "translation", (3,))[:, None],
            ],
            axis=1,
        )
        # OpenCV's pixels have their centres at whole numbers.
        intrinsics = matrix + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
        out.append(Camera(name, (round(height), round(width)), intrinsics, Distortion(*lens), pose))
    return out


def _shaped(table: dict[str, Any], key: str, shape: tuple[int, ...]) -> Float64:
    found = np.array(table[key], np.float64)
    if found.shape != shape or not np.isfinite(found).all():
        raise ValueError(f"{key} is not {' x '.join(map(str, shape))} finite numbers")
    return found


def rotation_of(vector: Float64) -> Float64:
    """Return the rotation (3, 3) about an axis by an angle, its vector's length (Rodrigues 1840).

    R = 1 + sin(a) / a [v] + (1 - cos(a)) / a^2 [v]^2, where [v] w = v x w.
    """
    angle = float(np.linalg.norm(vector))
    x, y, z = vector
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    # sinc(a / pi) = sin(a) / a, also at 0.
    first, half = np.sinc(angle / np.pi), np.sinc(angle / (2 * np.pi))
    return np.asarray(np.eye(3) + first * cross + 0.5 * half**2 * cross @ cross)


def _read_qualisys(text: str, path: Path) -> list[Camera]:
    """Read the video cameras of Qualisys Track Manager's XML, in natural order of their names.

    Rows of `transform` are the camera's axes in the world, and x, y, z its place in millimetres.
    Pixels have their centres at whole numbers: a sensor of n columns ends at column n - 1.
    """
    if re.search("<!(DOCTYPE|ENTITY)", text):  # entities can expand without limit
        raise ValueError("it declares entities")
    out = []
    for element in ElementTree.fromstring(text).iterfind("cameras/camera"):
        model = element.attrib.get("model", "").lower()
        if "video" not in model and model != "none":
            continue  # a camera that sees markers alone
        name = element.attrib["serial"]
        if float(element.attrib.get("viewrotation", 0)) != 0:
            raise user_error(
                f"{name} has a viewrotation", where=path, hint="calibrate with unrotated images"
            )
        number = {
            part: _numbers(element, part).__getitem__
            for part in ("fov_video", "transform", "intrinsic")
        }
        out.append(_qualisys_camera(name, **number))
    key = natsort_keygen()
    return sorted(out, key=lambda camera: key(camera.name))


def _numbers(camera: ElementTree.Element, part: str) -> dict[str, float]:
    element = camera.find(part)
    if element is None:
        raise KeyError(part)
    found = {key: float(value) for key, value in element.attrib.items()}
    if not np.isfinite(list(found.values())).all():
        raise ValueError(f"{part} has a number that is not finite")
    return found


_Number = Callable[[str], float]


def _qualisys_camera(
    name: str, fov_video: _Number, transform: _Number, intrinsic: _Number
) -> Camera:
    left, top = fov_video("left"), fov_video("top")
    size = (round(fov_video("bottom") - top + 1), round(fov_video("right") - left + 1))
    if intrinsic("skew") != 0:
        raise ValueError(f"{name}: skew is not read")
    matrix = pinhole(
        intrinsic("focalLengthU") / _SUBPIXELS,
        intrinsic("focalLengthV") / _SUBPIXELS,
        intrinsic("centerPointU") / _SUBPIXELS - left + 0.5,
        intrinsic("centerPointV") / _SUBPIXELS - top + 0.5,
    )
    axes = np.array([[transform(f"r{i}{j}") for j in (1, 2, 3)] for i in (1, 2, 3)])
    if not np.abs(axes @ axes.T - np.eye(3)).max() < _ORTHOGONAL:
        raise ValueError(f"{name}: transform is not a rotation")
    rotation = _FLIP @ axes
    place = np.array([transform(axis) for axis in "xyz"]) / 1000
    distortion = Distortion(
        intrinsic("radialDistortion1"),
        intrinsic("radialDistortion2"),
        intrinsic("tangentalDistortion1"),
        intrinsic("tangentalDistortion2"),
        intrinsic("radialDistortion3"),
    )
    extrinsics = np.concatenate([rotation, -(rotation @ place)[:, None]], axis=1)
    return Camera(name, size, matrix, distortion, extrinsics)
