"""List the photos and videos of a folder or of the folders in it, and name what is not taken."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from covis.engines.errors import CovisError, environment_error, printable, user_error
from covis.engines.system.files import walk
from covis.runtime.photos import formats, video
from covis.runtime.photos.files import io_error
from covis.runtime.photos.names import enumerated, shortened
from covis.runtime.photos.video_reader import INSTALL

if TYPE_CHECKING:
    from covis.runtime.photos.decode import Photo

_IGNORED = frozenset({"thumbs.db", "desktop.ini"})
# Photos and videos that are not read, by suffix, and what to do with them.
_RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".rw2", ".orf", ".pef", ".srw")
_OTHER_VIDEOS = (".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".vob")
_CONVERT = {
    **dict.fromkeys(_RAW, "raw: develop to JPEG"),
    **dict.fromkeys(_OTHER_VIDEOS, "convert to MP4"),
    ".jxl": "convert to JPEG",
}
_NOT_PHOTOS = frozenset({"mask", "masks", "depth", "depths", "__macosx"})
_MOST_FOLDERS = 1000


@dataclass(frozen=True)
class Found:
    """Photos and videos that a caller has named.

    Attributes:
        photos: Photos, and paths of photos and videos, in order.
        base: Folder to which names are relative; None for a list.
        notes: One line for each thing that was passed over.
    """

    photos: tuple[Photo, ...]
    base: Path | None = None
    notes: tuple[str, ...] = ()


@dataclass
class _Listing:
    """Content of one folder: what is taken, what is not and why, and the folders in it."""

    folder: Path
    taken: list[Path] = field(default_factory=list)
    passed: list[tuple[Path, str]] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)


def in_folder(folder: Path, masks: Path | None) -> Found:
    """Find the photos and videos of a folder; see `find`."""
    if masks is not None and _same(folder, masks):
        raise user_error(
            "is the folder of the photos",
            where="--masks",
            hint="put masks into a folder of their own",
        )
    listing = _list(folder, masks)
    below = _below(listing, masks)
    if listing.taken:
        passed = listing.passed + [(inner.folder, "") for inner in below]
        return Found(tuple(listing.taken), folder, _passed_over(passed, folder))
    if not below:
        raise _nothing(listing)
    chosen = (
        [inner for inner in below if inner.folder.name.lower() == "images"]
        or [inner for inner in below if inner.folder.name.lower() not in _NOT_PHOTOS]
        or below
    )
    passed = [entry for inner in (listing, *chosen) for entry in inner.passed]
    passed += [(inner.folder, "") for inner in below if inner not in chosen]
    names = enumerated([inner.folder.name for inner in chosen])
    base = chosen[0].folder if len(chosen) == 1 else folder
    note = f"{printable(folder)} has no photo itself: those of {names} are taken"
    photos = tuple(path for inner in chosen for path in inner.taken)
    return Found(photos, base, (note, *_passed_over(passed, folder)))


def _below(listing: _Listing, masks: Path | None) -> list[_Listing]:
    """List the folders in a folder that have photos; one that may not be read is passed over."""
    found = []
    for folder in listing.folders:
        try:
            inner = _list(folder, masks)
        except CovisError as error:
            listing.passed.append((folder, error.what))
            continue
        if inner.taken:
            found.append(inner)
    return found


def _list(folder: Path, masks: Path | None) -> _Listing:
    from natsort import natsort_keygen, ns

    key = natsort_keygen(alg=ns.IGNORECASE)
    listing = _Listing(folder)
    try:
        entries = sorted(folder.iterdir(), key=lambda path: (key(path.name), path.name))
        for path in entries:
            if path.name.startswith(".") or path.name.lower() in _IGNORED:
                continue
            if path.is_dir():
                if masks is None or not _same(path, masks):
                    listing.folders.append(path)
            elif (reason := _why_not(path)) is None:
                listing.taken.append(path)
            else:
                listing.passed.append((path, reason))
    except FileNotFoundError:
        raise user_error("no such file or folder", where=folder, hint="check the path") from None
    except (OSError, ValueError) as error:
        raise io_error(error, folder) from error
    return _without_live_photos(listing)


def _why_not(path: Path) -> str | None:
    """Return why a file is not taken, "" where it is no photo; None for one that is taken."""
    suffix = path.suffix.lower()
    if suffix in video.SUFFIXES:
        cure = None if importlib.util.find_spec("av") else INSTALL
    elif suffix in formats.SUFFIXES:
        cure = formats.missing_decoder(path)
    else:
        return _CONVERT.get(suffix, "")
    if not path.exists():
        return "leads nowhere"
    return cure if path.is_file() else "no ordinary file"


def _without_live_photos(listing: _Listing) -> _Listing:
    """Pass over the short film that a phone stores beside a photo, under the photo's name."""
    photos = [*listing.taken, *(path for path, _ in listing.passed)]
    stems = {path.stem for path in photos if path.suffix.lower() in formats.SUFFIXES}
    films = [p for p in listing.taken if p.suffix.lower() == ".mov" and p.stem in stems]
    listing.taken = [path for path in listing.taken if path not in films]
    listing.passed += [(film, "of a live photo") for film in films]
    return listing


def _same(first: Path, second: Path) -> bool:
    return os.path.realpath(first) == os.path.realpath(second)


def _passed_over(passed: list[tuple[Path, str]], folder: Path) -> tuple[str, ...]:
    """Return one line that counts and names what was passed over, photos first; none for none."""
    if not passed:
        return ()
    by_reason: dict[str, list[str]] = {}
    for path, reason in sorted(passed, key=lambda entry: entry[1] == ""):
        name = path.relative_to(folder).as_posix() + "/" * path.is_dir()
        by_reason.setdefault(reason, []).append(name)
    folders = sum(path.is_dir() for path, _ in passed)
    counts = ((len(passed) - folders, "file"), (folders, "folder"))
    total = " and ".join(f"{n} {kind}{'s' * (n > 1)}" for n, kind in counts if n)
    groups = (
        enumerated(names) + (f" ({reason})" if reason else "")
        for reason, names in by_reason.items()
    )
    return (f"passed over {total} of {printable(folder)}: {', '.join(groups)}",)


def _nothing(listing: _Listing) -> CovisError:
    """Return the error of a folder without photos: what is missing, or where photos lie."""
    folder = listing.folder
    for path, reason in listing.passed:
        if reason.startswith("pip"):
            return environment_error(
                f"holds no photo that can be read here; the first of {len(listing.passed)} files "
                f"is {shortened(path.name)}",
                where=folder,
                hint=reason,
            )
    deeper = _deeper(folder)
    if deeper is not None:
        return user_error(
            "holds no photo", where=folder, hint=f"photos lie deeper: give {printable(deeper)}"
        )
    return user_error("holds no photo", where=folder, hint=f"put {formats.LOOKS_FOR} files into it")


def _deeper(folder: Path) -> Path | None:
    """Return the parent of the first folder with photos, two levels below or deeper."""
    with contextlib.suppress(OSError):  # a hint is no reason for another error
        for here, folders, names in islice(walk(folder), _MOST_FOLDERS):
            folders[:] = [name for name in folders if not name.startswith(".")]
            if here.parent in (folder, folder.parent):
                continue
            if any(_why_not(here / name) is None for name in names if not name.startswith(".")):
                return here.parent
    return None
