"""Write scenes to files: all formats at once, in a folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from covis.engines.errors import environment_error, user_error
from covis.engines.system.replace import check_own_files

if TYPE_CHECKING:
    from covis.runtime.scene.scene import Scene
    from covis.runtime.scene.writers.finite import LeftOut

    Writer = Callable[[Scene, Path, float], list[Path]]

Format = Literal["npz", "ply", "glb", "colmap", "nerfstudio", "saliency", "html"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUMMARY = "scene.json"
CONF_PERCENTILE = 20.0


def write(
    scene: Scene,
    folder: Path | str,
    formats: Sequence[str] = FORMATS,
    *,
    conf_percentile: float = CONF_PERCENTILE,
    force: bool = False,
) -> list[Path]:
    """Write a scene in several formats, and `scene.json`, which lists what was written.

    Views without a finite camera and points that are not finite are left out, and counted in
    `scene.json`. Nothing appears at `folder` before all of it is on the disk.

    Args:
        scene: Scene to write.
        folder: Folder to create; it must not exist yet.
        formats: Some of `FORMATS`; docs/reference/conventions.md lists axes and units of each.
        conf_percentile: Percentage of the pixels that point clouds leave out, the least confident
            first. `npz` keeps everything.
        force: Replace the folder if covis wrote all of it.

    Returns:
        The files, in the order of the formats.

    Raises:
        CovisError: A format is unknown, `folder` exists, the disk is full, or no view is usable.
    """
    from covis.engines.system.atomic import atomic_folder
    from covis.runtime.scene.writers.finite import finite_part

    target = Path(folder)
    check_output(target, formats, force=force)
    kept, left_out = finite_part(scene)
    with atomic_folder(target, force=force) as scratch:
        written: list[Path] = []
        for name in dict.fromkeys(formats):
            written += _writer(name)(kept, scratch, conf_percentile)
        names = [path.relative_to(scratch).as_posix() for path in dict.fromkeys(written)]
        summary = _summary(kept, left_out, names, conf_percentile)
        text = json.dumps(summary, indent=1, default=_as_json)
        (scratch / SUMMARY).write_text(text + "\n", encoding="utf-8")
    return [target / name for name in [*names, SUMMARY]]


def check_output(folder: Path | str, formats: Sequence[str], *, force: bool = False) -> None:
    """Reject what `write` would reject, before hours of work are put into a scene.

    With `force`, a folder is replaced only if covis wrote everything in it: a slip such as
    `--out ~ --force` must not cost anyone their files.
    """
    for name in formats:
        if name not in FORMATS:
            raise user_error(
                f"{name!r} is no output format", where="--formats", hint=f"use {', '.join(FORMATS)}"
            )
    if not formats:
        raise user_error("no output format given", hint=f"use some of {', '.join(FORMATS)}")
    target = Path(folder)
    if "\0" in str(target):
        raise user_error("holds a NUL character", where=target, hint="choose another name")
    try:
        if target.is_symlink():
            raise user_error("is a link", where=target, hint="name the folder itself")
        _check_parent(target)
        if not target.exists():
            return
    except OSError as error:
        raise environment_error(
            f"cannot be looked at ({error.strerror})", where=target, hint="choose another name"
        ) from error
    if not target.is_dir():
        raise user_error("is a file, not a folder", where=target, hint="choose another name")
    if not force:
        raise user_error("already exists", where=target, hint="choose another name or pass --force")
    check_own_files(target, _listed_files(target).__contains__)


def _check_parent(target: Path) -> None:
    """Reject a place below a file, or in a folder without permission to write."""
    parent = next(path for path in target.absolute().parents if path.exists())
    if not parent.is_dir():
        raise user_error("is a file, not a folder", where=parent, hint="choose another name")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise environment_error(
            f"cannot be written (no rights in {parent})",
            where=target,
            hint="check free space and rights",
        )


def _listed_files(folder: Path) -> frozenset[str]:
    """Read the list of files that covis wrote from a folder's `scene.json`; empty without one."""
    path = folder / SUMMARY
    # Opening or reading a pipe or a device could take for ever.
    if path.is_file() and not path.is_symlink():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            summary = json.loads(path.read_text(encoding="utf-8"))
            return frozenset({SUMMARY, *summary["covis_files"]})
    return frozenset()


def _writer(name: str) -> Writer:
    """Return the function of a format: `write_NAME` in the module NAME of this package."""
    module = importlib.import_module(f"covis.runtime.scene.writers.{name}")
    writer: Writer = getattr(module, f"write_{name}")
    return writer


def _as_json(value: Any) -> Any:
    """Convert arrays to nested lists, and paths and the like to text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _summary(
    scene: Scene, left_out: LeftOut, files: list[str], conf_percentile: float
) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "views": list(scene.names),
        "image_size": list(scene.image_size),
        "metric": scene.metric,
        "conf_percentile": conf_percentile,
        "left_out": asdict(left_out),
        "sparsity": asdict(scene.sparsity) if scene.sparsity else None,
        "provenance": dict(scene.provenance),
        "covis_files": files,
    }
