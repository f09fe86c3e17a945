"""Stored parts of views whose cameras and depth are known, each in a world of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from covis.runtime.collection.stored_part import StoredPart
from covis.runtime.scene.geometry import Float64
from covis.runtime.scene.similarity import Similarity
from tests.evaluation.geometry import rotation

H, W = 28, 42


def true_part(views: int, seed: int = 0, *, flat: bool = False) -> StoredPart:
    """Create views about the origin that look at a relief 2 to 4 away, or all at one plane."""
    rng = np.random.default_rng(seed)
    extrinsics = np.empty((views, 3, 4))
    for camera in extrinsics:
        camera[:, :3] = rotation(rng, 0.1 if flat else 0.7)
        camera[:, 3] = rng.normal(scale=0.3, size=3)
    K = np.array([[40.0, 0, W / 2], [0, 41.0, H / 2], [0, 0, 1]])
    v, u = np.mgrid[:H, :W] + 0.5
    if flat:  # the plane z = 3 of the world
        rays = np.stack([(u - W / 2) / 40, (v - H / 2) / 41, np.ones_like(u)], axis=-1)
        along = np.einsum("mji,hwj->mhwi", extrinsics[:, :, :3], rays)[..., 2]
        start = -np.einsum("mji,mj->mi", extrinsics[:, :, :3], extrinsics[:, :, 3])[:, 2]
        depth = (3 - start[:, None, None]) / along
    else:
        phase = rng.uniform(0, 6, (3, views, 1, 1))
        depth = 3 + np.sin(0.3 * u + phase[0]) * np.cos(0.4 * v + phase[1]) * np.cos(phase[2])
    return StoredPart(
        names=tuple(f"{i:03d}.jpg" for i in range(views)),
        image_size=(H, W),
        extrinsics=extrinsics,
        intrinsics=np.tile(K, (views, 1, 1)),
        intrinsics_original=np.tile(K, (views, 1, 1)),
        original_sizes=np.tile(np.array([H, W], np.int64), (views, 1)),
        usable=np.ones(views, np.bool_),
        depth=depth.astype(np.float32),
        depth_conf=rng.uniform(1, 9, (views, H, W)).astype(np.float32),
        valid=np.ones((views, H, W), np.bool_),
        images=np.zeros((views, 3, H, W), np.uint8),
        metric=False,
        facts={},
    )


def in_world(part: StoredPart, motion: Similarity) -> StoredPart:
    """Return the part in the world that `motion` maps its own world to."""
    return replace(
        part,
        extrinsics=motion.cameras(part.extrinsics),
        depth=(part.depth * motion.scale).astype(np.float32),
    )


def some_motion(seed: int, scale: float = 1.7) -> Similarity:
    """Create a similarity of this scale with any rotation, and a translation up to 10 scales."""
    rng = np.random.default_rng(seed)
    return Similarity(scale, rotation(rng), scale * rng.uniform(-10, 10, 3))


def difference(found: Similarity, true: Similarity) -> tuple[float, float, Float64]:
    """Return how far a similarity is from the true one: |log scale|, degrees, shift."""
    rest = true.inverse().after(found)
    cosine = np.clip((np.trace(rest.rotation) - 1) / 2, -1, 1)
    return abs(float(np.log(rest.scale))), float(np.degrees(np.arccos(cosine))), rest.translation
