"""`masks/`: the pixels of each image that may be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from covis.runtime.scene.writers.folder import SceneFolder, each_view


def write_masks(folder: SceneFolder) -> list[Path]:
    """Write 8-bit grey PNG at the size of the images: 255 where a pixel may be used, 0 where not.

    If any view has transparent pixels or a mask of the user, every view gets a file, because
    nerfstudio takes masks for all views or for none; otherwise there is no folder. The masks
    themselves come from the writer of the images; this adds those of the other views.
    """
    if not folder.masked:
        return []
    return each_view(folder, _write_rest)


def save_mask(folder: SceneFolder, view: int, used: NDArray[np.bool_]) -> Path:
    """Write the mask (height, width) of one view, True where a pixel may be used."""
    from PIL import Image

    path = folder.place / folder.mask_name(view)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(used.astype(np.uint8) * np.uint8(255)).save(path)
    return path


def _write_rest(folder: SceneFolder, view: int) -> Path:
    if view in folder.masked:
        return folder.place / folder.mask_name(view)
    return save_mask(folder, view, np.ones(tuple(folder.frames.sizes[view].tolist()), np.bool_))
