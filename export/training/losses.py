"""Published losses of VGGT (Wang et al. 2025, section 3.4): cameras, depth, point maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

# Weight of -log(confidence), and of earlier refinements of the cameras against the last.
ALPHA = 0.2
GAMMA = 0.6
HUBER_DELTA = 0.1


def camera_loss(refinements: Sequence[Tensor], target: Tensor) -> Tensor:
    """Return the Huber loss of pose encodings, with larger weights for later refinements.

    A quaternion and its negative are one rotation: the error is that to the nearer one.

    Args:
        refinements: Pose encodings (B, M, 9) of each refinement, first to last.
        target: True pose encodings (B, M, 9) with unit quaternions.
    """
    total = target.new_zeros(())
    weight = 0.0
    flipped = torch.cat([target[..., :3], -target[..., 3:7], target[..., 7:]], dim=-1)
    for i, pose in enumerate(refinements):
        errors = torch.stack([_huber(pose - t) for t in (target, flipped)])
        factor = GAMMA ** (len(refinements) - 1 - i)
        total = total + factor * errors.amin(dim=0).mean()
        weight += factor
    return total / weight


def _huber(error: Tensor) -> Tensor:
    """Sum Huber's function over the encoding, with slope 1 far out: (..., 9) -> (...)."""
    zero = torch.zeros_like(error)
    each = huber_loss(error, zero, reduction="none", delta=HUBER_DELTA) / HUBER_DELTA
    return each.sum(dim=-1)


def map_loss(predicted: Tensor, confidence: Tensor, target: Tensor) -> Tensor:
    """Return the confidence-weighted error of a map and its gradients, minus alpha log confidence.

    Args:
        predicted: Predicted map (N, H, W, C).
        confidence: Predicted confidence (N, H, W), above 0.
        target: True map (N, H, W, C).
    """
    error = predicted - target
    loss = (confidence * _length(error)).mean() - ALPHA * confidence.log().mean()
    horizontal = _length(error[:, :, 1:] - error[:, :, :-1]) * confidence[:, :, 1:]
    vertical = _length(error[:, 1:] - error[:, :-1]) * confidence[:, 1:]
    return loss + horizontal.mean() + vertical.mean()


def _length(vector: Tensor) -> Tensor:
    """Return the Euclidean length over the last dimension, with a gradient at 0."""
    return (vector.square().sum(dim=-1) + 1e-12).sqrt()
