"""`depth/`: z-depth of each view as an image file, in the pixels of the view's image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import environment_error
from covis.runtime.scene.percentiles import percentiles
from covis.runtime.scene.scene import Scene
from covis.runtime.scene.writers.folder import DEPTH, SceneFolder, each_view
from covis.runtime.scene.writers.options import OutputOptions

MILLIMETRE = 0.001
_TOP = 65_535  # of 16 bits
_FITS = 99.9  # percentage of the valid depths that the unit must be large enough for
_FEWEST_STEPS = 250  # of the median depth: a unit of at most 0.4 % of it


def write_depth(folder: SceneFolder) -> list[Path]:
    """Write z-depth at the size of the images, 0 where there is none; each pixel is the nearest's.

    PNG contains 16-bit integers in the unit of `scene.json`; pixels too far for it become 0. EXR
    contains 32-bit floats in the scene's own unit, in the channel `Z`.
    """
    (folder.place / DEPTH).mkdir()
    png = folder.options.depth_format == "png"
    unit = depth_unit(folder.scene) if png else 1.0
    folder.facts["depth"] = {"format": folder.options.depth_format, "unit": unit}
    far = each_view(folder, lambda here, view: _write_view(here, view, unit if png else None))
    if any(far):
        folder.notes.append(
            f"depth images: {sum(far):,} pixels are farther than {_TOP * unit:g} and are 0; "
            "--depth-format exr has no limit"
        )
    return [folder.place / folder.depth_name(view) for view in range(len(folder.scene))]


def depth_unit(scene: Scene) -> float:
    """Return the length, in the scene's unit, of one step of a 16-bit depth image.

    It is a millimetre in a metric scene. In any other it is the same number, 0.001, which readers
    take by default, unless almost all depths would not fit or would have too few steps; then it is
    the nearest power of ten.
    """

    def depths(view: int) -> NDArray[Any]:
        used: NDArray[Any] = scene.depth[view][scene.valid[view] & (scene.depth[view] > 0)]
        return used

    found = None if scene.metric else percentiles(scene, depths, [50, _FITS])
    if found is None:
        return MILLIMETRE
    middle, far = found.tolist()
    power = -3
    while far > _TOP * 10.0**power:
        power += 1
    while middle < _FEWEST_STEPS * 10.0**power and far <= _TOP * 10.0 ** (power - 1):
        power -= 1
    return 10.0**power


def check_depth_format(options: OutputOptions) -> None:
    """Raise if the library for the format of the depth images is not installed."""
    if "depth" not in options.formats or options.depth_format != "exr":
        return
    try:
        import OpenEXR  # noqa: F401
    except ImportError as error:
        raise environment_error(
            "OpenEXR is not installed",
            where="--depth-format",
            hint="pip install 'covis[exr]'",
        ) from error


def _write_view(folder: SceneFolder, view: int, unit: float | None) -> int:
    """Write one depth image; `unit` None means EXR. Return the number of depths out of range."""
    scene, path = folder.scene, folder.place / folder.depth_name(view)
    used = scene.valid[view] & (scene.depth[view] > 0)
    depth = np.where(used, scene.depth[view], 0.0)
    if unit is None:
        _save_exr(_at_image_size(folder, view, depth.astype(np.float32)), path)
        return 0
    from PIL import Image

    steps = np.rint(depth / unit)
    near = steps <= _TOP
    image = _at_image_size(folder, view, np.where(near, steps, 0.0).astype(np.uint16))
    Image.fromarray(image).save(path, compress_level=1)
    return int(near.size - near.sum())


def _save_exr(depth: NDArray[Any], path: Path) -> None:
    import OpenEXR

    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    try:
        with OpenEXR.File(header, {"Z": depth}) as file:
            file.write(str(path))
    except RuntimeError as error:  # for every failure of the file system
        raise OSError(str(error)) from error


def _at_image_size(folder: SceneFolder, view: int, model: NDArray[Any]) -> NDArray[Any]:
    """Enlarge an array (H, W) to a view's image (height, width), 0 outside the model's image."""
    frames, (H, W) = folder.frames, model.shape
    height, width = frames.sizes[view].tolist()
    K = folder.scene.intrinsics[view].astype(np.float64)
    to_model = K @ np.linalg.inv(frames.intrinsics[view])
    columns = np.floor(to_model[0, 0] * (np.arange(width) + 0.5) + to_model[0, 2])
    rows = np.floor(to_model[1, 1] * (np.arange(height) + 0.5) + to_model[1, 2])
    # A border of zeros, to which all pixels outside the model's image go.
    bordered = np.pad(model, 1)
    inside_rows = np.clip(rows + 1, 0, H + 1).astype(np.int64)
    inside_columns = np.clip(columns + 1, 0, W + 1).astype(np.int64)
    enlarged: NDArray[Any] = bordered[inside_rows[:, None], inside_columns]
    return enlarged
