"""Match the files of a folder of masks with photos by their names."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from covis.engines.errors import user_error
from covis.engines.system.files import walk
from covis.runtime.photos import formats
from covis.runtime.photos.files import io_error
from covis.runtime.photos.names import enumerated, shortened


def match_masks(
    folder: Path, names: Sequence[str]
) -> tuple[tuple[Path | None, ...], tuple[str, ...]]:
    """Find the mask of each photo, and return the masks and notes.

    The mask of `cam1/IMG_1.jpg` is `cam1/IMG_1.jpg.png`, as COLMAP names it, or else `cam1/IMG_1`
    with the suffix of any image format.

    Args:
        folder: Folder of masks, with the folders of the photos inside if these have any.
        names: Names of the photos.

    Raises:
        CovisError: The folder is missing, or no mask has the name of a photo.
    """
    files = {_key(path.relative_to(folder).as_posix()): path for path in _images(folder)}
    by_stem: dict[str, Path] = {}
    for key, path in files.items():
        by_stem.setdefault(_without_suffix(key), path)
    masks = tuple(
        by_stem.get(_key(name)) or by_stem.get(_without_suffix(_key(name))) for name in names
    )
    bare = [name for name, mask in zip(names, masks, strict=True) if mask is None]
    if len(bare) == len(names):
        example = f"{_without_suffix(names[0])}.png for {names[0]}"
        raise user_error(
            f"no file in it is the mask of a photo ({len(files)} images)",
            where=folder,
            hint=f"name masks like their photos, such as {shortened(example)}",
        )
    if not bare:
        return masks, ()
    return masks, (f"{len(bare)} of {len(names)} photos have no mask: {enumerated(bare)}",)


def _images(folder: Path) -> Iterator[Path]:
    """List the image files below a folder, in order."""
    try:
        for here, _, names in walk(folder):
            for name in names:
                path = here / name
                if path.suffix.lower() in formats.SUFFIXES and not name.startswith("."):
                    yield path
    except FileNotFoundError:
        raise user_error("no such folder", where=folder, hint="check the path") from None
    except OSError as error:
        raise io_error(error, folder) from error


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _without_suffix(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()
