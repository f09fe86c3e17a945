"""Block-sparse attention of other libraries on the op's frame-pair maps, each in its own process.

    python benchmarks/peers_gpu.py NAME --frames 100 --density 0.126

Prints one JSON line: the time, the share of blocks, and the error against the formula on one query
block; or the reason why the peer is absent. Each peer has its own process, because most compile at
first use, which nothing can interrupt, and because a fault in one must not end the others. The
signatures are those of nvidia-cudnn-frontend 1.32, flash-attn-4 4.0.0b36, flashinfer-python 0.7.2
and torch 2.15.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu_maps import FRAME, BlockLists, padded, pair_map, rounded, row_pointers
from benchmarks.gpu_timing import Record, measure

HEADS = 16
Run = Callable[[], Tensor]


class Peer:
    """One implementation at one block size.

    Attributes:
        module: Module that has to be installed.
        block: Tokens of a query block and of a key block.
        prepare: Function of (q, k, v, lists) that returns a call; the call returns O as (B, H, S,
            D).
    """

    def __init__(
        self,
        module: str,
        block: tuple[int, int],
        prepare: Callable[[Tensor, Tensor, Tensor, BlockLists], Run],
    ) -> None:
        self.module = module
        self.block = block
        self.prepare = prepare


def flex(q: Tensor, k: Tensor, v: Tensor, lists: BlockLists) -> Run:
    """FlexAttention of torch, whole blocks only."""
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    none = torch.zeros_like(lists.counts)
    mask = BlockMask.from_kv_blocks(
        none, lists.indices, lists.counts, lists.indices, BLOCK_SIZE=128
    )
    compiled = torch.compile(flex_attention)
    return lambda: compiled(q, k, v, block_mask=mask)


def cudnn_frontend(q: Tensor, k: Tensor, v: Tensor, lists: BlockLists) -> Run:
    """cudnn.block_sparse_attention, SM90, 64-token blocks."""
    from cudnn.block_sparse_attention import block_sparse_attention_forward

    longest = int(lists.counts.max())
    index = lists.indices[..., :longest].expand(1, q.shape[1], -1, -1).contiguous()
    counts = lists.counts.expand(1, q.shape[1], -1).contiguous()

    def run() -> Tensor:
        out = block_sparse_attention_forward(
            q, k, v, index, q2k_block_nums=counts, sparse_block_size=64, layout="bhsd"
        )
        return first_tensor(out)

    return run


def flash_attention_4(block: tuple[int, int]) -> Callable[..., Run]:
    """flash_attn.cute with lists of whole blocks; tokens before heads."""

    def prepare(q: Tensor, k: Tensor, v: Tensor, lists: BlockLists) -> Run:
        from flash_attn.cute import flash_attn_func
        from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch

        none = torch.zeros_like(lists.counts)
        sparse = BlockSparseTensorsTorch(
            mask_block_cnt=none,
            mask_block_idx=lists.indices,
            full_block_cnt=lists.counts,
            full_block_idx=lists.indices,
            block_size=block,
        )
        qt, kt, vt = (x.transpose(1, 2).contiguous() for x in (q, k, v))

        def run() -> Tensor:
            out = flash_attn_func(qt, kt, vt, block_sparse_tensors=sparse)
            return first_tensor(out).transpose(1, 2)

        return run

    return prepare


def flashinfer(q: Tensor, k: Tensor, v: Tensor, lists: BlockLists) -> Run:
    """FlashInfer's BSR wrapper, 64-token blocks; (S, H, D), one sequence."""
    import flashinfer as library

    workspace = torch.empty(128 << 20, dtype=torch.uint8, device=q.device)
    wrapper = library.BlockSparseAttentionWrapper(workspace)
    starts, columns = row_pointers(lists)
    tokens = q.shape[2]
    heads, dim = q.shape[1], q.shape[3]
    wrapper.plan(starts, columns, tokens, tokens, 64, 64, heads, heads, dim, q_data_type=q.dtype)
    qt, kt, vt = (x[0].transpose(0, 1).contiguous() for x in (q, k, v))
    return lambda: first_tensor(wrapper.run(qt, kt, vt)).transpose(0, 1)[None]


