"""Stereodemo: rectified stereo pairs of rooms, of the Python package of that name (N. Burrus)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from covis.engines.errors import user_error
from covis.evaluation.datasets.files import (
    PHOTOS,
    damaged,
    folders,
    listed,
    not_there,
    photo_size,
    pinhole,
    read_json,
    settings,
)
from covis.evaluation.datasets.truth import GroundTruth, SceneRef
from covis.evaluation.metrics.pose import Float64

_CALIBRATIONS = ("stereodemo_calibration.json", "stereo_calibration.json")
# What the names of the two photos of a pair differ in.
_SIDES = (("left", "right"), ("im0", "im1"))


@dataclass(frozen=True)
class Stereodemo:
    """Folders with `stereodemo_calibration.json` and `NAME_left.png`, `NAME_right.png` beside it.

    The package has twelve pairs in `stereodemo/datasets/oak-d`, its repository more (there
    `im0.png` and `im1.png`, and `stereo_calibration.json` in one folder). The pairs are rectified:
    both cameras have the same axes, and the right one stands `baseline_meters` along x. The
    calibration has `fx`, `fy` and `cy` for both, and `cx0` (left) and `cx1` (right), in pixels of
    photos of `width` x `height`, counted from the centre of the first pixel, as OpenCV does. There
    is no depth. Groups are the folders, the unit is metres.

    Attributes:
        paths: Folders; pairs are searched in them and in all folders below.
    """

    paths: tuple[str, ...]
    name: str = "stereodemo"

    def settings(self) -> dict[str, object]:
        """Return the settings that distinguish two copies of the dataset."""
        return settings(self.paths)

    def scenes(self) -> list[SceneRef]:
        """List the pairs, as oak-d/desk."""
        out = []
        for root in folders(self.paths):
            homes = sorted({path.parent for name in _CALIBRATIONS for path in root.rglob(name)})
            found = [ref for home in homes for ref in self._pairs(home.resolve())]
            if not found:
                raise not_there(f"no {_CALIBRATIONS[0]} with a pair of photos in it", root)
            out += found
        return out

    def _pairs(self, home: Path) -> list[SceneRef]:
        out = []
        for path in listed(home):
            names = _names(path.stem) if path.suffix.lower() in PHOTOS else None
            if names is not None:
                group, pair = (home, names.pair) if names.pair else (home.parent, home.name)
                out.append(SceneRef(f"{group.name}/{pair}", group.name, path))
        return out

    def load(self, ref: SceneRef) -> GroundTruth:
        """Load the left and the right view of a pair."""
        left: Path = ref.key
        images = (left, _partner(left))
        intrinsics, baseline, size = _calibration(left.parent)
        for image in images:
            stored = photo_size(image)
            if stored != size:
                raise user_error(
                    f"has {stored[1]} x {stored[0]} pixels, its calibration {size[1]} x {size[0]}",
                    where=image,
                    hint="get the photo anew, at the size that was calibrated",
                )
        extrinsics = np.tile(np.eye(3, 4), (2, 1, 1))
        extrinsics[1, 0, 3] = -baseline
        return GroundTruth(
            scene=ref,
            images=images,
            extrinsics=extrinsics,
            intrinsics=intrinsics,
            frames=np.arange(2),
        )


class _Names(NamedTuple):
    """Name of a pair, empty where the folder names it, and stem of the right camera's photo."""

    pair: str
    right: str


def _names(left: str) -> _Names | None:
    """Return the names that belong to the stem of a left photo; None where it is none."""
    for one, other in _SIDES:
        before, found, after = left.rpartition(one)
        if found:
            return _Names((before + after).strip("_-. "), before + other + after)
    return None


def _partner(left: Path) -> Path:
    """Return the photo of the right camera that belongs to one of the left camera."""
    names = _names(left.stem)
    assert names is not None
    for suffix in (left.suffix, *PHOTOS):
        path = left.with_name(names.right + suffix)
        if path.is_file():
            return path
    raise not_there(f"no {names.right}{left.suffix} beside it", left)


def _calibration(home: Path) -> tuple[Float64, float, tuple[int, int]]:
    """Read intrinsics (2, 3, 3) of left and right, the baseline, and the size (height, width)."""
    path = next((home / name for name in _CALIBRATIONS if (home / name).is_file()), None)
    if path is None:
        raise not_there(f"no {_CALIBRATIONS[0]} in it", home)
    found: Any = read_json(path)
    names = ("width", "height", "fx", "fy", "cx0", "cx1", "cy", "baseline_meters")
    try:
        width, height, fx, fy, cx0, cx1, cy, baseline = (float(found[name]) for name in names)
    except KeyError as error:
        raise damaged(path, f"no number {error}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise damaged(path, str(error)) from error
    values = np.array([width, height, fx, fy, baseline])
    if not (np.isfinite([*values, cx0, cx1, cy]).all() and (values > 0).all()):
        raise damaged(path, "sizes, focal lengths and baseline are not all positive and finite")
    intrinsics = np.stack([pinhole(fx, fy, cx + 0.5, cy + 0.5) for cx in (cx0, cx1)])
    return intrinsics, baseline, (round(height), round(width))
