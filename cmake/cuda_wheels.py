"""Prints where the CUDA wheels of this interpreter are: `cuda=FOLDER` and `cutlass=FOLDER` lines.

A line is left out where the wheel is not installed. `make plugins` installs the toolkit in a folder
of its own inside the environment, `cuda`: torch pins other versions of some of its wheels. Used by
plugins/cuda/CMakeLists.txt.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def package_folders(name: str) -> list[Path]:
    """The folders of an installed package, namespace packages included."""
    spec = importlib.util.find_spec(name)
    return [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []


def main() -> None:
    """Print what was found, the environment's own toolkit first."""
    sys.path.insert(0, str(Path(sys.prefix) / "cuda"))
    toolkits = [
        toolkit
        for folder in package_folders("nvidia")
        for toolkit in sorted(folder.glob("cu1[3-9]"))
        if (toolkit / "bin" / "nvcc").is_file()
    ]
    if toolkits:
        print(f"cuda={toolkits[0]}")
    for folder in package_folders("cutlass_library"):
        headers = folder / "source" / "include"
        if (headers / "cute" / "tensor.hpp").is_file():
            print(f"cutlass={headers}")


if __name__ == "__main__":
    main()
