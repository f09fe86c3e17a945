"""The native libraries that came with the package, where there are any."""

from __future__ import annotations

import contextlib
from importlib import metadata
from pathlib import Path

ORT_LIBRARY = "libcovis_ort.so"


def find_library(name: str = ORT_LIBRARY) -> Path | None:
    """A library of the package, or None where it was not built.

    Looked for below `covis/lib`: in the checkout or package this module belongs to, then in the
    installed distribution (an editable install keeps it there and not in the checkout).
    """
    package = Path(__file__).resolve().parent.parent
    places = [package / "lib" / name, package / "covis" / "lib" / name]
    with contextlib.suppress(metadata.PackageNotFoundError):
        places.append(Path(str(metadata.distribution("covis").locate_file(f"covis/lib/{name}"))))
    return next((place for place in places if place.is_file()), None)


def instruction_set(library: Path) -> str:
    """Which of the kernel's variants this processor takes, as the library itself says."""
    import ctypes

    function = ctypes.CDLL(str(library)).covis_cpu_instruction_set
    function.restype = ctypes.c_char_p
    name: bytes = function()
    return name.decode()
