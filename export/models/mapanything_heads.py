"""Heads of MapAnything: dense maps, camera pose, and the metric scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from covis.export.models.dpt import Fusion, conv3x3, resize, tokens_to_map
from covis.export.models.multiview import patch_grid
from covis.export.models.pose_mlp import PoseRegressor

DENSE_CHANNELS = 6  # ray 3, log depth, log (confidence - 1), logit of being unambiguous
QUATERNION = 4
SMALLEST_SCALE = 1e-8


class FeatureHead(nn.Module):
    """The pyramid: per-level input convolutions and the fusion blocks."""

    def __init__(self, dims_in: Sequence[int], dims: Sequence[int], features: int) -> None:
        super().__init__()
        to_level: list[list[nn.Module]] = [
            [nn.ConvTranspose2d(dims[0], dims[0], 4, stride=4)],
            [nn.ConvTranspose2d(dims[1], dims[1], 2, stride=2)],
            [],
            [conv3x3(dims[3], dims[3], stride=2)],
        ]
        self.input_process = nn.ModuleList(
            nn.Sequential(
                nn.Sequential(nn.Conv2d(dims_in[i], dims[i], 1), *to_level[i]),
                conv3x3(dims[i], features, bias=False),
            )
            for i in range(4)
        )
        self.scratch = Fusion(features, relu_skip=False, double_then_crop=True)

    def forward(self, taps: Sequence[Tensor], rows: int, columns: int) -> Tensor:
        """Four taps (N, P, C_i) -> (N, features, 8 rows, 8 columns)."""
        maps = (tokens_to_map(tap, rows, columns) for tap in taps)
        levels = [process(x) for process, x in zip(self.input_process, maps, strict=True)]
        features: Tensor = self.scratch(levels)
        return features


class RegressorHead(nn.Module):
    """Regress the full-size raw map from features."""

    def __init__(self, features: int) -> None:
        super().__init__()
        half = features // 2
        self.conv1 = conv3x3(features, half)
        self.conv2 = nn.Sequential(
            conv3x3(half, half), nn.ReLU(), nn.Conv2d(half, DENSE_CHANNELS, 1)
        )

    def forward(self, features: Tensor, height: int, width: int) -> Tensor:
        """(N, features, h, w) -> (N, 6, height, width)."""
        raw: Tensor = self.conv2(resize(self.conv1(features), (height, width)))
        return raw


class DenseHead(nn.ModuleList):
    """DPT head without position embedding: a FeatureHead, then a RegressorHead."""

    def __init__(self, dims_in: Sequence[int], dims: Sequence[int], features: int) -> None:
        super().__init__([FeatureHead(dims_in, dims, features), RegressorHead(features)])

    def forward(self, taps: Sequence[Tensor], height: int, width: int) -> Tensor:
        """Four taps of patch tokens (N, P, C_i) -> raw map (N, 6, height, width)."""
        features = self[0](taps, *patch_grid(height, width))
        raw: Tensor = self[1](features, height, width)
        return raw


class PoseHead(PoseRegressor):
    """Regress camera-to-world poses, up to scale, from the patch tokens of a frame."""

    def __init__(self, dim: int, hidden: int) -> None:
        def pointwise(channels_in: int, channels_out: int) -> nn.Module:
            return nn.Conv2d(channels_in, channels_out, 1)

        super().__init__(hidden, QUATERNION, pointwise)
        self.proj = pointwise(dim, hidden)

    def forward(self, tokens: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """(N, P, dim) -> translation (N, 3), unnormalised quaternion xyzw (N, 4)."""
        features = self.proj(tokens_to_map(tokens, *patch_grid(height, width)))
        return self.regress(self.refine(features).mean(dim=(2, 3)))


class ScaleHead(nn.Module):
    """Regress metres per unit of the other heads from the scale token."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, hidden)
        self.mlp = nn.Sequential(
            *(nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU()) for _ in range(2))
        )
        self.output_proj = nn.Linear(hidden, 1)

    def forward(self, token: Tensor) -> Tensor:
        """(..., dim) -> (..., 1), positive."""
        log_scale = self.output_proj(self.mlp(self.proj(token)))
        return torch.exp(log_scale).clamp(min=SMALLEST_SCALE)
