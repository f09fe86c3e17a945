"""The plugin's life in TensorRT's own registry, without a GPU (tensorrt_life.cc).

TENSORRT_ROOT=... python -m pytest -m trt tests/plugins/test_tensorrt_life.py
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.plugins.tensorrt_build import build_programs, run_program, tensorrt_root

pytestmark = pytest.mark.trt


@pytest.fixture(scope="module")
def programs() -> Path:
    tensorrt_root()
    return build_programs()


def test_life(programs: Path) -> None:
    run_program([str(programs / "covis_trt_life"), str(programs / "libcovis_trt.so")])


@pytest.mark.slow
def test_life_under_sanitizers() -> None:
    """TensorRT's own leaks are not ours to judge; reads and writes outside are."""
    tensorrt_root()
    folder = build_programs(sanitize=True)
    command = [str(folder / "covis_trt_life"), str(folder / "libcovis_trt.so")]
    run_program(command, ASAN_OPTIONS="detect_leaks=0", UBSAN_OPTIONS="halt_on_error=1")


def test_links_nothing_of_tensorrt_or_cuda(programs: Path) -> None:
    """It must load before TensorRT is there, and where there is no GPU."""
    library = str(programs / "libcovis_trt.so")
    needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True)
    libraries = [line for line in needed.stdout.splitlines() if "NEEDED" in line]
    allowed = ("libc.so", "libm.so", "libdl.so", "ld-linux")
    assert libraries and all(any(name in line for name in allowed) for line in libraries), libraries
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
    )
    exported = {line.split()[-1] for line in symbols.stdout.splitlines()}
    assert exported == {"getCreators", "setLoggerFinder"}


def test_loads_without_tensorrt(programs: Path) -> None:
    """Loaded alone, in a process that has no TensorRT: nothing to register with, no crash."""
    code = f"import ctypes; ctypes.CDLL({str(programs / 'libcovis_trt.so')!r})"
    subprocess.run(["python3", "-c", code], check=True, timeout=60)
