"""The plugin and its test programs, built against the TensorRT that TENSORRT_ROOT names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tensorrt_root() -> Path:
    """TENSORRT_ROOT; skips the calling test where it is unset or there is no compiler."""
    root = os.environ.get("TENSORRT_ROOT")
    if not root:
        pytest.skip("TENSORRT_ROOT (a folder with TensorRT's include/ and lib/) is not set")
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("no cmake or no C++ compiler")
    return Path(root).resolve()


def tensorrt_version(root: Path) -> str:
    """`10.15` and the like, from the headers."""
    text = (root / "include" / "NvInferVersion.h").read_text()
    found = dict(re.findall(r"define (?:TRT|NV_TENSORRT)_(MAJOR|MINOR)\w* (\d+)", text))
    return f"{found['MAJOR']}.{found['MINOR']}"


@cache
def build_programs(sanitize: bool = False) -> Path:
    """The folder of libcovis_trt.so, its host kernels and the test programs."""
    root = tensorrt_root()
    name = f"tensorrt_test-{tensorrt_version(root)}{'-asan' if sanitize else ''}"
    folder = ROOT / "build" / name
    options = [f"-DTENSORRT_ROOT={root}", "-DCOVIS_TENSORRT_TESTS=ON"]
    options += [f"-DCOVIS_SANITIZE={'ON' if sanitize else 'OFF'}"]
    source = ROOT / "plugins" / "tensorrt"
    _run(["cmake", "-S", str(source), "-B", str(folder), *options])
    _run(["cmake", "--build", str(folder), "--parallel", "2"])
    return folder


def run_program(command: list[str], **environment: str) -> str:
    """Standard output of a test program; its output becomes the failure's text."""
    return _run(command, {**os.environ, **environment})


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, timeout=1200
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}{done.stderr[-6000:]}"
    return done.stdout
