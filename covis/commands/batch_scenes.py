"""Scenes of `covis batch`: found among folders, with different names, and their photos compared."""

from __future__ import annotations

import contextlib
import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from covis.engines.errors import printable, user_error
from covis.runtime.photos.options import PhotoOptions

FILES = ("batch.json", "batch.csv")
"""Files of a batch beside the folders of its scenes."""


@dataclass(frozen=True)
class BatchScene:
    """Scene of a batch.

    Attributes:
        name: Name of the scene and of its folder in the output.
        source: Folder of its photos, or a video.
    """

    name: str
    source: Path


def find_scenes(sources: Sequence[Path], out: Path, *, each: bool) -> list[BatchScene]:
    """List the scenes of a batch, named after their folders.

    Args:
        sources: Folders of photos, or videos.
        out: Folder of the results, which is no scene.
        each: The sources are folders of such folders; each of these is a scene. Hidden ones are
            left out.

    Raises:
        CovisError: Something is missing, is no folder and no video, has no name or no scene, or two
            scenes would have the same folder, also where a file system knows no case.
    """
    from natsort import natsorted, ns

    if not sources:
        raise user_error("no scene is given", where="SCENES", hint="give folders of photos")
    places: list[Path] = []
    for source in sources:
        if not each:
            places.append(source)
            continue
        if not source.is_dir():
            raise user_error(
                "is no folder" if source.exists() else "no such folder",
                where=source,
                hint="with --each, give a folder that has a folder for each scene",
            )
        results = out.resolve()
        inner = [
            path
            for path in source.iterdir()
            if path.is_dir() and path.name[0] != "." and path.resolve() != results
        ]
        if not inner:
            raise user_error(
                "has no folder in it", where=source, hint="leave out --each for a single scene"
            )
        places += natsorted(inner, key=lambda path: path.name, alg=ns.IGNORECASE)
    scenes = [_scene(place) for place in places]
    taken: dict[str, Path] = {name: Path() for name in FILES}
    for scene in scenes:
        key = unicodedata.normalize("NFC", scene.name).casefold()
        if key in taken:
            other = printable(taken[key]) if taken[key].name else "the table of the batch"
            raise user_error(
                f"would be written to the same place as {other}",
                where=scene.source,
                hint="rename one of the folders, or give it in a batch with another --out",
            )
        taken[key] = scene.source
    return scenes


def _scene(place: Path) -> BatchScene:
    from covis.runtime.photos.selection import is_video

    if not place.exists():
        raise user_error("no such folder", where=place, hint="check the path")
    if not place.is_dir() and not is_video(place):
        raise user_error(
            "is no folder of photos and no video",
            where=place,
            hint="a scene is a folder; `covis run` takes single photos",
        )
    path = place.absolute()
    name = path.resolve().name if path.name == ".." else path.name
    if not name:
        raise user_error("has no name for a scene", where=place, hint="name a folder below it")
    return BatchScene(name if place.is_dir() else path.stem, path)


def photo_digest(source: Path, choice: PhotoOptions) -> str:
    """Return a digest of the names, sizes and times of a scene's photos, without reading them.

    Raises:
        CovisError: There is no photo.
    """
    from covis.runtime.photos.find import find

    lines = []
    for photo in find(source, choice.masks).photos:
        assert isinstance(photo, Path)
        with contextlib.suppress(OSError):  # a photo that goes meanwhile is an error of the run
            facts = photo.stat()
            name = photo.relative_to(source).as_posix() if photo != source else photo.name
            lines.append(f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
