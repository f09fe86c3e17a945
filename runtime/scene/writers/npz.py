"""`scene.npz`: every array of the scene, readable with numpy alone and without pickle."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.runtime.scene.view_files import release, write_header
from covis.runtime.scene.writers.folder import SceneFolder

_ARRAYS = (
    "extrinsics",
    "intrinsics",
    "intrinsics_original",
    "original_sizes",
    "images",
    "depth",
    "depth_conf",
    "points",
    "points_conf",
    "valid",
    "similarity",
    "pair_level",
    "pair_levels",
    "layer_map",
    "anchors",
)


def write_npz(folder: SceneFolder) -> list[Path]:
    """Write all arrays under the names of `Scene`, and `names`, `metric`, `sparsity`, `provenance`.

    The last two are JSON text. Nothing is filtered; use `valid` and the confidences for that.
    """
    scene = folder.scene
    arrays: dict[str, Any] = {
        name: getattr(scene, name) for name in _ARRAYS if getattr(scene, name) is not None
    }
    arrays["names"] = np.array(scene.names, dtype=np.str_)
    arrays["metric"] = np.array(scene.metric)
    arrays["provenance"] = np.array(json.dumps(dict(scene.provenance), default=str))
    if scene.sparsity is not None:
        arrays["sparsity"] = np.array(json.dumps(asdict(scene.sparsity), default=np.ndarray.tolist))
    path = folder.place / "scene.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            _write(archive, name, array)
    return [path]


def _write(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    """Write one array, entry by entry: `np.savez` would map a memory-mapped one as a whole."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        write_header(member, array.shape, array.dtype)
        for entry in array if array.ndim > 1 else (array,):
            member.write(entry.tobytes())
            release(array)
