"""Read COLMAP models through pycolmap."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from covis.engines.errors import environment_error
from covis.evaluation.datasets.files import damaged, not_there
from covis.evaluation.metrics.pose import Float64

_PINHOLE = ("SIMPLE_PINHOLE", "PINHOLE")


class View(NamedTuple):
    """Image of a model: name, world-to-camera pose (3, 4), and pycolmap's camera."""

    name: str
    extrinsics: Float64
    camera: Any


def read_model(folder: Path) -> list[View]:
    """Read the registered images of a sparse model, text or binary, by name.

    COLMAP's cameras and pixels follow the same conventions as covis.

    Raises:
        CovisError: Pycolmap is not installed, or the model is missing or damaged.
    """
    try:
        import pycolmap
    except ImportError as error:
        raise environment_error(
            f"COLMAP models need pycolmap ({error})", hint="pip install 'covis[eval]'"
        ) from error
    if not any((folder / f"cameras.{suffix}").is_file() for suffix in ("txt", "bin")):
        raise not_there("no cameras.txt or cameras.bin in it", folder)
    try:
        model = pycolmap.Reconstruction(str(folder))
    except Exception as error:  # pycolmap raises RuntimeError, ValueError, IndexError and others
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise damaged(folder, reason[:200]) from error
    views = [
        View(image.name, _pose(image), _copy(image.camera))
        for image in model.images.values()
        if image.has_pose
    ]
    return sorted(views, key=lambda view: view.name)


def _copy(camera: Any) -> Any:
    """Copy a camera, because the model frees its own, and access would then crash."""
    return type(camera)(
        model=camera.model.name,
        width=int(camera.width),
        height=int(camera.height),
        params=[float(value) for value in camera.params],
    )


def _pose(image: Any) -> Float64:
    # A property up to pycolmap 3.11, a method since then.
    pose = image.cam_from_world
    return np.asarray((pose() if callable(pose) else pose).matrix(), np.float64)


def intrinsics(views: list[View]) -> Float64 | None:
    """Return intrinsics (M, 3, 3) of pinhole cameras; None where a camera has distortion."""
    if not views or any(view.camera.model.name not in _PINHOLE for view in views):
        return None
    return np.stack([np.asarray(view.camera.calibration_matrix()) for view in views])
