"""Heads of VGGT (Wang et al. 2025): the iterative camera head and the DPT map heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from covis.export.models.dpt import Fusion, add_uv, conv3x3, resize, tokens_to_map
from covis.export.models.layers import Block, Mlp

POSE_NUMBERS = 9  # translation 3, quaternion xyzw 4, vertical and horizontal field of view
POSE_ITERATIONS = 4
EPS = 1e-5
MODULATION_EPS = 1e-6
OUTPUT_HIDDEN = 32


class CameraHead(nn.Module):
    """Regress pose encodings from camera tokens, refined over a few rounds.

    Each round embeds the previous encoding, modulates the tokens by it (adaptive LayerNorm, Peebles
    and Xie 2023), runs a small transformer over the views and adds a correction.
    """

    def __init__(self, dim: int, depth: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_NUMBERS))
        self.embed_pose = nn.Linear(POSE_NUMBERS, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.adaln_norm = nn.LayerNorm(dim, eps=MODULATION_EPS, elementwise_affine=False)
        self.token_norm = nn.LayerNorm(dim, eps=EPS)
        self.trunk_norm = nn.LayerNorm(dim, eps=EPS)
        self.trunk = nn.Sequential(*(Block(dim, heads, mlp_ratio, eps=EPS) for _ in range(depth)))
        self.pose_branch = Mlp(dim, dim // 2, POSE_NUMBERS)

    def forward(self, camera_tokens: Tensor) -> Tensor:
        """(B, M, C) -> (B, M, 9): translation, unnormalised quaternion xyzw, fields of view (rad).

        World to camera, OpenCV axes. Fields of view are clipped at 0 from below.
        """
        tokens = self.token_norm(camera_tokens)
        previous: Tensor = self.empty_pose_tokens
        pose: Tensor | None = None
        for _ in range(POSE_ITERATIONS):
            modulation = self.poseLN_modulation(self.embed_pose(previous))
            shift, scale, gate = modulation.chunk(3, dim=-1)
            x = gate * (self.adaln_norm(tokens) * (1 + scale) + shift) + tokens
            correction = self.pose_branch(self.trunk_norm(self.trunk(x)))
            pose = correction if pose is None else pose + correction
            previous = pose
        return torch.cat([previous[..., :7], functional.relu(previous[..., 7:])], dim=-1)


class Scratch(Fusion):
    """Per-level input convolutions, the fusion blocks, and the output convolutions."""

    def __init__(self, dims: Sequence[int], features: int, outputs: int) -> None:
        super().__init__(features, relu_skip=True, double_then_crop=False)
        self.layer1_rn = conv3x3(dims[0], features, bias=False)
        self.layer2_rn = conv3x3(dims[1], features, bias=False)
        self.layer3_rn = conv3x3(dims[2], features, bias=False)
        self.layer4_rn = conv3x3(dims[3], features, bias=False)
        self.output_conv1 = conv3x3(features, features // 2)
        self.output_conv2 = nn.Sequential(
            conv3x3(features // 2, OUTPUT_HIDDEN),
            nn.ReLU(),
            nn.Conv2d(OUTPUT_HIDDEN, outputs, 1),
        )


class MapHead(nn.Module):
    """DPT head with position embedding.

    Args:
        dim: Width of the tapped tokens.
        dims: Width of each of the four levels, fine to coarse.
        features: Width of the fusion blocks.
        outputs: Channels of the map.
    """

    def __init__(self, dim: int, dims: Sequence[int], features: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.projects = nn.ModuleList(nn.Conv2d(dim, d, 1) for d in dims)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(dims[0], dims[0], 4, stride=4),
                nn.ConvTranspose2d(dims[1], dims[1], 2, stride=2),
                nn.Identity(),
                conv3x3(dims[3], dims[3], stride=2),
            ]
        )
        self.scratch = Scratch(dims, features, outputs)

    def forward(self, taps: Sequence[Tensor], height: int, width: int) -> Tensor:
        """Four taps of patch tokens (N, P, dim) -> raw map (N, outputs, height, width)."""
        aspect = width / height
        rows, columns = height // 14, width // 14
        scratch = self.scratch
        lateral = (scratch.layer1_rn, scratch.layer2_rn, scratch.layer3_rn, scratch.layer4_rn)
        levels = []
        for i, tap in enumerate(taps):
            x = self.projects[i](tokens_to_map(self.norm(tap), rows, columns))
            levels.append(lateral[i](self.resize_layers[i](add_uv(x, aspect))))
        x = resize(scratch.output_conv1(scratch(levels)), (height, width))
        out: Tensor = scratch.output_conv2(add_uv(x, aspect))
        return out
