"""Folder of results: one file per scene, each whole or absent, all with the same options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from covis.engines.errors import user_error
from covis.engines.system.atomic import check_writable, write_file
from covis.engines.system.csv_file import csv_text
from covis.engines.system.drafts import PARTIAL
from covis.engines.system.files import entries
from covis.evaluation.accuracy.scoring import Record
from covis.evaluation.accuracy.summary import AVERAGED, aggregate
from covis.evaluation.datasets.truth import SceneRef
from covis.evaluation.metrics.pose import THRESHOLDS

_OPTIONS = "evaluation.json"
_LONGEST = 180
_CURE = "check free space and rights, then run the same command again"

COLUMNS = (
    "scene",
    "group",
    "views",
    "dropped_views",
    "lost_cameras",
    "pairs",
    *(f"auc{t}{suffix}" for suffix in ("", "_directed") for t in THRESHOLDS),
    *AVERAGED,
)
"""Columns of the CSV file."""


class Results:
    """Results of one evaluation in a folder.

    An interrupted evaluation continues where it stopped, because scenes with a file are done. The
    options that determine the numbers are written first; a folder with other options is rejected.

    Args:
        folder: Folder of the results; created if it does not exist.
        options: The options, from `Job.options`, as JSON values.

    Raises:
        CovisError: The folder contains results of other options or other files, or cannot be
            written.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.options = dict(options)
        self.fingerprint = _fingerprint(self.options)
        check_results_folder(self.folder)
        written = self.folder / _OPTIONS
        if written.exists():
            self._check(written)
            return
        record = {"fingerprint": self.fingerprint, "options": self.options}
        write_result(written, json.dumps(record, indent=1) + "\n")

    def _check(self, written: Path) -> None:
        old = _read(written)
        if old is None or not isinstance(old.get("options"), dict):
            raise user_error("is damaged", where=written, hint="choose another --out")
        if old.get("fingerprint") == self.fingerprint:
            return
        changes = list(_differences(old["options"], self.options))
        raise user_error(
            f"holds results of other options ({'; '.join(changes[:3]) or 'another format'})",
            where=self.folder,
            hint="choose another --out",
        )

    def path(self, scene: str) -> Path:
        """Return the path of a scene's file."""
        name = quote(scene, safe="")
        if len(name) > _LONGEST:
            name = name[:_LONGEST] + hashlib.sha256(scene.encode()).hexdigest()[:16]
        return self.folder / "scenes" / f"{name}.json"

    def get(self, scene: str) -> Record | None:
        """Return the record of a scene; None if it is not done or its file is damaged."""
        record = _read(self.path(scene))
        if record is None or record.pop("fingerprint", None) != self.fingerprint:
            return None
        return record if record.get("scene") == scene and _adds_up(record) else None

    def put(self, record: Record) -> None:
        """Write the record of a scene durably, in place of an earlier one."""
        text = json.dumps({"fingerprint": self.fingerprint, **record}, allow_nan=False)
        write_result(self.path(str(record["scene"])), text + "\n")

    def finish(self, scenes: Iterable[SceneRef], failed: Mapping[str, str]) -> dict[str, Any]:
        """Write `results.json` and `results.csv` of these scenes, and return the former.

        Args:
            scenes: Scenes of this evaluation; the folder may contain more.
            failed: Reason of each failure, by the scene's name.
        """
        records = [r for s in scenes if s.name not in failed and (r := self.get(s.name))]
        report = {
            "summary": aggregate(records),
            "failed": dict(failed),
            "options": self.options,
            "scenes": records,
        }
        write_result(self.folder / "results.csv", csv_text(COLUMNS, records))
        write_result(self.folder / "results.json", json.dumps(report, indent=1) + "\n")
        return report


def check_results_folder(folder: Path, content: str = _OPTIONS, what: str = "evaluation") -> None:
    """Refuse a place for results before anything is loaded and computed.

    Args:
        folder: Folder to create or to continue.
        content: File in it that every earlier call has written.
        what: Noun for the results, for the error.

    Raises:
        CovisError: The folder contains other files, or nothing can be written.
    """
    if not (folder / content).exists() and folder.exists() and not _is_empty(folder):
        raise user_error(f"exists and holds no {what}", where=folder, hint="choose another --out")
    check_writable(folder / content, cure=_CURE)


def _is_empty(folder: Path) -> bool:
    """Return whether a folder has no files except what a process leaves that is killed at once."""
    return folder.is_dir() and all(
        name.rpartition("/")[2].startswith(".") and name.endswith(PARTIAL)
        for name in entries(folder)
    )


def write_result(path: Path, text: str) -> None:
    """Write a file of results atomically; missing folders are created.

    Raises:
        CovisError: There is no space or no permission.
    """
    write_file(path, text, cure=_CURE)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _adds_up(record: Record) -> bool:
    """Return whether a record from disk contains everything that a summary requires."""
    try:
        aggregate([record])
    except (TypeError, ValueError, KeyError, AttributeError):
        return False
    return True


def _fingerprint(options: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], above: str = "") -> Iterable[str]:
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{above}{key}.")
        elif a != b:
            yield f"{above}{key}: {_short(a)}, now {_short(b)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
