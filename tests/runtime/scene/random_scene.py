"""Random `Scene`: random cameras and depth, the same for the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from covis.engines.bundle.pixel_rule import PixelRule
from covis.runtime.photos.preprocess import transform_for
from covis.runtime.scene import geometry
from covis.runtime.scene.scene import Scene, SparsityReport


def random_scene(
    views: int = 3,
    names: tuple[str, ...] | None = None,
    rule: PixelRule | None = None,
    seed: int = 0,
    **changes: Any,
) -> Scene:
    """Create `views` views of 28 x 42 pixels, from photos of several sizes; reproducible."""
    rng = np.random.default_rng(seed)
    rule = rule or PixelRule("vggt_crop", 28, 42)
    H, W = rule.height, rule.width
    originals = [(100 + 7 * i, 161 + 3 * i) for i in range(views)]
    transforms = [transform_for(rule, *size) for size in originals]
    K = np.zeros((views, 3, 3))
    K[:, 0, 0], K[:, 1, 1] = rng.uniform(30, 60, views), rng.uniform(30, 60, views)
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = W / 2 + rng.normal(size=views), H / 2, 1
    quaternion = rng.normal([0, 0, 0, 1], 0.3, (views, 4))
    rotation = geometry.quaternion_to_rotation(quaternion)
    extrinsics = np.concatenate([rotation, rng.normal(size=(views, 3, 1))], axis=-1)
    similarity = np.eye(views) + (1 - np.eye(views)) * rng.uniform(0.3, 1.0, (views, views))
    similarity = (similarity + similarity.T) / 2
    level = np.where(similarity >= 0.7, 2, 0).astype(np.int8)
    scene: dict[str, Any] = {
        "names": names or tuple(f"{i:03d}.jpg" for i in range(views)),
        "extrinsics": extrinsics,
        "intrinsics": K,
        "intrinsics_original": np.stack(
            [t.to_original(k) for t, k in zip(transforms, K, strict=True)]
        ),
        "image_size": (H, W),
        "original_sizes": np.array(originals),
        "images": rng.integers(0, 256, (views, 3, H, W), dtype=np.uint8),
        "depth": rng.uniform(2, 4, (views, H, W)).astype(np.float32),
        "depth_conf": rng.uniform(1, 9, (views, H, W)).astype(np.float32),
        "valid": np.stack([t.valid() for t in transforms]),
        "similarity": similarity.astype(np.float32),
        "pair_levels": level[None],
        "layer_map": np.zeros(2, np.int64),
        "sparsity": SparsityReport(
            layers=(0, 1),
            kept_blocks=np.full((2, 4), 0.5, np.float32),
            relative_blocks=float((level > 0).mean()),
            kept_pairs=int((level > 0).sum()),
            attention_work=0.5,
            selector="saliency",
        ),
        "provenance": {"model": "random", "seed": seed},
    }
    scene.update(changes)
    return Scene(**scene)
