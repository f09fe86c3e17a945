"""Folder of an unfinished collection: what is done, and which run it belongs to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np

from covis.engines.errors import environment_error, user_error
from covis.engines.system.atomic import write_file
from covis.engines.system.json_file import read_json
from covis.runtime.collection.parts import Cut, Link, Part

_RUN: Final = "run.json"
_CUT: Final = "cut.json"
_LOCK: Final = ".lock"
_PARTS: Final = "parts"
_CURE: Final = "give --restart to start anew, or another --parts"


class WorkFolder:
    """Folder of one run of a collection, locked while the run goes on.

    Args:
        path: The folder; created if it is missing.
        run: What the results depend on, as JSON values by name: a folder of another run is refused.
        restart: Remove what another run, or an earlier one, left there.

    Raises:
        CovisError: The folder belongs to another run or contains other files, another process works
            in it, or it cannot be written.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], *, restart: bool = False) -> None:
        from filelock import FileLock, Timeout

        self.path = path
        if path.exists() and (not path.is_dir() or self._foreign()):
            raise user_error(
                "exists, and is no folder of an unfinished collection",
                where=path,
                hint="choose another --parts",
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path / _LOCK)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise user_error(
                "another process works on this collection",
                where=path,
                hint="wait for it, or choose another --parts",
            ) from error
        except OSError as error:
            raise environment_error(
                f"cannot be written ({error.strerror or error})",
                where=path,
                hint="check rights and free space, or choose another --parts",
            ) from error
        try:
            if restart:
                self._clear()
            self._check(json.loads(json.dumps(run)))
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> WorkFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()

    def part(self, number: int) -> Path:
        """Return the folder of a part."""
        return self.path / _PARTS / f"{number:05}"

    def has(self, number: int) -> bool:
        """Return whether a part is finished."""
        return self.part(number).is_dir()

    def cut(self) -> Cut | None:
        """Read the division of the collection; None before it is made."""
        path = self.path / _CUT
        if not path.exists():
            return None
        content = read_json(path, _CURE)
        try:
            parts = tuple(
                Part(np.array(p["views"], np.int64), np.array(p["core"], bool))
                for p in content["parts"]
            )
            links = tuple(
                Link(link["first"], link["second"], np.array(link["views"], np.int64), link["kind"])
                for link in content["links"]
            )
            return Cut(parts, links, np.array(content["scene"], np.int64))
        except (KeyError, TypeError, ValueError) as error:
            raise user_error("is damaged", where=path, hint=_CURE) from error

    def save_cut(self, cut: Cut) -> None:
        """Write the division of the collection.

        Raises:
            CovisError: The file cannot be written.
        """
        content = {
            "parts": [{"views": p.views.tolist(), "core": p.core.tolist()} for p in cut.parts],
            "links": [
                {"first": k.first, "second": k.second, "views": k.views.tolist(), "kind": k.kind}
                for k in cut.links
            ],
            "scene": cut.scene.tolist(),
        }
        write_file(self.path / _CUT, json.dumps(content))

    def remove(self) -> None:
        """Remove the folder and everything in it, at the end of the run."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _foreign(self) -> bool:
        """Return whether the folder has files and is none of ours."""
        names = {entry.name for entry in self.path.iterdir()}
        return bool(names - {_LOCK}) and _RUN not in names

    def _clear(self) -> None:
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != _LOCK:
                entry.unlink()

    def _check(self, run: dict[str, Any]) -> None:
        path = self.path / _RUN
        if not path.exists():
            write_file(path, json.dumps(run, indent=1))
            return
        earlier = read_json(path, _CURE)
        for name, value in run.items():
            other = earlier.get(name) if isinstance(earlier, dict) else None
            if other == value:
                continue
            short = isinstance(value, (int, float, str)) and len(str(value)) < 40
            change = f" ({other}, now {value})" if short else ""
            raise user_error(
                f"belongs to a run with other {name}{change}", where=self.path, hint=_CURE
            )
