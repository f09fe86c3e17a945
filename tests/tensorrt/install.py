"""Complete the TensorRT that `make trt` runs: libraries beside the Python module, for tests alone.

    pip install --no-deps --target FOLDER -r tests/tensorrt/requirements.txt
    python tests/tensorrt/install.py FOLDER

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
import zipfile
from pathlib import Path

ARTIFACT = "org.bytedeco:tensorrt:10.15-1.5.13:jar:linux-x86_64-redist"
MODULE = "tensorrt_bindings"  # of requirements.txt
# In the order in which they need each other. The builder takes its kernels for any GPU from ptx.
LIBRARIES = (
    "libnvinfer.so.10",
    "libnvinfer_builder_resource_ptx.so.10.15.1",
    "libnvinfer_plugin.so.10",
    "libnvonnxparser.so.10",
)
# What NVIDIA's own package of that name does: the libraries are in memory before the module asks
# the loader for them, so that no search path must be set.
PRELOAD = f"""import ctypes
from pathlib import Path

for name in {LIBRARIES!r}:
    ctypes.CDLL(str(Path(__file__).parent / name))
"""
FACADE = f"from {MODULE} import *\nfrom {MODULE} import __version__\n"


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
        unpack(fetch(Path(scratch)), folder / "tensorrt_libs")
    for name, text in (("tensorrt_libs", PRELOAD), ("tensorrt", FACADE)):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "__init__.py").write_text(text)


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


def unpack(archive: Path, target: Path) -> None:
    """Write the libraries that the tests load into `target`; the rest stays packed."""
    target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as packed:
        places = {Path(name).name: name for name in packed.namelist()}
        for name in LIBRARIES:
            with packed.open(places[name]) as source, (target / name).open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 22)


def main() -> int:
    """Install into the folder that the command names."""
    try:
        install(Path(sys.argv[1]))
    except (UnavailableError, OSError, subprocess.TimeoutExpired) as error:
        print(f"TensorRT's checks are left out: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
