"""BlockSelect as a torch op: choose key blocks for each query block from pooled Q and K."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from covis.engines.op import SELECT_ATTRIBUTES, keep_ratio_input
from covis.export.ops.attributes import SelectAttributes, torch_schema
from covis.export.ops.check import check_select, runs_eagerly
from covis.export.ops.cuda import dispatch
from covis.export.ops.layout import PLAIN, TokenLayout, region_count

CDF_SLACK = 1e-5  # a cumulated probability this far above `cdf` still counts as within it


def block_select(
    q: Tensor,
    k: Tensor,
    pair: Tensor,
    keep_ratio: Tensor | float,
    cdf: Tensor | float,
    *,
    layout: TokenLayout = PLAIN,
    q_block: int = 128,
    k_block: int = 64,
    pool: str = "mean",
) -> Tensor:
    """Return a level map of the key blocks that receive most of each query block's attention.

    The contract, with the exact rules, is plugins/block_select/README.md.

    Args:
        q, k: Queries and keys (B, H, S, D) of one floating type, as they enter attention (after
            norm and RoPE).
        pair: int8 (1, 1, M, M) levels of frame pairs that limit the choice, or (1, 1, 1, 1).
        keep_ratio: Share of a row's candidate blocks to select, rounded down. A tensor, float32
            (), is taken as it is; a Python number is rounded up to float32, so that 0.9 of 40
            blocks are 36.
        cdf: Cumulated probability up to which blocks are selected; float32 (), or a number.
        layout: Which of the S tokens are special, patch and trailing tokens.
        q_block, k_block: Patch tokens pooled into one query block and one key block.
        pool: "mean" or "max" over the tokens of a block.

    Returns:
        int8 (B, H, Rq, Rk): the pair's level where a block is selected, else 0.

    Raises:
        CovisError: a tensor or attribute that the contract forbids; the text has its value.
    """
    attributes = SelectAttributes(layout, q_block, k_block, pool)
    if not isinstance(keep_ratio, Tensor):
        keep_ratio = torch.tensor(keep_ratio_input(keep_ratio), dtype=torch.float32)
    if not isinstance(cdf, Tensor):
        cdf = torch.tensor(cdf, dtype=torch.float32)
    if runs_eagerly(pair):
        check_select(q, k, pair, keep_ratio, cdf, attributes)
        return _select(q, k, pair, keep_ratio, cdf, attributes)
    level: Tensor = _op(q, k, pair, keep_ratio, cdf, *attributes.flat().values())
    return level


@torch.library.custom_op(
    "covis::block_select",
    mutates_args=(),
    schema=torch_schema(("q", "k", "pair", "keep_ratio", "cdf"), SELECT_ATTRIBUTES),
)
def _op(
    q: Tensor, k: Tensor, pair: Tensor, keep_ratio: Tensor, cdf: Tensor, *attributes: int | str
) -> Tensor:
    return _select(q, k, pair, keep_ratio, cdf, SelectAttributes.from_flat(*attributes))


@_op.register_fake
def _(
    q: Tensor, _k: Tensor, _pair: Tensor, _keep_ratio: Tensor, _cdf: Tensor, *values: int | str
) -> Tensor:
    regions = SelectAttributes.from_flat(*values).regions(q.shape[2])
    return q.new_empty((*q.shape[:2], *regions), dtype=torch.int8)


def _select(
    q: Tensor,
    k: Tensor,
    pair: Tensor,
    keep_ratio: Tensor,
    cdf: Tensor,
    attributes: SelectAttributes,
) -> Tensor:
    level = dispatch.block_select(q, k, pair, keep_ratio, cdf, attributes)
    if level is not None:
        return level
    layout, q_block, k_block = attributes.layout, attributes.q_block, attributes.k_block
    pooled_q = _pool(_patch_tokens(q, layout), q_block, attributes.pool)
    pooled_k = _pool(_patch_tokens(k, layout), k_block, attributes.pool)
    scores = pooled_q @ pooled_k.transpose(-1, -2) / math.sqrt(q.shape[3])
    patches = layout.patches(q.shape[2])
    pair = pair[0, 0].to(q.device)
    candidates = block_levels(pair, layout.patches_per_frame, patches, q_block, k_block)
    selected = choose(scores, candidates > 0, float(keep_ratio), float(cdf))
    return torch.where(selected, candidates, candidates.new_zeros(()))


def block_levels(
    pair: Tensor, patches_per_frame: int, patches: int, q_block: int, k_block: int
) -> Tensor:
    """Return the highest level of the frame pairs that each block pair touches: int8 (Rq, Rk).

    Args:
        pair: int8 levels of frame pairs (M, M), or (1, 1) for one level everywhere.
        patches_per_frame, patches: Patch tokens of one frame and of all frames.
        q_block, k_block: Patch tokens of a block; a block may span several frames.
    """
    rows, columns = region_count(patches, q_block), region_count(patches, k_block)
    if pair.numel() == 1:
        return pair.expand(rows, columns)
    by_rows = _max_over_frames(pair, patches_per_frame, patches, q_block)
    return _max_over_frames(by_rows.T, patches_per_frame, patches, k_block).T


def choose(scores: Tensor, candidate: Tensor, keep_ratio: float, cdf: float) -> Tensor:
    """Select candidates in each row: the larger of the top-k and the CDF set, at least one.

    Args:
        scores: Scores of block pairs (..., Rq, Rk), any real numbers.
        candidate: bool, broadcastable to the shape of scores.
        keep_ratio, cdf: Shares from 0 to 1.

    Returns:
        bool in the shape of scores.
    """
    candidate = candidate.expand_as(scores)
    n = candidate.sum(-1, keepdim=True)
    masked = scores.masked_fill(~candidate, -math.inf)
    ranked, order = masked.sort(stable=True, dim=-1, descending=True)
    top = torch.floor(n.double() * keep_ratio).long()
    mass = torch.softmax(ranked, -1).cumsum(-1)
    rank = torch.arange(scores.shape[-1], device=scores.device)
    within = ((mass <= cdf + CDF_SLACK) & (rank < n)).sum(-1, keepdim=True)
    keep = torch.maximum(top, within).clamp(min=1).minimum(n)
    return torch.zeros_like(candidate).scatter(-1, order, rank < keep)


def _patch_tokens(x: Tensor, layout: TokenLayout) -> Tensor:
    """Drop special and trailing tokens: (B, H, S, D) -> (B, H, patches, D)."""
    frames = layout.frames(x.shape[2])
    shape = (*x.shape[:2], frames, layout.frame_tokens, x.shape[3])
    x = x[:, :, : frames * layout.frame_tokens].reshape(shape)
    return x[:, :, :, layout.special_first : layout.frame_tokens - layout.special_last].flatten(
        2, 3
    )


def _pool(x: Tensor, block: int, pool: str) -> Tensor:
    """Pool blocks of tokens: (B, H, N, D) -> (B, H, ceil(N / block), D).

    A short last block is averaged over its real length.
    """
    x = x.double() if x.dtype == torch.float64 else x.float()
    short = -x.shape[2] % block
    x = pad(x, (0, 0, 0, short), value=0.0 if pool == "mean" else -math.inf)
    blocks = x.reshape(*x.shape[:2], -1, block, x.shape[3])
    if pool == "max":
        return blocks.amax(3)
    length = torch.full((blocks.shape[2], 1), block, device=x.device, dtype=x.dtype)
    length[-1:] -= short
    mean: Tensor = blocks.sum(3) / length
    return mean


def _max_over_frames(pair: Tensor, patches_per_frame: int, patches: int, block: int) -> Tensor:
    """Take the maximum over the frames that each block touches: (M, N) -> (blocks, N)."""
    first = torch.arange(0, patches, block, device=pair.device)
    last = (first + block - 1).clamp(max=patches - 1) // patches_per_frame
    first = first // patches_per_frame
    result = pair[first]
    for step in range(1, int((last - first).max()) + 1):
        result = torch.maximum(result, pair[(first + step).minimum(last)])
    return result