PEERS = {
    "cudnn-frontend": Peer("cudnn", (64, 64), cudnn_frontend),
    "FlashAttention-4, 128 x 128": Peer("flash_attn", (128, 128), flash_attention_4((128, 128))),
    "FlashAttention-4, 192 x 128": Peer("flash_attn", (192, 128), flash_attention_4((192, 128))),
    "FlexAttention": Peer("torch", (128, 128), flex),
    "FlashInfer": Peer("flashinfer", (64, 64), flashinfer),
}


def first_tensor(result: object) -> Tensor:
    """Return the output of libraries that also return the log-sum-exp."""
    if isinstance(result, Tensor):
        return result
    if isinstance(result, dict):
        return next(iter(result.values()))  # type: ignore[no-any-return]
    return result[0]  # type: ignore[index, no-any-return]


def formula(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, rows: slice, block_k: int) -> Tensor:
    """Compute attention of one query block over its selected key blocks, (H, rows, D) float32."""
    tokens = k.shape[2]
    columns = keep.repeat_interleave(block_k)[:tokens].nonzero()[:, 0]
    queries, keys, values = (
        x[0].float() for x in (q[:, :, rows], k[:, :, columns], v[:, :, columns])
    )
    weights = torch.softmax(queries @ keys.transpose(1, 2) * q.shape[3] ** -0.5, -1)
    return weights @ values


def compare(name: str, frames: int, density: float, head_dim: int, device: str = "cuda") -> Record:
    """Measure one peer; tokens are padded with zeros to whole blocks, as the peers require."""
    peer = PEERS[name]
    block_q, block_k = peer.block
    shape = (1, HEADS, frames * FRAME, head_dim)
    q, k, v = (
        padded(torch.randn(shape, device=device, dtype=torch.float16), math.lcm(block_q, block_k))
        for _ in range(3)
    )
    lists = rounded(pair_map(frames, density).to(device), block_q, block_k)
    run = peer.prepare(q, k, v, whole(lists, q.shape[2], peer.block))
    middle = lists.kept.shape[0] // 2
    rows = slice(middle * block_q, (middle + 1) * block_q)
    expected = formula(q, k, v, lists.kept[middle], rows, block_k)
    error = float((run()[0, :, rows].float() - expected).abs().max())
    record = measure(run)
    record["error"] = error
    record["block"] = list(peer.block)
    record["block_density"] = float(lists.kept.float().mean())
    record["pairs"] = lists.pairs(block_q, block_k)
    return record


def whole(lists: BlockLists, tokens: int, block: tuple[int, int]) -> BlockLists:
    """Return lists with rows (empty) and columns for the padding after the last frame."""
    rows, columns = tokens // block[0], tokens // block[1]
    kept = torch.zeros(rows, columns, dtype=torch.bool, device=lists.kept.device)
    kept[: lists.kept.shape[0], : lists.kept.shape[1]] = lists.kept
    # No row may be empty: rows of padding attend to the block of padding, or to the last block.
    kept[lists.kept.shape[0] :, -1] = True
    counts = kept.sum(-1, dtype=torch.int32)[None, None]
    order = kept.byte().argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    return BlockLists(counts, order[None, None].contiguous(), kept)


def run_peer(name: str, frames: int, density: float, head_dim: int, seconds: float) -> Record:
    """Run `compare` in its own process; return a record with the reason if it returned nothing.

    At its limit it is killed with all its child processes, because compilers' helpers keep its
    output open.
    """
    command = [sys.executable, __file__, name, "--frames", str(frames)]
    command += ["--density", str(density), "--head-dim", str(head_dim)]
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = child.communicate(timeout=max(seconds, 1.0))
    except subprocess.TimeoutExpired:
        return {"absent": f"gave nothing in {seconds:.0f} s (it compiles at first use)"}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
    last = out.strip().splitlines()[-1:] or [""]
    try:
        record: Record = json.loads(last[0])
    except json.JSONDecodeError:
        tail = (err.strip().splitlines() or ["no output"])[-1]
        return {"absent": f"ended with {child.returncode}: {tail[:300]}"}
    return record


def main() -> None:
    """Print the record of one peer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(PEERS))
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--density", type=float, default=0.126)
    parser.add_argument("--head-dim", type=int, default=64)
    options = parser.parse_args()
    try:
        record = compare(options.name, options.frames, options.density, options.head_dim)
    except ImportError as error:
        record = {"absent": f"not installed: {error}"}
    except Exception as error:  # the table contains whatever a peer raises
        record = {"absent": f"{type(error).__name__}: {str(error)[:300]}"}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
