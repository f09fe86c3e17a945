"""Bundles and photos that several tests share, each made once a session."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.engines.mini_bundle import write_bundle
from tests.tiny_vggt import export_tiny_bundle

# Shells start background jobs with Ctrl-C ignored, and children inherit that; the tests that press
# it would then wait for ever, or fail.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def mini_bundle(tmp_path: Path) -> Path:
    """A whole bundle of two trivial stages, to be damaged; made in milliseconds."""
    return write_bundle(tmp_path / "bundle")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VGGT bundle of 56 x 84 pixels, exported once; read it, but damage only a `tiny_copy`."""
    return export_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny_copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_bundle` of the test's own."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four photos of a made scene, 112 x 84 pixels (W x H)."""
    from covis.synthetic.photos import demo_scene, write_photos

    folder = tmp_path_factory.mktemp("scene") / "photos"
    write_photos(folder, demo_scene(views=4, height=84, width=112))
    return folder
