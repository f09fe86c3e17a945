"""Names of the views of a scene, and lists of names in lines for the user."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from covis.engines.errors import printable
from covis.runtime.photos.video import VideoFrame

if TYPE_CHECKING:
    from covis.runtime.photos.decode import Photo

_MOST_NAMES, _MOST_LETTERS = 4, 60


def names_of(photos: Sequence[Photo], base: Path | None = None) -> tuple[str, ...]:
    """Return different names of photos, which a file system of any kind keeps apart.

    Args:
        photos: Photos of any kind; a frame has a name of its own in the place of its video.
        base: Folder to which names are relative. By default names are file names, or paths below
            the common folder where file names repeat.
    """
    files = [file_of(photo) for photo in photos]
    if base is None:
        names = [f"view_{i:04d}" if p is None else p.name for i, p in enumerate(files)]
        if len(set(names)) < len(names) and all(p is not None for p in files):
            absolute = [p.absolute() for p in files if p is not None]
            common = os.path.commonpath([p.parent for p in absolute])
            names = [p.relative_to(common).as_posix() for p in absolute]
    else:
        names = [p.relative_to(base).as_posix() for p in files if p is not None]
    return _different(names)


def file_of(photo: Photo) -> Path | None:
    """Return the path of a photo, and for a frame a path beside its video; else None."""
    if isinstance(photo, VideoFrame):
        return photo.path.with_name(photo.name)
    return Path(photo) if isinstance(photo, (str, os.PathLike)) else None


def _different(names: Sequence[str]) -> tuple[str, ...]:
    """Number names that repeat, also where they differ only in letter case or in composition.

    A scene may contain the same photo twice, and its views still need different files.
    """
    taken: set[str] = set()
    different = []
    for name in names:
        stem, dot, suffix = name.rpartition(".") if "." in name else (name, "", "")
        unique, count = name, 1
        while (key := unicodedata.normalize("NFC", unique).casefold()) in taken:
            count += 1
            unique = f"{stem} ({count}){dot}{suffix}"
        taken.add(key)
        different.append(unique)
    return tuple(different)


def enumerated(names: Sequence[str]) -> str:
    """Return the first names and the number of the others: "a, b and 3 more", bounded in length."""
    shown = [shortened(name) for name in names[:_MOST_NAMES]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def shortened(name: str) -> str:
    """Return a name as one safe line, bounded in length."""
    safe = printable(name)
    return safe if len(safe) <= _MOST_LETTERS else f"{safe[: _MOST_LETTERS - 1]}…"
