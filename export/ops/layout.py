"""Positions of the special, patch and trailing tokens in a sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from covis.engines.errors import user_error


@dataclass(frozen=True)
class TokenLayout:
    """Layout of the S tokens of a sequence: frames x frame_tokens, then trailing tokens.

    Special and trailing tokens are always dense, as queries and as keys. The remaining tokens of a
    frame are its patch tokens, and the regions of a level map consist of patch tokens only.

    Attributes:
        frame_tokens: Tokens of one frame, special tokens included.
        special_first: Special tokens at the start of each frame (camera, registers).
        special_last: Special tokens at the end of each frame.
        trailing_tokens: Tokens after the last frame that belong to no frame (a scale token).

    Raises:
        CovisError: a negative number, or a frame without patch tokens.
    """

    frame_tokens: int = 1
    special_first: int = 0
    special_last: int = 0
    trailing_tokens: int = 0

    def __post_init__(self) -> None:
        for name in ("special_first", "special_last", "trailing_tokens"):
            if getattr(self, name) < 0:
                raise user_error(f"is {getattr(self, name)}", where=name, hint="give 0 or more")
        if self.frame_tokens < 1:
            raise user_error(f"is {self.frame_tokens}", where="frame_tokens", hint="give 1 or more")
        if self.patches_per_frame < 1:
            raise user_error(
                f"is {self.frame_tokens}, and special_first + special_last = "
                f"{self.special_first + self.special_last} leaves no patch token",
                where="frame_tokens",
                hint="give at least one token more than the special ones",
            )

    @property
    def patches_per_frame(self) -> int:
        """Patch tokens of one frame."""
        return self.frame_tokens - self.special_first - self.special_last

    def frames(self, tokens: int) -> int:
        """Return the number of frames M of that many tokens; unchecked, works on symbols."""
        return (tokens - self.trailing_tokens) // self.frame_tokens

    def patches(self, tokens: int) -> int:
        """Return the number of patch tokens among that many tokens; works on symbols."""
        return self.frames(tokens) * self.patches_per_frame

    def check(self, tokens: int, where: str) -> None:
        """Raise CovisError unless that many tokens are whole frames and the trailing tokens."""
        body = tokens - self.trailing_tokens
        if body < 0 or body % self.frame_tokens:
            raise user_error(
                f"has {tokens} tokens, which is not a whole number of frames of "
                f"{self.frame_tokens} and {self.trailing_tokens} trailing tokens",
                where=where,
                hint="check frame_tokens and trailing_tokens",
            )

    def split(self, tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the indices of patch tokens (frame-major) and of always dense tokens, int64."""
        index = torch.arange(tokens, device=device)
        place = index % self.frame_tokens
        patch = (
            (index < tokens - self.trailing_tokens)
            & (place >= self.special_first)
            & (place < self.frame_tokens - self.special_last)
        )
        return index[patch], index[~patch]


PLAIN = TokenLayout()  # every token a patch token of its own frame


def element_regions(layout: TokenLayout, tokens: int, block: int) -> Tensor:
    """Return the region of each token: int64 (S,), -1 where the token is always dense.

    This is the element rule of the op's contract: patch token number p, counted frame-major
    without special and trailing tokens, lies in region p // block.
    """
    patch, _ = layout.split(tokens, torch.device("cpu"))
    regions = torch.full((tokens,), -1, dtype=torch.int64)
    regions[patch] = torch.arange(patch.numel()) // block
    return regions


def region_count(patches: int, block: int) -> int:
    """Return the number of regions of `block` patch tokens; the last one may be short.

    Works on symbols.
    """
    return (patches + block - 1) // block
