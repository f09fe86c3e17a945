"""`images/`: an upright image of each view, at the size that its camera is for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import user_error
from covis.engines.system.files import copy_file
from covis.runtime.photos.decode import title_of, upright_rgb
from covis.runtime.photos.files import check_file
from covis.runtime.photos.masks import photo_mask, usable
from covis.runtime.scene.scene import Scene
from covis.runtime.scene.writers.folder import IMAGES, SceneFolder, each_view
from covis.runtime.scene.writers.masks import save_mask

if TYPE_CHECKING:
    from PIL import Image as PilImage


def write_images(folder: SceneFolder) -> list[Path]:
    """Write the image of each view, and its mask, because both come from one decoded photo.

    A photo whose stored pixels are what every reader should see is copied byte for byte. Others
    are written again upright, in 8-bit RGB, with transparent parts on white: JPEG of quality 95
    without chroma subsampling where the photo was compressed with loss, PNG otherwise.
    """
    if folder.frames.origin == "none":
        return []
    (folder.place / IMAGES).mkdir()
    masked = each_view(folder, _write_view)
    folder.masked.update(view for view, found in enumerate(masked) if found)
    return [folder.place / IMAGES / name for name in folder.frames.names]


def _write_view(folder: SceneFolder, view: int) -> bool:
    """Write one image and, if masks are asked for, its mask; return whether it has one."""
    mask = _write_image(folder, view)
    if mask is not None and "masks" in folder.options.parts:
        save_mask(folder, view, mask)
    return mask is not None


def _write_image(folder: SceneFolder, view: int) -> NDArray[np.bool_] | None:
    """Write one image; return its mask, None where all pixels may be used."""
    scene, frames = folder.scene, folder.frames
    target = folder.place / IMAGES / frames.names[view]
    if frames.origin == "model" or scene.sources is None:
        _save(_model_image(scene, view), target)
        return None if scene.valid[view].all() else scene.valid[view]
    photo = scene.sources[view]
    mask_path = scene.mask_paths[view] if scene.mask_paths is not None else None
    if frames.copied[view]:
        check_file(Path(photo))
        copy_file(Path(photo), target)
        return None if mask_path is None else photo_mask(photo, mask_path, view)
    upright = upright_rgb(photo, view)
    if upright.image.size != tuple(frames.sizes[view][::-1].tolist()):
        raise user_error(
            "has changed since it was read",
            where=title_of(photo, view),
            hint="run again with photos that nothing else writes to",
        )
    _save(upright.image, target)
    return usable(upright, mask_path)


def _model_image(scene: Scene, view: int) -> PilImage.Image:
    from PIL import Image

    assert scene.images is not None
    pixels = scene.images[view].transpose(1, 2, 0)
    if pixels.dtype != np.uint8:
        pixels = np.rint(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8)
    return Image.fromarray(pixels)


def _save(image: PilImage.Image, target: Path) -> None:
    if target.suffix == ".jpg":
        image.save(target, quality=95, subsampling=0)
    else:
        image.save(target, compress_level=3)
