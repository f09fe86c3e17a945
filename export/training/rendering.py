"""Rendering of training scenes: now, from a cache, or ahead of time in other processes."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor

from covis.engines.system.atomic import atomic_file
from covis.engines.system.children import end_with_parent
from covis.synthetic import SceneSpec, build, camera_path, render

View = dict[str, Tensor]
"""`images` (M, 3, H, W) uint8; `depth` (M, H, W) float32 in metres; `intrinsics` (M, 3, 3) and
`extrinsics` (M, 3, 4) float32, world to camera."""


@dataclass(frozen=True)
class Request:
    """One scene to render.

    Attributes:
        kind: Family and path of the scene, `family/path`.
        seed: Seed of the scene.
        views: Number of views M along the path.
        size: Side of the images in pixels.
        supersample: Colour rays of a pixel, along each axis.
        shadows: True if the scene casts shadows.
    """

    kind: str
    seed: int
    views: int
    size: int
    supersample: int = 2
    shadows: bool = True

    @property
    def name(self) -> str:
        """Name of the scene's file in a cache, without its suffix."""
        shadows = "_shadows" if self.shadows else ""
        kind = self.kind.replace("/", "_")
        return f"{kind}_{self.seed}_{self.size}_{self.views}_{self.supersample}{shadows}"


def rendered(request: Request, device: torch.device | str = "cpu") -> View:
    """Render a scene with torch."""
    family, path = request.kind.split("/")
    world = build(SceneSpec(request.seed, family))  # type: ignore[arg-type]
    cameras = camera_path(world, request.views, path)  # type: ignore[arg-type]
    with torch.inference_mode():
        scene = render(
            world,
            cameras,
            request.size,
            request.size,
            xp=torch,
            device=device,
            supersample=request.supersample,
            shadows=request.shadows,
            dtype=torch.float32,
        )
        view = {
            "images": (cast(Tensor, scene.images) * 255).round().to(torch.uint8),
            "depth": cast(Tensor, scene.depth),
            "intrinsics": cast(Tensor, scene.intrinsics),
            "extrinsics": cast(Tensor, scene.extrinsics),
        }
    return {k: v.clone() for k, v in view.items()}  # training saves them for its backward pass


def cached(request: Request, cache: Path | None, device: torch.device | str = "cpu") -> View:
    """Read a scene from a cache folder, or render it and write it there."""
    path = None if cache is None else cache / f"{request.name}.safetensors"
    if path is not None and path.is_file():
        return load_file(path, device=str(device))
    scene = rendered(request, device)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:  # several runs may share the cache
            file.write(save({k: v.contiguous() for k, v in scene.items()}))
    return scene


class RenderAhead:
    """Processes that render scenes on the CPU before they are needed.

    Args:
        workers: Number of processes, one thread each.
    """

    def __init__(self, workers: int) -> None:
        # A forked copy of a process with torch threads may hang, hence "spawn".
        self.processes = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
        )
        self.orders: dict[str, Future[dict[str, NDArray[Any]]]] = {}

    def order(self, request: Request, cache: Path | None) -> None:
        """Queue a scene; the first ordered is the first rendered."""
        if request.name not in self.orders:
            self.orders[request.name] = self.processes.submit(_arrays, request, cache)

    def take(self, request: Request) -> View | None:
        """Return an ordered scene; None if the caller should render it.

        That is where nobody ordered it, or where it is still in the queue: two that render are
        faster than one that waits, as at the start of a run and after it is resumed.
        """
        order = self.orders.pop(request.name, None)
        if order is None or order.cancel():
            return None
        return {k: torch.from_numpy(v) for k, v in order.result().items()}

    def close(self) -> None:
        """End the processes; scenes not yet begun are dropped."""
        self.processes.shutdown(cancel_futures=True)


def _begin() -> None:
    end_with_parent()
    torch.set_num_threads(1)


def _arrays(request: Request, cache: Path | None) -> dict[str, NDArray[Any]]:
    # Arrays, because tensors would travel through one file descriptor each.
    return {k: np.asarray(v) for k, v in cached(request, cache).items()}
