"""Complete the TensorRT that `make trt` runs: libraries beside the Python module, for tests alone.

    pip install --no-deps --target FOLDER -r tests/tensorrt/requirements.txt
    python -m tests.tensorrt.install FOLDER

TensorRT's libraries for Linux on x86-64 come from Maven Central, in an archive of 533 MB; they need
1 GB in FOLDER. Whoever has a TensorRT of their own needs none of this: `python -m pytest -m trt`
takes the `tensorrt` module that it can import. Where something cannot be had, one line says what,
and the exit code is 1.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.tensorrt.layout import MODULE, name_module, unpack_libraries

ARTIFACT = "org.bytedeco:tensorrt:10.15-1.5.13:jar:linux-x86_64-redist"
LIBRARIES = (
    "libnvinfer.so",
    "libnvinfer_builder_resource_ptx.so",  # kernels for any GPU, which the builder opens by name
    "libnvinfer_plugin.so",
    "libnvonnxparser.so",
)


class UnavailableError(Exception):
    """What cannot be had, and why."""


def install(folder: Path) -> None:
    """Unpack the libraries into `folder` and give the module its name, `tensorrt`.

    Raises:
        UnavailableError: the module is not in `folder`, or Maven brings no libraries.
    """
    if not (folder / MODULE).is_dir():
        raise UnavailableError(f"pip brought no {MODULE} for this Python and system")
    with tempfile.TemporaryDirectory() as scratch:
        name_module(folder, unpack_libraries(fetch(Path(scratch)), folder, LIBRARIES))


def fetch(folder: Path) -> Path:
    """The archive of TensorRT's libraries, brought into `folder` by Maven."""
    if shutil.which("mvn") is None:
        raise UnavailableError("mvn, which brings TensorRT's libraries, is not installed")
    goal = ["dependency:copy", f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={folder}"]
    done = subprocess.run(
        ["mvn", "--batch-mode", "--quiet", *goal],
        cwd=folder, check=False, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    found = sorted(folder.glob("*.jar"))
    if done.returncode != 0 or not found:
        lines = [line for line in done.stdout.splitlines() if "ERROR" in line]
        raise UnavailableError(f"Maven has no {ARTIFACT} here ({''.join(lines[:1])[:200]})")
    return found[0]


def main() -> int:
    """Install into the folder that the command names."""
    try:
        install(Path(sys.argv[1]))
    except (UnavailableError, OSError, ValueError, subprocess.TimeoutExpired) as error:
        print(f"TensorRT's checks are left out: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
