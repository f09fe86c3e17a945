"""The plugin, kernels for the host and the plugin's test program, built for the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.plugins.native import cmake

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
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    folder = ROOT / "build" / f"tensorrt_test-{major}{'-asan' if sanitize else ''}"
    options = ["-DCOVIS_TENSORRT_TESTS=ON", f"-DCOVIS_TENSORRT_MAJOR={major}"]
    options += [f"-DCOVIS_SANITIZE={'ON' if sanitize else 'OFF'}"]
    source = ROOT / "plugins" / "tensorrt"
    target = ["--target", "covis_trt"] if plugin_only else []
    output = cmake("-S", source, "-B", folder, *options, timeout=1200)
    if "no TensorRT headers" in output:
        pytest.skip("TensorRT's headers can be had neither from its repository nor by cargo")
    cmake("--build", folder, "--parallel", "2", *target, timeout=1200)
    return folder


def run_program(command: list[str], **environment: str) -> str:
    """Return the standard output of a test program; a failure contains all of its output."""
    done = subprocess.run(
        command,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
        timeout=1200,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}"
    return done.stdout
