"""Files that nobody else can change: what is loaded as code must be one of them.

A library runs with all rights of the user who loads it. It is therefore loaded only if the file and
every folder above it can be written by nobody but that user, the administrator, and the owner of
this package, whose Python code runs already. The owner of the root folder counts as administrator:
inside a user namespace that is another number than 0.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import Final

from covis.engines.errors import CovisError, environment_error

_HERE: Final = Path(__file__)


def check_own(path: Path) -> Path:
    """Check that nobody else can write a file or replace it, and return its real path.

    A folder that everybody may write, such as /tmp, is accepted where its sticky bit keeps others
    from replacing what is in it. Write access of a group counts only if the group has a member who
    is none of these: a group of one's own, the usual default, has none.

    Raises:
        CovisError: naming the file or folder, and the command that repairs it (exit code 3).
    """
    real = path.resolve()
    if sys.platform == "win32":
        return real
    trusted = {0, os.geteuid(), _HERE.stat().st_uid, Path(real.anchor).stat().st_uid}
    try:
        for place in (real, *real.parents):
            facts = place.stat()
            if facts.st_uid not in trusted:
                raise _unsafe(real, place, f"belongs to {_user(facts.st_uid)}", f"chown {place}")
            if stat.S_ISDIR(facts.st_mode) and facts.st_mode & stat.S_ISVTX:
                continue
            if facts.st_mode & stat.S_IWOTH:
                raise _unsafe(real, place, "can be written by everybody", f"chmod o-w {place}")
            if facts.st_mode & stat.S_IWGRP and (member := _foreign_member(facts.st_gid, trusted)):
                raise _unsafe(real, place, f"can be written by {member}", f"chmod g-w {place}")
    except OSError as error:
        raise environment_error(
            f"cannot be examined ({error.strerror or error})", where=real, hint="check rights"
        ) from error
    return real


def _unsafe(library: Path, place: Path, what: str, cure: str) -> CovisError:
    name = "it" if place == library else f"its folder {place}"
    return environment_error(
        f"is not loaded, because {name} {what}", where=library, hint=f"{cure}, or install it anew"
    )


def _foreign_member(group: int, trusted: set[int]) -> str:
    """Return a member of a group who is none of the trusted users; "" if there is none."""
    import grp
    import pwd

    known = {user.pw_name: user for user in pwd.getpwall()}
    members = [user.pw_name for user in known.values() if user.pw_gid == group]
    with contextlib.suppress(KeyError):  # a number alone, as in a container: it lists nobody
        members += grp.getgrgid(group).gr_mem
    return next((n for n in members if n not in known or known[n].pw_uid not in trusted), "")


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
