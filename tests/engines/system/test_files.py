"""Folders are walked however deep they are, and without following links."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from covis.engines.system.files import entries, walk


def test_deeper_than_python_recurses(tmp_path: Path) -> None:
    depth = sys.getrecursionlimit() + 100
    deepest = tmp_path
    for _ in range(depth):
        deepest /= "d"
        deepest.mkdir()
    (deepest / "file").touch()
    assert list(entries(tmp_path)) == ["d/" * depth + "file"]
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # pytest removes folders recursively


def test_an_absent_folder_is_empty(tmp_path: Path) -> None:
    assert not list(entries(tmp_path / "absent"))


def test_links_are_entries_and_not_entered(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "dead").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert list(entries(tmp_path)) == ["dead", "link", "loop", "pipe", "folder/file"]


def test_folders_that_are_removed_from_the_list_are_not_entered(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    seen = []
    for here, folders, _ in walk(tmp_path):
        folders[:] = [name for name in folders if name != "b"]
        seen.append(here.relative_to(tmp_path).as_posix())
    assert seen == [".", "a", "c"]
