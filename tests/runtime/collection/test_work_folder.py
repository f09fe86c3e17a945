"""The folder of an unfinished collection: resumed, refused, cleared, locked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from covis.engines.errors import CovisError
from covis.runtime.collection.parts import Cut, Link, Part
from covis.runtime.collection.work_folder import WorkFolder

RUN = {"--part-views": 50, "bundle": "a" * 64, "--ordered": True}
CUT = Cut(
    (
        Part(np.array([2, 0, 1]), np.array([True, True, False])),
        Part(np.array([1, 3]), np.array([True, True])),
    ),
    (Link(0, 1, np.array([1]), "cut"),),
    np.array([0, 0]),
)


def test_a_folder_of_the_same_run_goes_on(tmp_path: Path) -> None:
    with WorkFolder(tmp_path / "parts", RUN) as work:
        assert work.cut() is None and not work.has(0)
        work.save_cut(CUT)
        work.part(0).mkdir(parents=True)
    with WorkFolder(tmp_path / "parts", RUN) as work:
        assert work.has(0) and not work.has(1)
        found = work.cut()
        assert found is not None and found.links[0].kind == "cut"
        for part, other in zip(found.parts, CUT.parts, strict=True):
            np.testing.assert_array_equal(part.views, other.views)
            np.testing.assert_array_equal(part.core, other.core)
        np.testing.assert_array_equal(found.scene, CUT.scene)
        work.remove()
    assert not (tmp_path / "parts").exists()


def test_another_run_is_refused_or_starts_anew(tmp_path: Path) -> None:
    with WorkFolder(tmp_path, RUN) as work:
        work.save_cut(CUT)
        work.part(0).mkdir(parents=True)
    other = {**RUN, "--part-views": 40}
    with pytest.raises(CovisError, match=r"with other --part-views \(50, now 40\); give --restart"):
        WorkFolder(tmp_path, other)
    with pytest.raises(CovisError, match="with other bundle;"):
        WorkFolder(tmp_path, {**RUN, "bundle": "b" * 64})
    with WorkFolder(tmp_path, other, restart=True) as work:
        assert work.cut() is None and not work.has(0)


def test_only_one_process_works_in_a_folder(tmp_path: Path) -> None:
    with (
        WorkFolder(tmp_path, RUN),
        pytest.raises(CovisError, match="another process works on this collection"),
    ):
        WorkFolder(tmp_path, RUN)
    with WorkFolder(tmp_path, RUN):
        pass


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    for restart in (False, True):
        with pytest.raises(CovisError, match="is no folder of an unfinished collection"):
            WorkFolder(tmp_path, RUN, restart=restart)
    with pytest.raises(CovisError, match="is no folder of an unfinished collection"):
        WorkFolder(tmp_path / "letter.txt", RUN)
    assert (tmp_path / "letter.txt").read_text() == "mine"


def test_a_damaged_cut_is_named(tmp_path: Path) -> None:
    with WorkFolder(tmp_path, RUN) as work:
        for text in ('{"parts": 3}', "no json"):
            (tmp_path / "cut.json").write_text(text)
            with pytest.raises(CovisError, match=r"cut\.json"):
                work.cut()
