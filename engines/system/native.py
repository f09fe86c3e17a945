"""Find the project's native libraries, in an installed package or in a checkout.

A library is code, so it is found only where others cannot write; see `own_files`.
"""

from __future__ import annotations

import contextlib
import ctypes
from importlib import metadata
from pathlib import Path
from typing import Final

from covis.engines.system.own_files import check_own

ORT_LIBRARY: Final = "libcovis_ort.so"
PLUGIN_LIBRARY: Final = "libcovis_trt.so"
KERNELS_LIBRARY: Final = "libcovis_kernels.so"

_BUILD_FOLDER: Final = {PLUGIN_LIBRARY: "build/tensorrt", KERNELS_LIBRARY: "build/cuda"}


def find_library(name: str, path: Path | None = None) -> Path | None:
    """Find a native library of the project; return None if it was not built.

    The first place that contains it wins: `covis/lib` of the package that this module belongs to,
    the checkout's build folder, `covis/lib` of the installed distribution (where an editable
    install puts what it compiled).

    Args:
        name: File name of the library, one of the constants above.
        path: File that the user named; no other place is searched then.

    Returns:
        Its real path, links resolved.

    Raises:
        CovisError: somebody else could have written the library (exit code 3).
    """
    root = Path(__file__).resolve().parents[2]  # the package `covis`, or a checkout's root
    if path is not None:
        return check_own(path) if path.is_file() else None
    places = [root / "lib" / name]
    if name in _BUILD_FOLDER:
        places.append(root / _BUILD_FOLDER[name] / name)
    with contextlib.suppress(metadata.PackageNotFoundError):
        places.append(Path(str(metadata.distribution("covis").locate_file(f"covis/lib/{name}"))))
    return next((check_own(place) for place in places if place.is_file()), None)


def find_kernels_of(plugin: Path) -> Path | None:
    """Find the kernels that a plugin library loads: beside it, else in the build tree.

    None: there are none, and the plugin cannot run its ops.

    Raises:
        CovisError: somebody else could have written them (exit code 3).
    """
    folder = plugin.resolve().parent
    places = (folder / KERNELS_LIBRARY, folder.parent / "cuda" / KERNELS_LIBRARY)
    found = next((place for place in places if place.is_file()), None)
    if found is not None:
        check_own(found)
    return found


def instruction_set(library: Path) -> str:
    """Return the kernel variant that `libcovis_ort` uses on this processor, e.g. "avx2"."""
    function = ctypes.CDLL(str(library)).covis_cpu_instruction_set
    function.restype = ctypes.c_char_p
    name: bytes = function()
    return name.decode()
