"""The C++ tests under AddressSanitizer and UBSan, and proof that these are on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.plugins.native import cmake

FUZZ_SECONDS = os.environ.get("COVIS_FUZZ_SECONDS", "5")


@pytest.fixture(scope="module")
def programs() -> Path:
    """The folder of the instrumented programs, built with the preset `asan`."""
    if shutil.which("ninja") is None:
        pytest.skip("ninja is not installed")
    cmake("--preset", "asan")
    cmake("--build", "--preset", "asan", "-j2")
    return ROOT / "build" / "asan" / "plugins" / "tests"


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, timeout=500
    )


@pytest.mark.parametrize(
    ("kind", "report"),
    [("address", "heap-buffer-overflow"), ("undefined", "signed integer overflow")],
)
def test_the_sanitizers_are_on(programs: Path, kind: str, report: str) -> None:
    done = run(programs / "covis_canary", kind)
    assert done.returncode != 0
    assert report in done.stderr
    assert "not caught" not in done.stdout


def test_kernels(programs: Path) -> None:
    done = run(programs / "covis_cpu_tests")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok   ") >= 15


def test_validation_under_fuzzing(programs: Path) -> None:
    """COVIS_FUZZ_SECONDS (60 in CI) of arbitrary attributes, shapes and maps."""
    fuzzer = programs / "covis_fuzz_validation"
    with_libfuzzer = b"libFuzzer" in fuzzer.read_bytes()
    limit = f"-max_total_time={FUZZ_SECONDS}" if with_libfuzzer else FUZZ_SECONDS
    done = run(fuzzer, limit)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
