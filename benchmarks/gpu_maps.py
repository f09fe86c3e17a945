"""Level maps of the benchmark, their cost, and their rounding to other kernels' blocks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FRAME, PATCHES = 1374, 1369  # VGGT at 518 x 518: 5 special tokens first


def pair_map(frames: int, density: float, *, low: bool = False) -> Tensor:
    """Return a frame-pair map like those of co-visibility, with about `density` of the pairs.

    A band of neighbours, a few distant pairs, and the reference view connected to all. With `low`,
    the distant half of the selected pairs has level 1 (Regime 2); the others have 2.

    Returns:
        int8 (1, 1, frames, frames).
    """
    generator = torch.Generator().manual_seed(frames)
    index = torch.arange(frames)
    distance = (index[:, None] - index[None]).abs().float()
    order = distance + 0.25 * frames * torch.rand(frames, frames, generator=generator) ** 4
    order[0, :] = order[:, 0] = -1.0
    order.fill_diagonal_(-1.0)
    kept = min(max(int(density * frames * frames), 3 * frames - 2), frames * frames)
    limit = order.flatten().kthvalue(kept).values
    level = 2 * (order <= limit).to(torch.int8)
    if low:
        middle = order[level > 0].median()
        level[(level > 0) & (order > middle)] = 1
    return level[None, None]


def anchor_map(frames: int, anchors: int, neighbours: int = 4) -> Tensor:
    """Return the map of a layer with anchors: each frame with these, itself and its neighbours.

    Anchors are spread evenly. Without anchors a frame attends to itself alone, as in the regime
    `self`.

    Returns:
        int8 (1, 1, frames, frames).
    """
    index = torch.arange(frames)
    if anchors == 0:
        return 2 * torch.eye(frames, dtype=torch.int8)[None, None]
    shared = min(anchors, frames)
    distance = (index[:, None] - index[None]).abs()
    level = 2 * (distance <= neighbours // 2).to(torch.int8)
    level[:, torch.arange(shared) * frames // shared] = 2
    return level[None, None]


def pairs_of(level: Tensor) -> int:
    """Return the token pairs that the op must compute for one head, special tokens included."""
    frames = level.shape[-1]
    every = (frames * FRAME) ** 2
    return int((level > 0).sum()) * PATCHES**2 + every - (frames * PATCHES) ** 2


class BlockLists(NamedTuple):
    """Lists of key blocks of each query block, shared by all heads.

    Attributes:
        counts: Number of selected key blocks, int32 (1, 1, Bq).
        indices: Key blocks with the selected blocks of a row first, ascending, int32 (1, 1, Bq,
            Bk).
        kept: Mask of selected blocks, bool (Bq, Bk).
    """

    counts: Tensor
    indices: Tensor
    kept: Tensor

    def pairs(self, block_q: int, block_k: int) -> int:
        """Token pairs in the selected blocks."""
        return int(self.kept.sum()) * block_q * block_k


def rounded(level: Tensor, block_q: int, block_k: int) -> BlockLists:
    """Round a frame-pair map up to blocks: a block is selected if it touches a selected pair.

    Special tokens count as tokens of their frame, so the peers compute fewer pairs than the op,
    which connects them to everything.
    """
    frames = level.shape[-1]
    tokens = frames * FRAME
    kept = level[0, 0] > 0
    # Frames by blocks: whether they overlap. Then blocks by blocks through the frame pairs.
    rows, columns = (_overlap(frames, tokens, block, level.device) for block in (block_q, block_k))
    touched = (rows @ kept.float() @ columns.T) > 0
    counts = touched.sum(-1, dtype=torch.int32)[None, None]
    order = touched.byte().argsort(dim=-1, descending=True, stable=True)
    return BlockLists(counts, order.to(torch.int32)[None, None].contiguous(), touched)


def _overlap(frames: int, tokens: int, block: int, device: torch.device) -> Tensor:
    """Return float32 (blocks, frames): 1 where the block and the frame share tokens."""
    first = torch.arange(0, tokens, block, device=device)
    last = (first + block - 1).clamp(max=tokens - 1)
    index = torch.arange(frames, device=device)
    inside = (first.div(FRAME, rounding_mode="floor")[:, None] <= index) & (
        index <= last.div(FRAME, rounding_mode="floor")[:, None]
    )
    return inside.float()


def block_name(block: tuple[int, int]) -> str:
    """Return the name of a block size, e.g. `64 x 64`."""
    return f"{block[0]} x {block[1]}"


def row_pointers(lists: BlockLists) -> tuple[Tensor, Tensor]:
    """Return the same lists as int32 CSR: (Bq + 1,) starts and (entries,) columns."""
    counts = lists.counts[0, 0]
    starts = torch.zeros(len(counts) + 1, dtype=torch.int32, device=counts.device)
    starts[1:] = counts.cumsum(0)
    return starts, lists.kept.nonzero()[:, 1].to(torch.int32)


def padded(x: Tensor, multiple: int) -> Tensor:
    """Pad (B, H, S, D) with zero tokens at the end, so that S is a multiple."""
    short = -x.shape[2] % multiple
    return torch.nn.functional.pad(x, (0, 0, 0, short)) if short else x
