"""A folder that Python imports `tensorrt` from, libraries included."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

MODULE = "tensorrt_bindings"  # NVIDIA's own name for the module of its wheels
# What NVIDIA's own package of libraries does: they are in memory before the module asks the loader
# for them, so that no search path must be set.
_PRELOAD = """import ctypes
from pathlib import Path

for name in {names!r}:
    ctypes.CDLL(str(Path(__file__).parent / name))
"""
_FACADE = f"from {MODULE} import *\nfrom {MODULE} import __version__\n"


def unpack_libraries(archive: Path, folder: Path, stems: Sequence[str]) -> list[str]:
    """Write the libraries whose names begin with `stems` into FOLDER/tensorrt_libs.

    Args:
        archive: a zip file; its folders do not matter.
        folder: as above.
        stems: e.g. "libnvinfer.so", in the order in which the libraries need each other.

    Returns:
        The names of the libraries, in that order.

    Raises:
        ValueError: one is not in the archive.
    """
    target = folder / "tensorrt_libs"
    target.mkdir(parents=True, exist_ok=True)
    found = []
    with zipfile.ZipFile(archive) as packed:
        for stem in stems:
            place = next((n for n in packed.namelist() if Path(n).name.startswith(stem)), None)
            if place is None:
                raise ValueError(f"{archive}: holds no {stem}")
            found.append(Path(place).name)
            with packed.open(place) as source, (target / found[-1]).open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 22)
    return found


def name_module(folder: Path, libraries: Sequence[str]) -> None:
    """Make `import tensorrt` load `libraries`, one after the other, and then the wheel's module."""
    texts = {"tensorrt_libs": _PRELOAD.format(names=[*libraries]), "tensorrt": _FACADE}
    for package, text in texts.items():
        (folder / package).mkdir(exist_ok=True)
        (folder / package / "__init__.py").write_text(text)
