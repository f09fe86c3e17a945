"""The digests of the plans that this user built: the only ones that are run without asking."""

from __future__ import annotations

import os
from pathlib import Path

from covis.engines.errors import environment_error

LEDGER = "own-plans.txt"


def ledger() -> Path:
    """The user's list: one sha256 a line, in the folder that the system keeps for such state."""
    import platformdirs

    return platformdirs.user_state_path("covis") / LEDGER


def own_plans() -> frozenset[str]:
    """Digests of the plans that this user built on this machine; empty where there is no list.

    Raises:
        CovisError: the list belongs to someone else, or others may write it (exit code 3).
    """
    path = ledger()
    try:
        facts = path.stat()
        lines = path.read_text("ascii", "replace").split()
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise environment_error(
            f"cannot be read ({error.strerror or error})", where=path, hint="check rights"
        ) from error
    if os.name == "posix" and (facts.st_uid not in (0, os.geteuid()) or facts.st_mode & 0o022):
        raise environment_error(
            "can be written by others, so it cannot say which plans are yours",
            where=path,
            hint="chmod 600 it, or remove it",
        )
    return frozenset(line for line in lines if len(line) == 64)


def remember_plan(sha256: str) -> bool:
    """Add a plan that was just built; False where the list cannot be written (then it is told)."""
    path = ledger()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One short line in one write of an appending file: builds side by side do not mix.
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, f"{sha256}\n".encode())
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:
        return False
    return True
