"""`masks/`: the pixels of each image that may be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from covis.runtime.scene.writers.folder import MASKS, SceneFolder, each_view


def write_masks(folder: SceneFolder) -> list[Path]:
    """Write 8-bit grey PNG at the size of the images: 255 where a pixel may be used, 0 where not.

    If any view has transparent pixels or a mask of the user, every view gets a file, because
    nerfstudio takes masks for all views or for none; otherwise there is no folder.
    """
    if not folder.masks:
        return []
    (folder.place / MASKS).mkdir()
    return each_view(folder, _write_mask)


def _write_mask(folder: SceneFolder, view: int) -> Path:
    from PIL import Image

    height, width = folder.frames.sizes[view].tolist()
    grey: NDArray[np.uint8] = np.full((height, width), 255, np.uint8)
    if view in folder.masks:
        used = np.unpackbits(folder.masks[view], count=height * width)
        grey = used.reshape(height, width) * np.uint8(255)
    path = folder.place / folder.mask_name(view)
    Image.fromarray(grey).save(path)
    return path
