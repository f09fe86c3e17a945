"""Losses of the outputs, as published, and of what the model computes on the way.

Cameras, depth and point maps: VGGT (Wang et al. 2025, section 3.4). Attention supervised by true
matches: the log-likelihood of matching scores, as for the coarse matches of LoFTR (Sun et al. 2021,
section 3.6), taken over the keys of all views. Position of a match: the end-point error of optical
flow, where the match is visible.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from covis.export.ops import TokenLayout
from covis.export.training.correspondences import Correspondences

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


def attention_loss(
    q: Tensor, k: Tensor, layout: TokenLayout, matches: Correspondences
) -> tuple[Tensor, Tensor]:
    """Return -log of the attention that patches pay to their true matches, and how many find one.

    The match of a patch is that in view 0 where view 0 sees the patch. Elsewhere it is every match
    in another view, because such a view finds its place through its neighbours.

    Args:
        q: Queries (B, M * T, D) of one head, after qk-norm and RoPE.
        k: Keys (B, M * T, D).
        layout: Which of the T tokens of a view are its patches.
        matches: True matches of the patches.

    Returns:
        Mean loss over the patches that have a match; share of the matches that are the most
        attended patch of their view.
    """
    batch, views, _, patches = matches.patch.shape
    first, tokens = layout.special_first, layout.frame_tokens
    queries = torch.unflatten(q.float(), 1, (views, tokens))[:, :, first : first + patches]
    scores = queries.flatten(1, 2) @ k.float().transpose(1, 2) * q.shape[-1] ** -0.5
    scores = scores.reshape(batch, views, patches, views, tokens)
    wanted = targets(matches)  # (B, i, j, P)
    at = (matches.patch + first).transpose(2, 3)[..., None]  # (B, i, P, j, 1)
    found = scores.gather(4, at).squeeze(4)
    absent = ~wanted.transpose(2, 3)
    has_match = wanted.any(dim=2)
    # Rows without a match keep finite numbers, because 0 times their gradient would be nan.
    counted = found.masked_fill(absent & has_match[..., None], float("-inf"))
    likelihood = counted.logsumexp(3) - scores.logsumexp((3, 4))
    loss = -likelihood.masked_fill(~has_match, 0.0).sum() / has_match.sum().clamp(min=1)
    with torch.no_grad():
        best = scores[..., first : first + patches].argmax(dim=4)  # (B, i, P, j)
        right = (best == matches.patch.transpose(2, 3)) & ~absent
        accuracy = right.sum() / (~absent).sum().clamp(min=1)
    return loss, accuracy


def targets(matches: Correspondences) -> Tensor:
    """Return which matches a patch must attend to, bool (B, M, M, P), at [b, i, j, p].

    View 0's match of a patch of another view where view 0 sees it, else the matches in all others.
    """
    views = matches.visible.shape[1]
    other = ~torch.eye(views, dtype=torch.bool, device=matches.visible.device)
    visible = matches.visible & other[None, :, :, None]
    reference = torch.zeros_like(visible)
    reference[:, :, 0] = visible[:, :, 0]
    return torch.where(visible[:, :, :1], reference, visible)


def flow_loss(predicted: Tensor, matches: Correspondences) -> Tensor:
    """Return the mean distance between predicted and true positions of matches in view 0.

    Args:
        predicted: Positions (B, M, P, 2) in view 0, in units of half the image.
        matches: True matches; patches that view 0 does not see, and view 0 itself, do not count.
    """
    visible = matches.visible[:, 1:, 0]
    error = _length(predicted[:, 1:] - matches.position[:, 1:, 0])
    return (error * visible).sum() / visible.sum().clamp(min=1)


def _length(vector: Tensor) -> Tensor:
    """Return the Euclidean length over the last dimension, with a gradient at 0."""
    return (vector.square().sum(dim=-1) + 1e-12).sqrt()
