"""Two-dimensional rotary position embedding of patch tokens (Su et al. 2021, by axis)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from covis.export.models.tables import like, table

BASE = 100.0


@table
def _angles(height: int, width: int, special: int, head_dim: int) -> tuple[Tensor, ...]:
    """Return cosine and sine (special + height * width, head_dim): rotation by row, then by column.

    Patches start at position 1; special tokens are at (0, 0), where the rotation is the identity.
    """
    half = head_dim // 2
    frequency = BASE ** (-torch.arange(0, half, 2, dtype=torch.float64) / half)
    row = torch.arange(1, height + 1, dtype=torch.float64).repeat_interleave(width)
    column = torch.arange(1, width + 1, dtype=torch.float64).repeat(height)
    by_axis = [position[:, None] * frequency for position in (row, column)]
    angle = torch.cat([by_axis[0], by_axis[0], by_axis[1], by_axis[1]], dim=-1)
    angle = torch.cat([angle.new_zeros(special, head_dim), angle])
    return angle.cos(), angle.sin()


@dataclass(frozen=True)
class Rotary:
    """Rotations of the tokens of one frame; every frame has the same.

    Attributes:
        cos: Cosines (T, D).
        sin: Sines (T, D).
    """

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate queries or keys (B, H, frames * T, D); feature i pairs with i + D/4."""
        frames = torch.unflatten(x, 2, (-1, self.cos.shape[0]))
        y0, y1, x0, x1 = frames.chunk(4, dim=-1)
        turned = torch.cat([-y1, y0, -x1, x0], dim=-1)
        return (frames * self.cos + turned * self.sin).flatten(2, 3)

    def reordered(self, tokens: Tensor) -> Rotary:
        """Return the rotations of the tokens in another order; `tokens` int64 (T,)."""
        return Rotary(self.cos.index_select(0, tokens), self.sin.index_select(0, tokens))


def rotary(height: int, width: int, special: int, head_dim: int, x: Tensor) -> Rotary:
    """Return tables for frames of `special` tokens and height x width patches, in the type of x."""
    cos, sin = like(_angles(height, width, special, head_dim), x)
    return Rotary(cos, sin)
