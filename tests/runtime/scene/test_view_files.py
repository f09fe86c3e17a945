"""Arrays with one entry for each view, in files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from covis.engines.errors import CovisError
from covis.runtime.scene.view_files import ViewFile, release, rewritten


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.bool_])
def test_entries_in_any_order_make_the_file_that_numpy_writes(tmp_path: Path, dtype: type) -> None:
    array = np.random.default_rng(0).integers(0, 2, (3, 4, 5)).astype(dtype)
    path = tmp_path / "array.npy"
    with ViewFile(path.open("wb"), array.shape, dtype) as file:
        for view in (2, 0, 1):
            file.put(view, array[view])
        with pytest.raises(ValueError, match=r"shape \(5, 4\)"):
            file.put(0, array[0].T)
    expected = io.BytesIO()
    np.save(expected, array)
    assert path.read_bytes() == expected.getvalue()


def test_an_entry_that_is_never_written_is_zero(tmp_path: Path) -> None:
    path = tmp_path / "array.npy"
    with ViewFile(path.open("wb"), (3, 2), np.float32) as file:
        file.put(1, np.array([1.0, 2.0]))
    np.testing.assert_array_equal(np.load(path), [[0, 0], [1, 2], [0, 0]])


def test_a_rewritten_array_is_stored_as_the_old_one(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.save(tmp_path / "array.npy", array)
    stored = np.load(tmp_path / "array.npy", mmap_mode="r")
    for like in (array, stored):
        new = rewritten(like, 2, lambda view, like=like: like[view + 1] * 2)
        assert isinstance(new, np.memmap) == (like is stored)
        np.testing.assert_array_equal(new, array[1:3] * 2)
    assert [path.name for path in tmp_path.iterdir()] == ["array.npy"]


def test_a_folder_that_cannot_take_the_copy_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.zeros((2, 3)))
    stored = np.load(tmp_path / "array.npy", mmap_mode="r")
    (tmp_path / "array.npy").unlink()
    tmp_path.rmdir()
    with pytest.raises(CovisError, match="cannot be written") as caught:
        rewritten(stored, 2, lambda view: stored[view])
    assert caught.value.code == 3 and str(tmp_path) in str(caught.value)


def test_releasing_loses_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.zeros((2, 3)))
    for mode in ("r+", "c"):
        stored = np.load(tmp_path / "array.npy", mmap_mode=mode)
        stored[1] = 5.0
        release(stored, None, np.zeros(3), stored[:1])
        np.testing.assert_array_equal(stored, [[0, 0, 0], [5, 5, 5]])
