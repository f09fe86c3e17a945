"""Objective of a training step: the model's losses, and the auxiliary ones while they last."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from covis.export.models.vggt import Vggt
from covis.export.training.auxiliary import POSE_NUMBERS, AuxiliaryHeads, Recording
from covis.export.training.config import TrainingConfig
from covis.export.training.correspondences import correspondences
from covis.export.training.data import Batch
from covis.export.training.losses import attention_loss, camera_loss, flow_loss, map_loss

# Factors of the auxiliary losses against each other.
FLOW, POINTS, POSE = 2.0, 1.0, 5.0


@dataclass(frozen=True)
class Losses:
    """Terms of a step's loss, each without its factor.

    Attributes:
        camera: Error of the poses.
        depth: Length of the depth error, weighted by confidence as in the paper.
        points: The same of the point maps.
        attention: Negative log of the attention to true matches, mean of the supervised layers.
        flow: Error of the positions in view 0 that a linear head reads.
        patch_points: Error of the 3D points of patches that a linear head reads.
        patch_pose: Error of the poses that a linear head reads.
        matched: Share of patches that attend most to their match; measured, not minimised.
    """

    camera: Tensor
    depth: Tensor
    points: Tensor
    attention: Tensor
    flow: Tensor
    patch_points: Tensor
    patch_pose: Tensor
    matched: Tensor

    def total(self, config: TrainingConfig, progress: float) -> Tensor:
        """Return the minimised sum at a progress from 0 to 1."""
        outputs = config.pose_weight * self.camera + self.depth + self.points
        aids = (
            self.attention + FLOW * self.flow + POINTS * self.patch_points + POSE * self.patch_pose
        )
        return outputs + auxiliary_weight(config, progress) * aids

    def record(self) -> dict[str, float]:
        """Return the terms as numbers, by name."""
        return {f.name: float(getattr(self, f.name).detach()) for f in fields(self)}


LOSSES = tuple(f.name for f in fields(Losses))


def auxiliary_weight(config: TrainingConfig, progress: float) -> float:
    """Return the factor of the auxiliary losses: constant, then a cosine to 0 at the end."""
    if progress <= config.fade:
        return config.auxiliary
    share = min(1.0, (progress - config.fade) / (1 - config.fade))
    return config.auxiliary * (0.5 + 0.5 * math.cos(math.pi * share))


def compute_losses(
    model: Vggt, heads: AuxiliaryHeads, batch: Batch, config: TrainingConfig, step: int
) -> Losses:
    """Run the model on a batch.

    Cameras and the auxiliary losses are supervised on all images, depth and points on `map_frames`
    random ones. The trunk runs in bfloat16 where the device computes it fast.
    """
    samples, views, _, height, width = batch.images.shape
    recording = Recording(
        model.layout(height, width),
        frozenset(config.attention_layers),
        frozenset({config.flow_layer, config.pose_layer}),
    )
    corrections: list[Tensor] = []
    hook = model.camera_head.pose_branch.register_forward_hook(
        lambda _module, _inputs, output: corrections.append(output)
    )
    kind = batch.images.device.type
    try:
        with (
            torch.autocast(kind, torch.bfloat16, enabled=fast_bfloat16(kind)),
            recording.observed(model),
        ):
            encoded = model.encode(batch.images.flatten(0, 1))
            by_sample = tuple(x.reshape(samples, views, *x.shape[1:]) for x in encoded)
            camera_token, *taps = model.aggregate(by_sample, height, width, recording)
        model.camera_head(camera_token.float())
    finally:
        hook.remove()
    refinements = [torch.stack(corrections[: i + 1]).sum(0) for i in range(len(corrections))]

    rng = np.random.default_rng([config.seed, step, 2])
    count = min(config.map_frames, samples * views)
    frames = torch.from_numpy(rng.permutation(samples * views)[:count]).to(batch.images.device)
    chosen = [tap.flatten(0, 1)[frames].float() for tap in taps]
    depth, depth_confidence = model.depth(chosen, height, width)
    points, points_confidence = model.points(chosen, height, width)
    true_depth = batch.depth.flatten(0, 1)[frames]
    true_points = batch.points.flatten(0, 1)[frames]

    matches = correspondences(batch)
    attention, matched = zip(
        *(attention_loss(*qk, recording.layout, matches) for qk in recording.attention.values()),
        strict=True,
    )
    positions = heads.flow(recording.patches(config.flow_layer, views).float())
    tokens = recording.patches(config.pose_layer, views).float()
    pose = heads.pose(tokens.mean(dim=2))
    return Losses(
        camera=camera_loss(refinements, batch.pose),
        depth=map_loss(depth[..., None], depth_confidence, true_depth[..., None]),
        points=map_loss(points, points_confidence, true_points),
        attention=torch.stack(attention).mean(),
        flow=flow_loss(positions, matches),
        patch_points=(heads.points(tokens) - matches.points).norm(dim=-1).mean(),
        patch_pose=(pose - batch.pose[..., :POSE_NUMBERS])[:, 1:].abs().mean(),
        matched=torch.stack(matched).mean(),
    )


def fast_bfloat16(device: str) -> bool:
    """Return True if matrix products in bfloat16 are faster than in float32 on a kind of device."""
    if device != "cpu":
        return True
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
