"""A few small launches of every kernel, for compute-sanitizer: `-m tests.gpu.small LIBRARY`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from covis.export.ops import cuda
from covis.export.ops.layout import TokenLayout


def launch(library: str, kernel: cuda.Kernel, head_dim: int, q_block: int, k_block: int) -> None:
    """Three frames of 130 + 5 tokens with a trailing one; whole, short and partial chunks."""
    layout = TokenLayout(135, 3, 2, 1)
    q, k, v = (
        torch.randn(1, 2, 3 * 135 + 1, head_dim, device="cuda", dtype=torch.float16)
        for _ in range(3)
    )
    patches = layout.patches(q.shape[2])
    shape = (1, 2, -(-patches // q_block), -(-patches // k_block))
    level = torch.randint(0, 3, shape, device="cuda", dtype=torch.int8)
    out = cuda.block_sparse_attention(
        q,
        k,
        v,
        level,
        layout=layout,
        q_block=q_block,
        k_block=k_block,
        kernel=kernel,
        library=cuda.load_kernels(Path(library)),
    )
    torch.cuda.synchronize()
    if not torch.isfinite(out).all():
        raise SystemExit(f"{kernel} {head_dim}: not finite")
    print(f"launched {kernel} D={head_dim} regions {q_block} x {k_block}", flush=True)


def main() -> None:
    """Every kernel that this GPU has."""
    kernels: tuple[cuda.Kernel, ...] = ("portable",)
    if torch.cuda.get_device_capability() == (9, 0):
        kernels = ("hopper", "portable")
    for kernel in kernels:
        for head_dim in (64, 128):
            for q_block, k_block in ((130, 130), (128, 64), (50, 33)):
                launch(sys.argv[1], kernel, head_dim, q_block, k_block)


if __name__ == "__main__":
    main()
