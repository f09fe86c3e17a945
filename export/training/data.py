"""Training samples: synthetic scenes, rendered when needed, cut into sequences of views."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from covis.engines.system.atomic import atomic_file
from covis.export.training.config import TrainingConfig
from covis.synthetic import (
    TRAINING_SEEDS_START,
    SceneSpec,
    build,
    camera_path,
    render,
)

View = dict[str, Tensor]


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

    The window and the samples depend on the configuration and the step alone, so a resumed run
    continues exactly. Scenes are rendered at their first use and cached in memory, and also as
    files if there is a cache folder.

    Args:
        config: Configuration of the run.
        device: Device that renders and stores the scenes.
        cache: Folder of rendered scenes; runs of equal size and shadows share it.
    """

    def __init__(
        self, config: TrainingConfig, device: torch.device | str = "cpu", cache: Path | None = None
    ) -> None:
        self.config, self.device, self.cache = config, torch.device(device), cache
        self.scenes: OrderedDict[str, View] = OrderedDict()

    def batch(self, step: int) -> Batch:
        """Return the samples of a step."""
        config = self.config
        rng = np.random.default_rng([config.seed, step])
        phase = config.phase(step)
        views = int(rng.integers(phase.views[0], phase.views[1] + 1))
        newest = config.warm_scenes + int(step * config.scenes_per_step)
        oldest = max(0, newest - config.pool)
        samples = []
        for _ in range(config.images // views):
            scene = self._scene(int(rng.integers(oldest, newest)))
            chosen = rng.permutation(config.views_per_scene)[:views]
            samples.append({k: v[torch.from_numpy(chosen).to(v.device)] for k, v in scene.items()})
        stacked = {k: torch.stack([s[k] for s in samples]) for k in samples[0]}
        gain = torch.from_numpy(rng.uniform(0.85, 1.15, (len(samples), views, 3, 1, 1))).float()
        stacked["images"] = (stacked["images"].float() / 255 * gain.to(self.device)).clamp(0, 1)
        return normalised(stacked, in_room=phase.in_room)

    def _kind(self, number: int) -> str:
        """Return family and path of a scene, drawn by the phase in which it enters the window."""
        config = self.config
        born = max(0, number - config.warm_scenes) / max(config.scenes_per_step, 1e-9)
        phase = config.phase(min(int(born), config.steps))
        weights = np.array(list(phase.scenes.values()))
        draw = np.random.default_rng([config.seed, number, 1]).choice(
            len(weights), p=weights / weights.sum()
        )
        return list(phase.scenes)[int(draw)]

    def _scene(self, number: int) -> View:
        """Return a rendered scene, from memory, the cache or the renderer."""
        kind, seed = self._kind(number), TRAINING_SEEDS_START + number
        config = self.config
        name = f"{kind.replace('/', '_')}_{seed}_{config.size}_{config.views_per_scene}"
        name += "_shadows" if config.shadows else ""
        scene = self.scenes.pop(name, None)
        if scene is None:
            path = None if self.cache is None else self.cache / f"{name}.safetensors"
            if path is not None and path.is_file():
                scene = load_file(path, device=str(self.device))
            else:
                scene = rendered(
                    kind, seed, config.views_per_scene, config.size, self.device, config.shadows
                )
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with atomic_file(path) as file:  # several runs may share the cache
                        file.write(save({k: v.contiguous() for k, v in scene.items()}))
        self.scenes[name] = scene
        while len(self.scenes) > config.pool:
            self.scenes.popitem(last=False)
        return scene


def rendered(
    kind: str,
    seed: int,
    views: int,
    size: int,
    device: torch.device | str = "cpu",
    shadows: bool = True,
) -> View:
    """Render one scene with torch.

    Args:
        kind: Family and path of the scene, `family/path`.
        seed: Seed of the scene.
        views: Number of views M.
        size: Side of the images in pixels.
        device: Device to render on.
        shadows: True if the scene casts shadows.

    Returns:
        images (M, 3, size, size) uint8; depth (M, size, size) float32 in metres; intrinsics
        (M, 3, 3) and extrinsics (M, 3, 4), float32.
    """
    family, path = kind.split("/")
    world = build(SceneSpec(seed, family))  # type: ignore[arg-type]
    cameras = camera_path(world, views, path)  # type: ignore[arg-type]
    scene = render(world, cameras, size, size, xp=torch, device=device, shadows=shadows)
    return {
        "images": (cast(Tensor, scene.images) * 255).round().to(torch.uint8),
        "depth": cast(Tensor, scene.depth).float(),
        "intrinsics": cast(Tensor, scene.intrinsics).float(),
        "extrinsics": cast(Tensor, scene.extrinsics).float(),
    }


def normalised(samples: View, *, in_room: bool = False) -> Batch:
    """Convert samples to VGGT's frame and unit.

    The first camera is the world, and the mean distance of points is 1.

    Args:
        samples: `images` (B, M, 3, H, W) float in [0, 1]; `depth` (B, M, H, W) in metres;
            `intrinsics` (B, M, 3, 3) of square pixels with a central principal point;
            `extrinsics` (B, M, 3, 4) world to camera.
        in_room: Keep the scene's own world instead of the first camera's.
    """
    depth, extrinsics = samples["depth"], samples["extrinsics"]
    height, width = depth.shape[-2:]
    rotation, translation = extrinsics[..., :3], extrinsics[..., 3]
    if not in_room:
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
