"""Write scenes: a folder as trainers read it, which appears whole or not at all."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from covis.engines.errors import user_error
from covis.engines.system.replace import check_own_files
from covis.runtime.scene.writers.options import FORMATS, Format, OutputOptions

if TYPE_CHECKING:
    from covis.runtime.scene.scene import Scene
    from covis.runtime.scene.writers.folder import SceneFolder

    Writer = Callable[[SceneFolder], list[Path]]

__all__ = [
    "FORMATS",
    "SUMMARY",
    "Format",
    "OutputOptions",
    "Written",
    "check_inputs",
    "check_output",
    "write",
    "write_scenes",
]

SUMMARY = "scene.json"


class Written(NamedTuple):
    """Result of `write`.

    Attributes:
        files: All files of the folder, in the order of writing.
        notes: Lines for the user: what was left out or is different from what was asked for.
    """

    files: list[Path]
    notes: tuple[str, ...]


def write(
    scene: Scene,
    folder: Path | str,
    options: OutputOptions | None = None,
    *,
    force: bool = False,
) -> Written:
    """Write the folder of a scene, with `scene.json`, which lists its files.

    All paths in the folder's files are relative to it, so it can be moved. Views without a finite
    camera and points that are not finite are left out, and listed in `scene.json`. Nothing appears
    at `folder` before all of it is on the disk.

    Args:
        scene: Scene to write.
        folder: Folder to create; it must not exist yet.
        options: Contents of the folder; all formats by default.
        force: Replace the folder if covis wrote all of it.

    Raises:
        CovisError: `folder` exists, the disk is full, a photo cannot be decoded again, or no view
            is usable.
    """
    return write_scenes([scene], folder, options, force=force)


def write_scenes(
    scenes: Sequence[Scene],
    folder: Path | str,
    options: OutputOptions | None = None,
    *,
    force: bool = False,
) -> Written:
    """Write the scenes of one collection as one folder; see `write`.

    The first scene is at its top, where readers look for it. The others are complete folders of
    scenes inside of it: `scene-2`, `scene-3` and so on.

    Args:
        scenes: Scenes to write, at least one.
        folder: Folder to create; it must not exist yet.
        options: Contents of the folder of each scene; all formats by default.
        force: Replace the folder if covis wrote all of it.

    Raises:
        CovisError: As for `write`; a scene without a usable view is named.
    """
    from covis.engines.system.atomic import atomic_folder

    target, options = Path(folder), options or OutputOptions()
    check_output(target, options, force=force)
    for scene in scenes:
        check_inputs(target, [*(scene.paths or ()), *(scene.mask_paths or ())])
    notes: list[str] = []
    names: list[str] = []
    with atomic_folder(target, force=force) as scratch:
        for number, scene in enumerate(scenes[1:], start=2):
            place = f"scene-{number}"
            (scratch / place).mkdir()
            own, lines = _fill(scratch / place, scene, options)
            names += [f"{place}/{name}" for name in own]
            notes += [f"{place}: {line}" for line in lines]
        own, lines = _fill(scratch, scenes[0], options, names)
    return Written([target / name for name in [*own, *names]], (*lines, *notes))


def _fill(
    place: Path, scene: Scene, options: OutputOptions, others: Sequence[str] = ()
) -> tuple[list[str], tuple[str, ...]]:
    """Write one scene into an empty folder; return its files, relative to it, and notes.

    Args:
        place: The folder.
        scene: Scene to write.
        options: Contents of the folder.
        others: Further files that `scene.json` lists as written by covis.
    """
    from covis.runtime.scene.writers.finite import finite_part
    from covis.runtime.scene.writers.folder import SceneFolder
    from covis.runtime.scene.writers.frames import frames_of
    from covis.runtime.scene.writers.summary import write_summary

    kept, left_out = finite_part(scene)
    notes = list(left_out.notes)
    frames, note = frames_of(kept)
    if note and {"images", "depth"}.intersection(options.parts):
        notes.append(note)
    output = SceneFolder(place, kept, frames, options, notes)
    written: list[Path] = []
    for name in options.parts:
        written += _writer(name)(output)
    names = [path.relative_to(place).as_posix() for path in written]
    write_summary(output, left_out, [*names, *others])
    return [*names, SUMMARY], tuple(notes)


def _writer(name: Format) -> Writer:
    """Return the function of a format: `write_NAME` in the module NAME of this package."""
    module = importlib.import_module(f"covis.runtime.scene.writers.{name}")
    writer: Writer = getattr(module, f"write_{name}")
    return writer


def check_output(
    folder: Path | str, options: OutputOptions | None = None, *, force: bool = False
) -> None:
    """Reject what `write` would reject, before hours of work are put into a scene.

    With `force`, a folder is replaced only if covis wrote everything in it: a slip such as
    `--out ~ --force` must not cost anyone their files.
    """
    from covis.engines.system.atomic import check_folder_target
    from covis.runtime.scene.writers.depth import check_depth_format

    check_depth_format(options or OutputOptions())
    target = Path(folder)
    check_folder_target(target, force=force)
    check_own_files(target, listed_files(target).__contains__)


def check_inputs(out: Path, files: Iterable[Path | None]) -> None:
    """Reject a folder that contains a photo or mask of the scene itself.

    `--force` replaces what covis wrote, and the images of an earlier run may be all that is left.

    Args:
        out: Folder to write.
        files: Photos and masks; None for those that are not from a file.
    """
    folder = out.resolve()
    for file in files:
        if file is not None and file.resolve().is_relative_to(folder):
            raise user_error(
                "is an input, and lies in the folder that --force would replace",
                where=file,
                hint="choose another --out",
            )


def listed_files(folder: Path) -> frozenset[str]:
    """Read the list of files that covis wrote from a folder's `scene.json`; empty without one."""
    path = folder / SUMMARY
    # Opening or reading a pipe or a device could take for ever.
    if path.is_file() and not path.is_symlink():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            summary = json.loads(path.read_text(encoding="utf-8"))
            return frozenset({SUMMARY, *summary["covis_files"]})
    return frozenset()
