"""Training samples: sequences of views of synthetic scenes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covis.export.training.config import TrainingConfig
from covis.export.training.rendering import RenderAhead, Request, View, cached
from covis.synthetic import TRAINING_SEEDS_START

# Steps ahead of which scenes are ordered from the rendering processes.
_AHEAD = 200


@dataclass(frozen=True)
class Batch:
    """B samples of M views; the first view's camera is the world.

    The unit of lengths is the mean distance of points.

    Attributes:
        images: Images (B, M, 3, H, W) in [0, 1].
        depth: z-depth (B, M, H, W).
        points: Points (B, M, H, W, 3) in the frame of view 0.
        pose: Translation, unit quaternion xyzw, vertical and horizontal field of view (B, M, 9).
        extrinsics: World (view 0) to camera (B, M, 3, 4).
        scale: Metres per unit (B,).
    """

    images: Tensor
    depth: Tensor
    points: Tensor
    pose: Tensor
    extrinsics: Tensor
    scale: Tensor


class Pool:
    """Scenes that samples are drawn from, a window that moves on with the steps.

    The window and the samples depend on the configuration, the step and the progress alone, so a
    resumed run of a fixed number of steps continues exactly. Scenes are cached in memory, and also
    as files if there is a cache folder.

    Args:
        config: Configuration of the run.
        device: Device that stores the scenes, and renders them where there are no workers.
        cache: Folder of rendered scenes; runs of equal size, supersampling and shadows share it.
        workers: Processes that render on the CPU the scenes of coming steps; 0: scenes are rendered
            when they are needed.
    """

    def __init__(
        self,
        config: TrainingConfig,
        device: torch.device | str = "cpu",
        cache: Path | None = None,
        workers: int = 0,
    ) -> None:
        self.config, self.device, self.cache = config, torch.device(device), cache
        self.scenes: OrderedDict[str, View] = OrderedDict()
        self.renderers = RenderAhead(workers) if workers else None
        self.ordered = 0  # scenes up to this number are in work or done

    def batch(self, step: int, progress: float | None = None) -> Batch:
        """Return the samples of a step.

        Args:
            step: Number of steps done before.
            progress: Position in the schedule; None: that of a schedule of `config.steps`.
        """
        config = self.config
        progress = config.progress(step, 0.0) if progress is None else progress
        rng = np.random.default_rng([config.seed, step])
        phase = config.phase(progress)
        views = int(rng.integers(phase.views[0], phase.views[1] + 1))
        newest = self._newest(step)
        oldest = max(0, newest - config.pool)
        pace = progress / step if step else 1 / config.steps
        if self.renderers is not None:
            for number in range(max(oldest, self.ordered), self._newest(step + _AHEAD)):
                self.renderers.order(self._request(number, pace), self.cache)
                self.ordered = number + 1
        samples = []
        for _ in range(config.images // views):
            scene = self._scene(self._request(int(rng.integers(oldest, newest)), pace))
            chosen = window_of_views(rng, config.views_per_scene, views, phase.window)
            samples.append({k: v[torch.from_numpy(chosen).to(v.device)] for k, v in scene.items()})
        stacked = {k: torch.stack([s[k] for s in samples]) for k in samples[0]}
        gain = torch.from_numpy(rng.uniform(0.85, 1.15, (len(samples), views, 3, 1, 1))).float()
        stacked["images"] = (stacked["images"].float() / 255 * gain.to(self.device)).clamp(0, 1)
        return normalised(stacked)

    def close(self) -> None:
        """End the rendering processes."""
        if self.renderers is not None:
            self.renderers.close()

    def _newest(self, step: int) -> int:
        return self.config.warm_scenes + int(step * self.config.scenes_per_step)

    def _request(self, number: int, pace: float) -> Request:
        """Return the request of a scene, its kind drawn by the phase in which it enters the window.

        Args:
            number: Number of the scene.
            pace: Progress of a step.
        """
        config = self.config
        born = max(0, number - config.warm_scenes) / max(config.scenes_per_step, 1e-9)
        phase = config.phase(min(1.0, born * pace))
        weights = np.array(list(phase.scenes.values()))
        draw = np.random.default_rng([config.seed, number, 1]).choice(
            len(weights), p=weights / weights.sum()
        )
        return Request(
            list(phase.scenes)[int(draw)],
            TRAINING_SEEDS_START + number,
            config.views_per_scene,
            config.size,
            config.supersample,
            config.shadows,
        )

    def _scene(self, request: Request) -> View:
        """Return a rendered scene, from memory, a renderer, the cache or rendered now."""
        name = request.name
        scene = self.scenes.pop(name, None)
        if scene is None and self.renderers is not None:
            scene = self.renderers.take(request)
        if scene is None:
            scene = cached(request, self.cache, self.device)
        scene = {k: v.to(self.device) for k, v in scene.items()}
        self.scenes[name] = scene
        while len(self.scenes) > self.config.pool:
            self.scenes.popitem(last=False)
        return scene


def window_of_views(
    rng: np.random.Generator, path: int, views: int, window: tuple[float, float]
) -> NDArray[np.int64]:
    """Draw views (M,) in random order from a window of a camera path.

    Args:
        rng: Random generator.
        path: Number of views along the path.
        views: Number of views M.
        window: Smallest and largest share of the path that the views come from.
    """
    length = max(views, round(float(rng.uniform(*window)) * path))
    start = int(rng.integers(0, path - length + 1))
    return start + rng.permutation(length)[:views]


def normalised(samples: View) -> Batch:
    """Convert samples to VGGT's frame and unit.

    The first camera is the world, and the mean distance of points is 1.

    Args:
        samples: `images` (B, M, 3, H, W) float in [0, 1]; `depth` (B, M, H, W) in metres;
            `intrinsics` (B, M, 3, 3) of square pixels with a central principal point;
            `extrinsics` (B, M, 3, 4) world to camera.
    """
    depth, extrinsics = samples["depth"], samples["extrinsics"]
    height, width = depth.shape[-2:]
    rotation, translation = extrinsics[..., :3], extrinsics[..., 3]
    first, offset = rotation[:, :1], translation[:, :1]
    rotation = rotation @ first.transpose(-1, -2)
    translation = translation - (rotation @ offset[..., None])[..., 0]
    focal = samples["intrinsics"][..., 0, 0]
    y, x = torch.meshgrid(
        torch.arange(height, device=depth.device) + 0.5 - height / 2,
        torch.arange(width, device=depth.device) + 0.5 - width / 2,
        indexing="ij",
    )
    rays = torch.stack([x, y], dim=-1) / focal[:, :, None, None, None]
    rays = torch.cat([rays, torch.ones_like(rays[..., :1])], dim=-1)
    local = rays * depth[..., None]
    # Row vectors: R^T (x - t) is (x - t) R.
    moved = local.flatten(2, 3) - translation[:, :, None]
    points = (moved @ rotation).reshape(local.shape)
    scale = points.norm(dim=-1).mean(dim=(1, 2, 3))
    translation = translation / scale[:, None, None]
    fov = torch.stack(
        [2 * torch.atan(height / 2 / focal), 2 * torch.atan(width / 2 / focal)], dim=-1
    )
    pose = torch.cat([translation, matrix_to_quaternion(rotation), fov], dim=-1)
    return Batch(
        samples["images"],
        depth / scale[:, None, None, None],
        points / scale[:, None, None, None, None],
        pose,
        torch.cat([rotation, translation[..., None]], dim=-1),
        scale,
    )


def matrix_to_quaternion(rotation: Tensor) -> Tensor:
    """Convert rotations (..., 3, 3) to unit quaternions xyzw (..., 4) with w >= 0.

    The largest of the four squares comes from the diagonal, the other components from the
    off-diagonal sums, divided by it (Shepperd 1978).
    """
    m = rotation
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    xy, xz, yz = m[..., 0, 1], m[..., 0, 2], m[..., 1, 2]
    yx, zx, zy = m[..., 1, 0], m[..., 2, 0], m[..., 2, 1]
    # Row k: four times component k of the quaternion, times the whole quaternion.
    candidates = torch.stack(
        [
            torch.stack([1 + m00 - m11 - m22, xy + yx, xz + zx, zy - yz], -1),
            torch.stack([xy + yx, 1 - m00 + m11 - m22, yz + zy, xz - zx], -1),
            torch.stack([xz + zx, yz + zy, 1 - m00 - m11 + m22, yx - xy], -1),
            torch.stack([zy - yz, xz - zx, yx - xy, 1 + m00 + m11 + m22], -1),
        ],
        dim=-2,
    )
    best = candidates.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    index = best[..., None, None].expand(*best.shape, 1, 4)
    quaternion = candidates.gather(-2, index).squeeze(-2)
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
