"""The order of the tokens within a frame, as block selections meet them."""

from __future__ import annotations

import torch
from torch import Tensor

from covis.export.models.rope import Rotary


class FrameOrder:
    """Moves the patch tokens of every frame alike, and back; special tokens keep their places.

    Attention within a frame does not mind the order, so tokens are moved once before the layers
    and once after, and not around each global layer.

    Args:
        patch_order: int64 (P,), the patch to stand at each place; None moves nothing.
        first: special tokens in front of the patches.
        last: special tokens behind them.
    """

    def __init__(self, patch_order: Tensor | None, first: int, last: int = 0) -> None:
        self.there: Tensor | None = None
        self.back: Tensor | None = None
        if patch_order is not None:
            tokens = first + patch_order.shape[0] + last
            places = torch.arange(tokens, device=patch_order.device)
            moved = [places[:first], patch_order + first, places[tokens - last :]]
            self.there = torch.cat(moved)
            self.back = torch.zeros_like(self.there).scatter(0, self.there, places)

    def apply(self, x: Tensor) -> Tensor:
        """Tokens (B, M, T, C), row-major -> in this order."""
        return x if self.there is None else x.index_select(2, self.there)

    def undo(self, x: Tensor) -> Tensor:
        """Tokens (B, M, T, C) in this order -> row-major."""
        return x if self.back is None else x.index_select(2, self.back)

    def rotary(self, rotate: Rotary) -> Rotary:
        """Rotations by row-major tables -> of tokens in this order."""
        return rotate if self.there is None else rotate.reordered(self.there)
