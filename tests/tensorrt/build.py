"""The plugin, kernels for the host and the plugin's test program, built for the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock

from tests.places import ROOT

PLUGIN = "libcovis_trt.so"


@cache
def build_programs(sanitize: bool = False, major: int = 10, *, plugin_only: bool = False) -> Path:
    """Build libcovis_trt.so, its host kernels and `covis_trt_plugin_test`, and return their folder.

    Headers are those of TENSORRT_ROOT, else those that plugins/tensorrt/headers.cmake finds.

    Args:
        sanitize: with AddressSanitizer and UndefinedBehaviorSanitizer.
        major: TensorRT's major version, where TENSORRT_ROOT does not say it.
        plugin_only: libcovis_trt.so alone.
    """
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("no cmake or no C++ compiler")
    folder = ROOT / "build" / f"tensorrt_test-{major}{'-asan' if sanitize else ''}"
    options = ["-DCOVIS_TENSORRT_TESTS=ON", f"-DCOVIS_TENSORRT_MAJOR={major}"]
    options += [f"-DCOVIS_SANITIZE={'ON' if sanitize else 'OFF'}"]
    source = ROOT / "plugins" / "tensorrt"
    target = ["--target", "covis_trt"] if plugin_only else []
    (ROOT / "build").mkdir(exist_ok=True)
    with FileLock(ROOT / "build" / ".cmake.lock"):  # one build at a time, of all test processes
        output = _run(["cmake", "-S", str(source), "-B", str(folder), *options])
        if "no TensorRT headers" in output:
            pytest.skip("TensorRT's headers can be had neither from its repository nor by cargo")
        _run(["cmake", "--build", str(folder), "--parallel", "2", *target])
    return folder


def run_program(command: list[str], **environment: str) -> str:
    """Standard output of a test program; its output becomes the failure's text."""
    return _run(command, {**os.environ, **environment})


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        timeout=1200,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}"
    return done.stdout
