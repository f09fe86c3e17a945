"""Space on the disk that a scene folder needs at least, checked before the work."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from covis.engines.errors import environment_error
from covis.runtime.scene.writers.options import OutputOptions

# Bytes of each model pixel in scene.npz: image 3, depth 4, its confidence 4, valid 1. Models with a
# point head add 16.
_NPZ_BYTES = 12


def check_space(folder: Path, views: int, size: Sequence[int], options: OutputOptions) -> None:
    """Raise if the disk is too small for the uncompressed part of a scene folder, `scene.npz`.

    The rest depends on the photos and on what the model sees, so a folder that passes may still
    not fit.

    Args:
        folder: Folder to create.
        views: Number of views.
        size: Size (H, W) of the model's images.
        options: Contents of the folder.
    """
    if "npz" not in options.formats:
        return
    least = _NPZ_BYTES * views * size[0] * size[1]
    place = next(path for path in folder.absolute().parents if path.exists())
    with contextlib.suppress(OSError):  # a file system that does not say
        free = shutil.disk_usage(place).free
        if least > free:
            raise environment_error(
                f"scene.npz alone needs {least / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free",
                where=folder,
                hint="free some space, choose another folder, or leave npz out of --formats",
            )
