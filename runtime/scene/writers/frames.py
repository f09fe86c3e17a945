"""Images of a scene folder and the cameras for them: full-size photos, or the model's images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import CovisError
from covis.runtime.scene.geometry import Float64
from covis.runtime.scene.scene import Scene
from covis.runtime.scene.writers.names import safe_names

# Photos of these formats have lost nothing to compression, and become PNG, which loses nothing.
_LOSSLESS = frozenset({".png", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".pnm", ".tga", ".gif"})


@dataclass(frozen=True)
class Frames:
    """Images of a scene folder, all upright, and the cameras for them.

    Attributes:
        names: M names of files in `images/`.
        sizes: (M, 2) heights and widths of these files.
        intrinsics: (M, 3, 3) in pixels of these files.
        origin: `photos`: the photos at full size. `model`: the model's images, of a scene whose
            photos are unknown or gone. `none`: there are no images; the cameras are for the photos.
        copied: For each view, True if the bytes of its photo file are copied.
    """

    names: tuple[str, ...]
    sizes: NDArray[np.int64]
    intrinsics: Float64
    origin: Literal["photos", "model", "none"]
    copied: tuple[bool, ...]


def frames_of(scene: Scene) -> tuple[Frames, str | None]:
    """Decide which images the folder of `scene` gets; the line says why, if not the photos."""
    M = len(scene)
    reason = _photos_missing(scene)
    original = scene.original_sizes.astype(np.int64), scene.intrinsics_original.astype(np.float64)
    if reason is None and scene.sources is not None:
        copied, suffixes = zip(*(_form(photo) for photo in scene.sources), strict=True)
        return Frames(safe_names(scene.names, suffixes), *original, "photos", copied), None
    names = safe_names(scene.names, [".png"] * M)
    if scene.images is None:
        note = f"{reason}; the scene has no images of its own, so images/ is left out"
        return Frames(names, *original, "none", (False,) * M), note
    sizes = np.tile(np.array(scene.image_size, np.int64), (M, 1))
    frames = Frames(names, sizes, scene.intrinsics.astype(np.float64), "model", (False,) * M)
    return frames, f"{reason}; images/ and its cameras are at the model's size instead"


def _photos_missing(scene: Scene) -> str | None:
    """Return why the photos cannot be taken at full size; None if they can."""
    from covis.runtime.photos.decode import header_size, quiet_pillow, title_of
    from covis.runtime.photos.files import stamp

    if scene.sources is None:
        return "the scene does not know its photos"
    stamps = scene.stamps or (None,) * len(scene)
    with quiet_pillow():
        for index, (photo, before) in enumerate(zip(scene.sources, stamps, strict=True)):
            title = title_of(photo, index)
            try:
                size = header_size(photo, index)
            except CovisError as error:
                return f"a photo has changed since it was read ({error})"
            if before is not None and stamp(photo) != before:
                return f"{title} has changed since it was read"
            if size != tuple(scene.original_sizes[index]):
                return f"{title} has another size than when it was read"
    for mask in scene.mask_paths or ():
        if mask is not None and not mask.is_file():
            return f"{mask} has gone since it was read"
    return None


def _form(photo: Any) -> tuple[bool, str]:
    """Return whether a photo's bytes are copied, and the suffix of its file in the folder."""
    from covis.runtime.photos.decode import copyable_as

    if isinstance(photo, (str, Path)):
        suffix = copyable_as(Path(photo))
        if suffix is not None:
            return True, suffix
        return False, ".png" if Path(photo).suffix.lower() in _LOSSLESS else ".jpg"
    # Arrays are taken as lossless; frames of a video and decoded JPEG are not.
    lossy = hasattr(photo, "decode") or getattr(photo, "format", None) in ("JPEG", "MPO", "WEBP")
    return False, ".jpg" if lossy else ".png"
