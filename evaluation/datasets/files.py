"""Read the files of datasets, with a one-line error for each that is missing or damaged."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from natsort import natsort_keygen
from numpy.typing import NDArray

from covis.engines.errors import CovisError, environment_error, user_error
from covis.engines.system.signals import signals_deferred
from covis.evaluation.datasets.truth import DepthArray
from covis.evaluation.metrics.pose import Float64

PHOTOS = (".jpg", ".jpeg", ".png")


def folders(paths: Sequence[str]) -> list[Path]:
    """Return the paths as existing folders.

    Raises:
        CovisError: One does not exist.
    """
    found = [Path(path) for path in paths]
    for path in found:
        if not path.is_dir():
            raise user_error("no such folder", where=path, hint="say where the dataset is")
    return found


def settings(paths: Sequence[str]) -> dict[str, object]:
    """Return the settings that distinguish two copies of a dataset: their folders."""
    return {"paths": [str(Path(path).resolve()) for path in paths]}


def not_there(what: str, where: Path | str) -> CovisError:
    """Return the error for a missing part of a dataset."""
    return user_error(f"is missing: {what}", where=where, hint="get the dataset anew")


def damaged(where: Path | str, why: str) -> CovisError:
    """Return the error for a damaged file."""
    return user_error(f"is damaged ({why})", where=where, hint="get the file anew")


def listed(folder: Path, pattern: str = "*") -> list[Path]:
    """List a folder in natural order (img2 before img10), without hidden files."""
    try:
        found = [path for path in folder.glob(pattern) if not path.name.startswith(".")]
    except OSError as error:
        raise environment_error(
            f"cannot be read ({error.strerror or error})", where=folder, hint="check its rights"
        ) from error
    key = natsort_keygen()
    return sorted(found, key=lambda path: (key(path.name), path.name))


def photos_in(folder: Path, stem: str = "*") -> list[Path]:
    """List the photos of a folder whose stems match, in natural order.

    Raises:
        CovisError: There is none.
    """
    found = [path for path in listed(folder, f"{stem}.*") if path.suffix.lower() in PHOTOS]
    if not found:
        raise not_there("no photo in it", folder)
    return found


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        CovisError: It is missing or is not text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise not_there("no such file", path) from None
    except UnicodeDecodeError as error:
        raise damaged(path, "no text") from error
    except OSError as error:
        raise user_error(f"cannot be read ({error.strerror or error})", where=path) from error


def read_numbers(path: Path) -> Float64:
    """Read all numbers of a text file as one row; `nan`, `inf` and `-inf` are numbers.

    Raises:
        CovisError: It is missing, or contains anything else.
    """
    return numbers(read_text(path), path)


def numbers(text: str, where: Path | str) -> Float64:
    """Read numbers that are separated by blanks.

    Raises:
        CovisError: The text contains anything else.
    """
    try:
        return np.array([float(word) for word in text.split()])
    except ValueError as error:
        raise damaged(where, str(error)) from error


def read_matrix(path: Path, rows: int, columns: int) -> Float64:
    """Read a matrix from a text file.

    Raises:
        CovisError: It is missing, or has another number of entries.
    """
    found = read_numbers(path)
    if found.size != rows * columns:
        raise damaged(path, f"{found.size} numbers, not {rows} x {columns}")
    return found.reshape(rows, columns)


def read_json(path: Path) -> Any:
    """Read a JSON file; the suffixes `.jgz` and `.gz` mean gzip.

    Raises:
        CovisError: It is missing or damaged.
    """
    try:
        data = path.read_bytes()
        return json.loads(gzip.decompress(data) if path.suffix in (".jgz", ".gz") else data)
    except FileNotFoundError:
        raise not_there("no such file", path) from None
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged(path, str(error)) from error
    except OSError as error:
        raise user_error(f"cannot be read ({error.strerror or error})", where=path) from error


def photo_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of a photo, from its header."""
    from covis.runtime.photos.images import photo_sizes

    return photo_sizes([path])[0]


def to_extrinsics(camera_to_world: Float64) -> Float64:
    """Convert poses (M, 4, 4) to world to camera (M, 3, 4); NaN where a pose is not finite.

    The rotation is inverted by transposition, because with few digits it is not exactly one.
    """
    rotation = camera_to_world[:, :3, :3].transpose(0, 2, 1)
    with np.errstate(invalid="ignore"):
        translation = -np.einsum("mij,mj->mi", rotation, camera_to_world[:, :3, 3])
    out = np.concatenate([rotation, translation[:, :, None]], axis=2)
    out[~np.isfinite(camera_to_world).all(axis=(1, 2))] = np.nan
    return out


def pinhole(fx: float, fy: float, cx: float, cy: float) -> Float64:
    """Build the intrinsics (3, 3) of a pinhole camera."""
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def read_cloud(path: Path) -> Float64:
    """Read the points (N, 3) of a PLY file.

    Raises:
        CovisError: It is missing or damaged.
    """
    with signals_deferred():
        import trimesh

    if not path.is_file():
        raise not_there("no such file", path)
    try:
        # A PLY may name a texture; no file but this one is opened.
        cloud = trimesh.load(path, file_type="ply", process=False, skip_materials=True)
        points = np.asarray(cloud.vertices, np.float64)
    except Exception as error:  # the parsers of trimesh raise any exception
        raise damaged(path, str(error).splitlines()[0] if str(error) else "no PLY") from error
    return points[np.isfinite(points).all(axis=1)]


def read_png16(path: Path) -> NDArray[np.uint16]:
    """Read a 16-bit grey PNG (h, w).

    Raises:
        CovisError: It is missing, damaged, or of another kind.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=["PNG"]) as image:
            array = np.asarray(image)
    except FileNotFoundError:
        raise not_there("no such file", path) from None
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise damaged(path, str(error)) from error
    if array.ndim != 2 or array.dtype not in (np.uint16, np.int32):
        raise damaged(path, f"{array.dtype} {array.shape} is no 16-bit depth image")
    return array.astype(np.uint16)


@dataclass(frozen=True)
class PngDepth:
    """Sampler of a 16-bit depth PNG, which is read at each call.

    Attributes:
        path: PNG file.
        unit: Unit of its numbers, in units of the cameras.
        unknown: Numbers that mean no depth, besides 0.
        to_depth: Map (3, 3) from pixels of the photo to those of the depth image; None where both
            show the same, in any size.
        photo: Size (height, width) of the photo, where `to_depth` is None.
    """

    path: Path
    unit: float
    unknown: tuple[int, ...] = ()
    to_depth: Float64 | None = None
    photo: tuple[int, int] | None = None

    def __call__(self, pixels: Float64) -> Float64:
        """Return the depth at pixels (N, 2) of the photo."""
        raw = read_png16(self.path)
        depth = raw * self.unit
        for value in self.unknown:
            depth[raw == value] = 0.0
        return DepthArray(depth)(self.moved(pixels, raw.shape))

    def moved(self, pixels: Float64, size: tuple[int, ...]) -> Float64:
        """Return the pixels of a depth image of (height, width) `size` that match the photo's."""
        if self.to_depth is not None:
            homogeneous = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
            moved = homogeneous @ self.to_depth.T
            return np.asarray(moved[:, :2] / moved[:, 2:])
        if self.photo is not None and self.photo != size:
            return np.asarray(pixels * [size[1] / self.photo[1], size[0] / self.photo[0]])
        return pixels
