"""A finished part of a collection on the disk: cameras in memory, maps of pixels memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import CovisError, user_error
from covis.engines.system.atomic import atomic_folder
from covis.engines.system.json_file import read_json
from covis.runtime.scene.geometry import Float64
from covis.runtime.scene.scene import Scene

_FACTS = "part.json"
_REQUIRED = ("extrinsics", "intrinsics", "intrinsics_original", "original_sizes", "usable", "depth",
             "valid", "images")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StoredPart:
    """Result of the run of one part, with the arrays of its m views in the order of the run.

    All numbers are finite: a pixel whose depth or confidence is not is 0 and not valid, and the
    camera of a view that is not usable is 0.

    Attributes:
        names: m names of the photos.
        image_size: Size (H, W) of the model's images.
        extrinsics: (m, 3, 4) from the part's world to the camera.
        intrinsics: (m, 3, 3) in pixels of the model's images.
        intrinsics_original: (m, 3, 3) in pixels of the upright original photos.
        original_sizes: (m, 2) height and width of the upright original photos.
        usable: (m,) False for a view without a usable camera.
        depth: (m, H, W) float32 z-depth in the part's own unit, memory-mapped.
        depth_conf: (m, H, W) float32 confidence, memory-mapped; None where the model has none.
        valid: (m, H, W) bool mask of the pixels that may be used, memory-mapped.
        images: (m, 3, H, W) uint8 RGB, memory-mapped.
        metric: True if the unit is the metre.
        facts: Further facts of the run, as JSON values: notes and the share of attention.
    """

    names: tuple[str, ...]
    image_size: tuple[int, int]
    extrinsics: Float64
    intrinsics: Float64
    intrinsics_original: Float64
    original_sizes: NDArray[np.int64]
    usable: NDArray[np.bool_]
    depth: NDArray[np.float32]
    depth_conf: NDArray[np.float32] | None
    valid: NDArray[np.bool_]
    images: NDArray[np.uint8]
    metric: bool
    facts: dict[str, Any]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class FinishedPart:
    """Result of the run of one part, as a worker sends it.

    Attributes:
        arrays: Arrays of `StoredPart` by name.
        content: The rest of `StoredPart`, as JSON values.
    """

    arrays: dict[str, NDArray[Any]]
    content: dict[str, Any]

    def store(self, folder: Path) -> None:
        """Write the part as a folder, whole or not at all.

        Raises:
            CovisError: The folder cannot be written, or the disk is full.
        """
        with atomic_folder(folder) as draft:
            for name, array in self.arrays.items():
                np.save(draft / f"{name}.npy", array, allow_pickle=False)
            (draft / _FACTS).write_text(json.dumps(self.content), encoding="utf-8")


def finished_part(scene: Scene, facts: dict[str, Any]) -> FinishedPart:
    """Return what is kept of the scene of a part: cameras, depth, masks and pixels, all finite.

    Args:
        scene: Result of the part's run, with images.
        facts: Facts to keep with it, as JSON values.
    """
    assert scene.images is not None
    usable = scene.usable_cameras()
    sound = scene.valid & np.isfinite(scene.depth) & usable[:, None, None]
    if scene.depth_conf is not None:
        sound &= np.isfinite(scene.depth_conf)
    arrays: dict[str, NDArray[Any]] = {
        name: np.where(usable[:, None, None], getattr(scene, name), 0.0).astype(np.float64)
        for name in ("extrinsics", "intrinsics", "intrinsics_original")
    }
    arrays |= {
        "original_sizes": np.asarray(scene.original_sizes, np.int64),
        "usable": usable,
        "depth": np.where(sound, scene.depth, 0).astype(np.float32),
        "valid": sound,
        "images": scene.images,
    }
    if scene.depth_conf is not None:
        arrays["depth_conf"] = np.where(sound, scene.depth_conf, 0).astype(np.float32)
    content = {
        "names": list(scene.names),
        "image_size": list(scene.image_size),
        "metric": scene.metric,
        "facts": facts,
    }
    return FinishedPart(arrays, content)


def load_part(folder: Path) -> StoredPart:
    """Open a part that `FinishedPart.store` wrote; its maps of pixels are read when they are used.

    Raises:
        CovisError: A file is missing or damaged.
    """
    try:
        content = read_json(folder / _FACTS, "remove the folder")
        arrays: dict[str, Any] = {name: _array(folder, name) for name in _REQUIRED}
        has_conf = (folder / "depth_conf.npy").exists()
        return StoredPart(
            names=tuple(content["names"]),
            image_size=(int(content["image_size"][0]), int(content["image_size"][1])),
            metric=bool(content["metric"]),
            facts=content["facts"],
            depth_conf=_array(folder, "depth_conf") if has_conf else None,
            **arrays,
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
        raise user_error(
            f"is no finished part of a collection ({type(error).__name__})",
            where=folder,
            hint="remove it, and it is computed again",
        ) from error
    except CovisError as error:
        raise error.replaced(hint="remove the part's folder, and it is computed again") from error


def _array(folder: Path, name: str) -> Any:
    """Open one array: mapped where it has an entry for each pixel, else in memory."""
    mapped = name in ("depth", "depth_conf", "valid", "images")
    return np.load(folder / f"{name}.npy", mmap_mode="r" if mapped else None, allow_pickle=False)


class StoredParts(Sequence[StoredPart]):
    """Finished parts of a collection, opened when they are used.

    A mapped file keeps a descriptor open, and thousands of parts would exceed the limit of a
    process, so that only the last few stay open.

    Args:
        folders: Folder of each part.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._open = lru_cache(maxsize=8)(load_part)

    def __len__(self) -> int:
        return len(self._folders)

    def take(self, indices: NDArray[np.int64]) -> StoredParts:
        """Return some of the parts, in this order."""
        return StoredParts([self._folders[index] for index in indices.tolist()])

    @overload
    def __getitem__(self, index: int) -> StoredPart: ...

    @overload
    def __getitem__(self, index: slice) -> StoredParts: ...

    def __getitem__(self, index: int | slice) -> StoredPart | StoredParts:
        if isinstance(index, slice):
            return StoredParts(self._folders[index])
        return self._open(self._folders[index])
