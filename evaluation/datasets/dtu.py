"""DTU: objects photographed by a robot arm and scanned (Jensen et al., CVPR 2014)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import environment_error
from covis.evaluation.datasets.files import (
    damaged,
    folders,
    listed,
    not_there,
    numbers,
    photos_in,
    read_cloud,
    read_matrix,
    read_text,
    settings,
)
from covis.evaluation.datasets.truth import GroundTruth, Photo, SceneRef
from covis.evaluation.metrics.pose import Float64

_MAX_DISTANCE = 20.0
_LIGHTS = ("max", "3_r5000")


@dataclass(frozen=True)
class Dtu:
    """DTU as published, or in MVSNet's test form.

    - Published ("MVS Data"): `Rectified/scan1/rect_001_max.png` and
      `Calibration/cal18/pos_001.txt`, a projection matrix (3, 4).
    - MVSNet: `scan1/images/00000000.jpg` and `scan1/cams/00000000_cam.txt` (world to camera (4, 4)
      and intrinsics (3, 3)).

    Both with `Points/stl/stl001_total.ply`, the scan. `ObsMask/ObsMask1_10.mat` and
    `ObsMask/Plane1.mat`, where they exist, determine where predictions are judged and which points
    of the scan are demanded (Aanaes et al., IJCV 2016). The unit is millimetres; distances from 20
    on do not count. There is no depth, so points are aligned by the cameras.

    Attributes:
        paths: Folders with the files above.
    """

    paths: tuple[str, ...]
    name: str = "dtu"

    def settings(self) -> dict[str, object]:
        """Return the settings that distinguish two copies of the dataset."""
        return settings(self.paths)

    def scenes(self) -> list[SceneRef]:
        """List the scans, as scan1."""
        out = []
        for root in folders(self.paths):
            base = root / "Rectified" if (root / "Rectified").is_dir() else root
            scans = [s for s in listed(base, "scan*") if re.fullmatch("scan[0-9]+", s.name)]
            if not scans:
                raise not_there("no scan1, scan2, ... in it", base)
            out += [SceneRef(scan.name, self.name, (root, scan)) for scan in scans]
        return out

    def load(self, ref: SceneRef) -> GroundTruth:
        """Load all views of a scan, with one light."""
        root, scan = ref.key
        number = int(scan.name.removeprefix("scan"))
        images, extrinsics, intrinsics = (
            _mvsnet(scan) if (scan / "cams").is_dir() else _published(root, scan)
        )
        stl = root / "Points" / "stl" / f"stl{number:03d}_total.ply"
        masks = root / "ObsMask"
        observed, plane = masks / f"ObsMask{number}_10.mat", masks / f"Plane{number}.mat"
        return GroundTruth(
            scene=ref,
            images=tuple(images),
            extrinsics=extrinsics,
            intrinsics=intrinsics,
            frames=np.arange(len(images)),
            points=read_cloud(stl) if stl.is_file() else None,
            judged=Observed.read(observed) if observed.is_file() else None,
            demanded=AboveTable.read(plane) if plane.is_file() else None,
            max_distance=_MAX_DISTANCE,
            cut_distances=True,
        )


Views = tuple[list[Photo], Float64, Float64]


def _published(root: Path, scan: Path) -> Views:
    for light in _LIGHTS:
        images = listed(scan, f"rect_*_{light}.png")
        if images:
            break
    else:
        raise not_there("no rect_*_max.png in it", scan)
    cameras = []
    for path in images:
        position = path.name.split("_")[1]
        pose = root / "Calibration" / "cal18" / f"pos_{position}.txt"
        cameras.append(decompose(read_matrix(pose, 3, 4)))
    intrinsics, extrinsics = (np.stack(part) for part in zip(*cameras, strict=True))
    return list(images), extrinsics, intrinsics


def _mvsnet(scan: Path) -> Views:
    images, extrinsics, intrinsics = photos_in(scan / "images"), [], []
    for path in images:
        written = scan / "cams" / f"{path.stem}_cam.txt"
        words = re.split(r"extrinsic|intrinsic", read_text(written))
        parts = [numbers(part, written) for part in words[1:]]
        if len(parts) != 2 or parts[0].size != 16 or parts[1].size < 9:
            raise damaged(written, "no extrinsic of 16 and intrinsic of 9 numbers")
        extrinsics.append(parts[0].reshape(4, 4)[:3])
        intrinsics.append(parts[1][:9].reshape(3, 3))
    return list(images), np.stack(extrinsics), np.stack(intrinsics)


def decompose(projection: Float64) -> tuple[Float64, Float64]:
    """Decompose a projection matrix (3, 4) into intrinsics (3, 3) and extrinsics (3, 4).

    RQ decomposition of its left part (Hartley and Zisserman, section 6.2.4), by a QR of the
    reversed matrix; the signs are those of a camera that looks along +z. NaN where the matrix is
    not that of a camera.
    """
    m = projection[:, :3]
    if not np.isfinite(projection).all() or np.linalg.det(m) == 0:
        return np.full((3, 3), np.nan), np.full((3, 4), np.nan)
    if np.linalg.det(m) < 0:
        projection, m = -projection, -m
    reverse = np.eye(3)[::-1]
    q, r = np.linalg.qr((reverse @ m).T)
    k, rotation = reverse @ r.T @ reverse, reverse @ q.T
    signs = np.sign(np.diag(k))
    k, rotation = k * signs, signs[:, None] * rotation
    translation = np.linalg.solve(k, projection[:, 3])
    return k / k[2, 2], np.concatenate([rotation, translation[:, None]], axis=1)


def _mat(path: Path, *names: str) -> list[NDArray[Any]]:
    """Read variables of a MATLAB file."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise environment_error(
            f"DTU's masks need scipy ({error})", hint="pip install 'covis[eval]'"
        ) from error
    try:
        found = loadmat(path, variable_names=names)
        return [np.asarray(found[name]) for name in names]
    except KeyError as error:
        raise damaged(path, f"no {error}") from error
    except Exception as error:  # scipy raises ValueError, TypeError, MatReadError and zlib.error
        raise damaged(path, str(error)) from error


