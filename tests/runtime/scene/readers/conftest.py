"""One scene folder with photos of every kind, moved after it was written, for all readers."""

from __future__ import annotations

import pytest

from covis.runtime.scene.writers import write
from tests.runtime.scene.globe import every_kind
from tests.runtime.scene.readers.written import Written


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    base = tmp_path_factory.mktemp("readers")
    scene, views = every_kind(base / "photos")
    files, notes = write(scene, base / "first place")
    assert notes == () and all(path.is_file() for path in files)
    moved = base / "elsewhere" / "moved"
    moved.parent.mkdir()
    (base / "first place").rename(moved)
    return Written(moved, scene, views, base / "photos")
