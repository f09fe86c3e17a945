"""The rule for `--force`: a folder is replaced only if covis wrote everything in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from covis.engines.errors import user_error
from covis.engines.system.files import entries

REPLACE_HINT: Final = "choose another name, or remove the folder yourself"


def check_own_files(
    folder: Path, is_ours: Callable[[str], bool], foreign: str = "which covis did not write"
) -> None:
    """Refuse to replace a folder that is a link, or that contains a file of somebody else.

    A slip such as `--out ~ --force` must not cost anyone their files. A folder that is absent or
    empty may be replaced.

    Args:
        folder: The folder that `--force` would replace.
        is_ours: Called with the path of each file relative to the folder.
        foreign: Description of a file that is not ours, as a relative clause.

    Raises:
        CovisError: naming the first such file (exit code 2).
    """
    if folder.is_symlink():
        raise user_error("is a link, and is not replaced", where=folder, hint=REPLACE_HINT)
    name = next((name for name in entries(folder) if not is_ours(name)), None)
    if name is not None:
        raise user_error(
            f"holds {name!r}, {foreign}, and is not replaced", where=folder, hint=REPLACE_HINT
        )
