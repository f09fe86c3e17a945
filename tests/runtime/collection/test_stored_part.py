"""Finished parts on the disk: opened when they are used, few at a time, and checked."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from covis.engines.errors import CovisError
from covis.runtime.collection.stored_part import FinishedPart, StoredParts, load_part
from tests.runtime.collection.true_parts import true_part

_CONTENT = ("names", "image_size", "metric", "facts")


def stored(folder: Path, seed: int) -> Path:
    part = true_part(3, seed)
    values = {f.name: getattr(part, f.name) for f in fields(part)}
    content = {name: values.pop(name) for name in _CONTENT}
    FinishedPart({n: v for n, v in values.items() if v is not None}, content).store(folder)
    return folder


def test_only_the_last_few_parts_stay_open(tmp_path: Path) -> None:
    """Each open part has a descriptor for each of its four maps."""
    parts = StoredParts([stored(tmp_path / str(seed), seed) for seed in range(12)])
    chosen = parts.take(np.array([11, *range(11)]))
    assert len(chosen) == 12
    np.testing.assert_array_equal(chosen[0].depth, true_part(3, 11).depth.astype(np.float32))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for part in chosen:
        assert len(part) == 3
    del part
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 8 * 4


def test_a_damaged_part_is_named_with_its_cure(tmp_path: Path) -> None:
    folder = stored(tmp_path / "part", 0)
    (folder / "depth.npy").write_bytes(b"no array")
    with pytest.raises(CovisError, match=r"is no finished part .*; remove it, and it is computed"):
        load_part(folder)
    (folder / "part.json").unlink()
    with pytest.raises(CovisError, match="remove the part's folder, and it is computed again"):
        load_part(folder)
