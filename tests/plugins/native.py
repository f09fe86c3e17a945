"""The native library under test, built from the sources as they are."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

from tests.places import ROOT

BUILD = ROOT / "build" / "native"


def cmake(*arguments: str | Path, timeout: float = 500) -> str:
    """Run cmake; its output, or a failed test with that output."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    command = ["cmake", *map(str, arguments)]
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


def building(folder: Path) -> FileLock:
    """Keeps other test processes from building in that folder at the same time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_name(f"{folder.name}.lock"))


@functools.cache
def library() -> Path:
    """libcovis_ort, brought up to date; skips where ONNX Runtime's headers cannot be had."""
    with building(BUILD):
        if not (BUILD / "CMakeCache.txt").is_file():
            generator = ("-G", "Ninja") if shutil.which("ninja") else ()
            cmake("-S", ROOT, "-B", BUILD, *generator)
        cmake("--build", BUILD, "-j2")
    built = sorted((BUILD / "plugins" / "onnxruntime").glob("libcovis_ort.*"))
    if not built:
        pytest.skip("libcovis_ort was not built: no ONNX Runtime headers")
    return built[0]
