"""Order of the tokens within a frame, as block selection receives them."""

from __future__ import annotations

import torch
from torch import Tensor

from covis.export.models.rope import Rotary


class FrameOrder:
    """Reorder the patch tokens of every frame alike, and back; special tokens keep their places.

    Attention within a frame does not depend on the order. So tokens are reordered once before the
    layers and once after them, and not around each global layer.

    Args:
        patch_order: Index of the patch at each place, int64 (P,); None keeps the order.
        first: Number of special tokens before the patches.
        last: Number of special tokens after the patches.
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
        """Reorder tokens (B, M, T, C) from row-major to this order."""
        return x if self.there is None else x.index_select(2, self.there)

    def undo(self, x: Tensor) -> Tensor:
        """Reorder tokens (B, M, T, C) from this order to row-major."""
        return x if self.back is None else x.index_select(2, self.back)

    def rotary(self, rotate: Rotary) -> Rotary:
        """Reorder the rotations of row-major tokens to those of tokens in this order."""
        return rotate if self.there is None else rotate.reordered(self.there)
