"""Find ONNX Runtime's C headers: in the installed packages, or in a wheel that carries them.

The onnxruntime wheel has no headers; amd-quark's (MIT, as are the headers) has those of 1.17. The
C API is versioned and append-only, so a library built with them runs on every later runtime.

    python fetch_ort_headers.py installed FOLDER   # look in this interpreter's packages
    python fetch_ort_headers.py wheel FOLDER       # download the wheel, extract headers to FOLDER

Prints the folder of onnxruntime_c_api.h; exits with 1 and one line on stderr if there is none.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "amd-quark==0.13"
HEADER = "onnxruntime_c_api.h"
OPTIONAL = ("onnxruntime_cxx_api.h", "onnxruntime_cxx_inline.h", "onnxruntime_float16.h")
MOST_BYTES = 64 << 20  # the wheel has 2.7 MB; more is not what was asked for


def installed() -> Path | None:
    """The newest headers under this interpreter's site-packages."""
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    found: list[Path] = []
    for place in places:
        for package in ("onnxruntime", "quark"):
            found += (Path(place) / package).glob(f"**/{HEADER}")
    return max(found).parent if found else None


def from_wheel(folder: Path) -> Path:
    """Download the wheel and extract the headers to `folder`.

    Raises:
        RuntimeError: no downloader worked, or the wheel is not as expected.
    """
    if (folder / HEADER).is_file():
        return folder
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _download(Path(scratch))
        if wheel.stat().st_size > MOST_BYTES:
            raise RuntimeError(f"{wheel.name} has {wheel.stat().st_size} bytes, expected 3 MB")
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith("/" + HEADER)]
            if not names:
                raise RuntimeError(f"{wheel.name} has no {HEADER}")
            root = max(names).removesuffix(HEADER)
            folder.mkdir(parents=True, exist_ok=True)
            for name in (*OPTIONAL, HEADER):  # the one that is looked for comes last
                if root + name in archive.namelist():
                    (folder / name).write_bytes(archive.read(root + name))
    return folder


def _download(folder: Path) -> Path:
    """The wheel, by this interpreter's pip or by any on the path (an isolated build has none)."""
    pip = ("download", "--no-deps", "--quiet", "--dest", str(folder), PACKAGE)
    programs: list[tuple[str, ...]] = [(sys.executable, "-m", "pip")]
    programs += [(path,) for path in (shutil.which("pip"), shutil.which("pip3")) if path]
    reasons: list[str] = []
    for program in programs:
        command = (*program, *pip)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)
        wheels = sorted(folder.glob("*.whl"))
        if done.returncode == 0 and wheels:
            return wheels[0]
        reasons.append((done.stderr.strip() or "no wheel").splitlines()[-1])
    raise RuntimeError(f"pip download {PACKAGE}: {'; '.join(reasons)}")


def main() -> int:
    """Entry point; see the module's text."""
    source, folder = sys.argv[1], Path(sys.argv[2])
    try:
        found = installed() if source == "installed" else from_wheel(folder)
    except (RuntimeError, OSError, subprocess.TimeoutExpired, zipfile.BadZipFile) as error:
        print(error, file=sys.stderr)
        return 1
    if found is None:
        print("no installed package has them", file=sys.stderr)
        return 1
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
