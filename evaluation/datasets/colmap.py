"""COLMAP models, through pycolmap."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from covis.engines.errors import environment_error
from covis.evaluation.datasets.files import damaged, not_there
from covis.evaluation.metrics.pose import Float64

_PINHOLE = ("SIMPLE_PINHOLE", "PINHOLE")


class View(NamedTuple):
    """An image of a model: its name, world to camera (3, 4), and pycolmap's camera."""

    name: str
    extrinsics: Float64
    camera: Any


def read_model(folder: Path) -> list[View]:
    """The registered images of a sparse model, text or binary, by name.

    COLMAP's cameras and pixels follow the same conventions as ours.

    Raises:
        CovisError: pycolmap is not installed; the model is missing or damaged.
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
    """A camera of its own: the model's go with the model, and touching one then is a crash."""
    return type(camera)(
        model=camera.model.name,
        width=int(camera.width),
        height=int(camera.height),
        params=[float(value) for value in camera.params],
    )


def _pose(image: Any) -> Float64:
    # A property up to pycolmap 3.11, a method since.
    pose = image.cam_from_world
    return np.asarray((pose() if callable(pose) else pose).matrix(), np.float64)


def intrinsics(views: list[View]) -> Float64 | None:
    """(M, 3, 3) where all cameras are pinholes; None otherwise, as a matrix would not be all."""
    if not views or any(view.camera.model.name not in _PINHOLE for view in views):
        return None
    return np.stack([np.asarray(view.camera.calibration_matrix()) for view in views])