@dataclass(frozen=True)
class Observed:
    """Volume that the scanner observed: voxels of `resolution` millimetres from `low` on."""

    mask: NDArray[np.bool_]
    low: Float64
    resolution: float

    @classmethod
    def read(cls, path: Path) -> Observed:
        """Read ObsMask, the box BB (2, 3) and Res from `ObsMask1_10.mat`."""
        mask, box, resolution = _mat(path, "ObsMask", "BB", "Res")
        if mask.ndim != 3 or box.shape != (2, 3) or resolution.size != 1:
            raise damaged(path, "ObsMask, BB and Res have other shapes")
        return cls(mask.astype(bool), box[0].astype(np.float64), float(resolution.ravel()[0]))

    def __call__(self, points: Float64) -> NDArray[np.bool_]:
        """Return the mask (N,) of the points (N, 3) in an observed voxel."""
        index = np.round((points - self.low) / self.resolution).astype(np.int64)
        inside = ((index >= 0) & (index < self.mask.shape)).all(axis=1)
        found = np.zeros(len(points), bool)
        found[inside] = self.mask[tuple(index[inside].T)]
        return found


@dataclass(frozen=True)
class AboveTable:
    """Half space above the table: points with P . (x, y, z, 1) > 0."""

    plane: Float64

    @classmethod
    def read(cls, path: Path) -> AboveTable:
        """Read P (4, 1) from `Plane1.mat`."""
        (plane,) = _mat(path, "P")
        if plane.size != 4:
            raise damaged(path, "P has other shapes")
        return cls(plane.ravel().astype(np.float64))

    def __call__(self, points: Float64) -> NDArray[np.bool_]:
        """Return the mask (N,) of the points (N, 3) above the table."""
        found: NDArray[np.bool_] = points @ self.plane[:3] + self.plane[3] > 0
        return found
