"""Names in a bundle's folder, and the check that nothing else is in it."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Final

from covis.engines.bundle.manifest import Manifest
from covis.engines.errors import user_error
from covis.engines.system.drafts import is_draft

MANIFEST: Final = "manifest.json"
PLANS: Final = (
    "plans"  # folder of built engines, which have records of their own instead of an entry
)
EXPORT: Final = "export the bundle again or copy it anew"
# What a download from the Hugging Face hub adds to a folder; no part of covis opens any of it.
_HUB_FOLDERS: Final = (".cache",)
_HUB_FILES: Final = (".gitattributes", "README.md")


def check_listing(folder: Path, manifest: Manifest) -> None:
    """Refuse files and folders that the manifest does not list.

    The contents of `plans` are not looked at: a plan is verified when it is used.

    Raises:
        CovisError: naming the first of them (exit code 2).
    """
    listed = {PurePosixPath(file.path) for file in manifest.files} | {PurePosixPath(MANIFEST)}
    parents = {parent for path in listed for parent in path.parents}
    waiting = [PurePosixPath()]
    while waiting:
        here = waiting.pop()
        with os.scandir(folder / here) as found:
            for entry in found:
                name, is_folder = here / entry.name, entry.is_dir(follow_symlinks=False)
                if is_folder and name in parents:
                    waiting.append(name)
                elif name not in listed and not _is_extra(name, is_folder):
                    raise user_error(
                        "is not listed in the manifest", where=folder / name, hint="remove it"
                    )


def _is_extra(name: PurePosixPath, is_folder: bool) -> bool:
    """Return whether something may be in the folder although the manifest does not list it.

    Nothing reads a draft of the manifest: another process writes it at this moment, or was killed
    then, and the next rewrite removes what it left.
    """
    if is_folder:
        return str(name) in (PLANS, *_HUB_FOLDERS)
    return str(name) in _HUB_FILES or is_draft(str(name), MANIFEST)
