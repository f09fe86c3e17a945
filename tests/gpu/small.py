"""A few small launches of every kernel, for compute-sanitizer: `-m tests.gpu.small LIBRARY`.

With `--fault`, one launch that reads behind its level map: what the sanitizer must report.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import torch

from covis.export.ops.attributes import AttentionAttributes, SelectAttributes
from covis.export.ops.cuda import attention, binding, farthest, saliency, select
from covis.export.ops.layout import TokenLayout
from tests.vectors.pair_case import pair_case

LAYOUT = TokenLayout(135, 3, 2, 1)


def launch(
    library: ctypes.CDLL,
    kernel: attention.Kernel,
    precision: attention.Precision,
    head_dim: int,
    blocks: tuple[int, int],
) -> None:
    """Three frames of 130 + 5 tokens with a trailing one; whole, short, low and partial chunks."""
    q, k, v = (
        torch.randn(1, 2, 3 * 135 + 1, head_dim, device="cuda", dtype=torch.float16)
        for _ in range(3)
    )
    patches = LAYOUT.patches(q.shape[2])
    shape = (1, 2, *(-(-patches // block) for block in blocks))
    level = torch.randint(0, 3, shape, device="cuda", dtype=torch.int8)
    attributes = AttentionAttributes(LAYOUT, *blocks)
    out = attention.block_sparse_attention(
        q, k, v, level, attributes, kernel=kernel, precision=precision, library=library
    )
    torch.cuda.synchronize()
    if not torch.isfinite(out).all():
        raise SystemExit(f"{kernel} {precision} {head_dim}: not finite")
    print(f"launched {kernel} {precision} D={head_dim} regions {blocks}", flush=True)


def launch_selectors(library: ctypes.CDLL) -> None:
    """BlockSelect, and the saliency stage with its anchors."""
    q = torch.randn(1, 2, 3 * 135 + 1, 64, device="cuda", dtype=torch.float16)
    pair = torch.full((1, 1, 1, 1), 2, dtype=torch.int8, device="cuda")
    scalars = [torch.tensor(x, device="cuda") for x in (0.3, 0.5)]
    select.block_select(q, q, pair, *scalars, SelectAttributes(LAYOUT), library=library)
    similarity = saliency.similarity(torch.randn(9, 50, 96, device="cuda"), library=library)
    given = torch.full((9,), -1, device="cuda")
    rank = farthest.farthest_first(
        similarity, given, torch.tensor(4, device="cuda"), library=library
    )
    rules = {name: x.cuda() for name, x in pair_case(1, 9, 3).rules._asdict().items()}
    saliency.pair_levels(similarity, rank, rules, library=library)
    torch.cuda.synchronize()
    print("launched selectors", flush=True)


def launch_fault(library: ctypes.CDLL) -> None:
    """A map that says it has 64 x 64 regions and holds one."""
    q = torch.randn(1, 1, 64 * 64, 64, device="cuda", dtype=torch.float16)
    level = torch.full((1, 1, 1, 1), 2, dtype=torch.int8, device="cuda")
    attributes = AttentionAttributes(TokenLayout(64), 64, 64)
    params = attention.pack(q, q, q, level, torch.empty_like(q), attributes)
    params.level_rows = params.level_cols = 64
    size = ctypes.c_uint64()
    binding.call(library, "covis_attention_workspace", ctypes.byref(params), ctypes.byref(size))
    workspace = torch.empty(size.value, dtype=torch.uint8, device="cuda")
    params.workspace, params.workspace_bytes = workspace.data_ptr(), size.value
    binding.call(library, "covis_attention_launch", ctypes.byref(params), None)
    torch.cuda.synchronize()


def main() -> None:
    """Every kernel that this GPU has."""
    library = binding.load_kernels(Path(sys.argv[1]))
    if "--fault" in sys.argv:
        launch_fault(library)
        return
    kinds: list[tuple[attention.Kernel, attention.Precision]] = [("portable", "full")]
    if torch.cuda.get_device_capability() == (9, 0):
        kinds += [("hopper", "full"), ("hopper", "fp8")]
    for kernel, precision in kinds:
        for head_dim in (64, 128):
            for blocks in ((130, 130), (128, 64), (50, 33)):
                launch(library, kernel, precision, head_dim, blocks)
    launch_selectors(library)


if __name__ == "__main__":
    main()
