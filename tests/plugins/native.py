"""The native libraries under test, built from the sources as they are."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.places import ROOT

# What libcovis_ort is compiled from.
SOURCES = ("CMakeLists.txt", "cmake/*", "plugins/common/*", "plugins/cpu/*")
SOURCES += ("plugins/block_sparse_attention/cpu/*", "plugins/block_select/cpu/*")
SOURCES += ("plugins/farthest_first/cpu/*", "plugins/onnxruntime/*")


def cmake(*arguments: str | Path, timeout: float = 500) -> str:
    """Run cmake, one run at a time; its output, or a failed test with that output."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    command = ["cmake", *map(str, arguments)]
    (ROOT / "build").mkdir(exist_ok=True)
    with FileLock(ROOT / "build" / ".cmake.lock"):  # of this and of other test processes
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout,
        )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def build(name: str, target: str, *options: str) -> Path:
    """The folder build/NAME, configured with these options, with that target brought up to date."""
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler")
    folder = ROOT / "build" / name
    if not (folder / "CMakeCache.txt").is_file():
        generator = ("-G", "Ninja") if shutil.which("ninja") else ()
        cmake("-S", ROOT, "-B", folder, *options, *generator)
    cmake("--build", folder, "-j2", "--target", target)
    return folder


@functools.cache
def library() -> Path:
    """libcovis_ort, up to date; skips where ONNX Runtime's headers cannot be had.

    The library that another build of this checkout (the installation of the package) left in build/
    serves where it is newer than its sources; else it is built in build/native.
    """
    newest_source = max(_modified(path) for each in SOURCES for path in ROOT.glob(each))
    found = max(_built_libraries(), key=_modified, default=None)
    if found is None or _modified(found) < newest_source:
        build("native", "all")
        found = max(_built_libraries(), key=_modified, default=None)
    if found is None:
        pytest.skip("libcovis_ort was not built: no ONNX Runtime headers")
    return found


def _built_libraries() -> Iterator[Path]:
    return (ROOT / "build").glob("*/plugins/onnxruntime/libcovis_ort.*")


def _modified(path: Path) -> float:
    return path.stat().st_mtime
