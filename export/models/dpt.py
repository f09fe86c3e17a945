"""Dense prediction transformer (Ranftl et al. 2021): tokens of four layers to a full-size map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from covis.export.models.tables import like, table

UV_BASE = 100.0
UV_WEIGHT = 0.1


@table
def _uv_embedding(channels: int, rows: int, columns: int, aspect: float) -> tuple[Tensor, ...]:
    """Return the sinusoidal embedding of pixel positions, as two broadcast halves times UV_WEIGHT.

    (1, C, 1, columns) contains sin and cos of x in the first half of the channels, (1, C, rows, 1)
    those of y in the second half. The image rectangle of that aspect (width / height) has a
    diagonal of 2; samples are the pixel centres.
    """
    quarter = channels // 4
    omega = UV_BASE ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    diagonal = math.hypot(aspect, 1.0)

    def waves(span: float, count: int) -> Tensor:
        end = span * (count - 1) / count
        phase = omega[:, None] * torch.linspace(-end, end, count, dtype=torch.float64)
        return UV_WEIGHT * torch.cat([phase.sin(), phase.cos()])

    x, y = waves(aspect / diagonal, columns), waves(1.0 / diagonal, rows)
    by_column = torch.cat([x, torch.zeros_like(x)]).view(1, channels, 1, columns)
    by_row = torch.cat([torch.zeros_like(y), y]).view(1, channels, rows, 1)
    return by_column, by_row


def add_uv(x: Tensor, aspect: float) -> Tensor:
    """Add the position embedding of an image of that aspect to a feature map (N, C, h, w)."""
    by_column, by_row = like(_uv_embedding(x.shape[1], x.shape[2], x.shape[3], aspect), x)
    return x + by_column + by_row


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bilinearly; corner pixels stay (align_corners)."""
    return functional.interpolate(x, size, mode="bilinear", align_corners=True)


def tokens_to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """Reshape patch tokens (N, height * width, C) to (N, C, height, width)."""
    return torch.unflatten(tokens.transpose(1, 2), 2, (height, width))


def conv3x3(
    channels_in: int, channels_out: int, *, stride: int = 1, bias: bool = True
) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size at stride 1."""
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=bias)


class ResidualConvUnit(nn.Module):
    """Two convolutions and a skip connection.

    Args:
        channels: Width.
        relu_skip: The skip carries relu(x) instead of x. VGGT's published code overwrote x by its
            first ReLU, and its weights were trained that way.
    """

    def __init__(self, channels: int, *, relu_skip: bool) -> None:
        super().__init__()
        self.relu_skip = relu_skip
        self.conv1 = conv3x3(channels, channels)
        self.conv2 = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        positive = functional.relu(x)
        branch: Tensor = self.conv2(functional.relu(self.conv1(positive)))
        return branch + (positive if self.relu_skip else x)


class FusionBlock(nn.Module):
    """Add the features of one level to the coarser level, and upsample to the next finer one.

    The coarsest block has nothing to add, hence no first residual unit (`joins` False).
    """

    def __init__(self, channels: int, *, joins: bool, relu_skip: bool) -> None:
        super().__init__()
        if joins:
            self.resConfUnit1 = ResidualConvUnit(channels, relu_skip=relu_skip)
        self.resConfUnit2 = ResidualConvUnit(channels, relu_skip=relu_skip)
        self.out_conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, lateral: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Coarse (N, C, h, w) and lateral of the same shape -> (N, C, *size)."""
        if lateral is not None:
            x = x + self.resConfUnit1(lateral)
        out: Tensor = self.out_conv(resize(self.resConfUnit2(x), size))
        return out


class Fusion(nn.Module):
    """The four fusion blocks, coarse to fine.

    Args:
        channels: Width of all levels.
        relu_skip: See ResidualConvUnit.
        double_then_crop: The coarsest level is doubled and cropped to the next one's size where
            that is odd, instead of being resized to it.
    """

    def __init__(self, channels: int, *, relu_skip: bool, double_then_crop: bool) -> None:
        super().__init__()
        self.double_then_crop = double_then_crop
        self.refinenet1 = FusionBlock(channels, joins=True, relu_skip=relu_skip)
        self.refinenet2 = FusionBlock(channels, joins=True, relu_skip=relu_skip)
        self.refinenet3 = FusionBlock(channels, joins=True, relu_skip=relu_skip)
        self.refinenet4 = FusionBlock(channels, joins=False, relu_skip=relu_skip)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels (N, C, h_i, w_i), fine to coarse -> (N, C, 2 h_0, 2 w_0)."""
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        coarsest = (2 * sizes[3][0], 2 * sizes[3][1]) if self.double_then_crop else sizes[2]
        x: Tensor = self.refinenet4(levels[3], None, coarsest)
        x = x[:, :, : sizes[2][0], : sizes[2][1]]
        x = self.refinenet3(x, levels[2], sizes[1])
        x = self.refinenet2(x, levels[1], sizes[0])
        out: Tensor = self.refinenet1(x, levels[0], (2 * sizes[0][0], 2 * sizes[0][1]))
        return out
