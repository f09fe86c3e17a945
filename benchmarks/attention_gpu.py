"""The attention kernels on a GPU, against the fastest dense attention and the sparse peers there.

    python benchmarks/attention_gpu.py --out benchmarks/results/attention_h200.json

Every ratio compares numbers of one run on one card: D is the fastest dense fp16 attention among
torch's flash SDPA, cuDNN SDPA and FlashAttention-4. Peers that are not installed are named as
absent. Inputs are fresh normal tokens; times are medians of CUDA events; clocks are logged beside
each number. Needs torch, numpy and the built library.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.nn.functional import scaled_dot_product_attention  # noqa: E402

from covis.export.ops import cuda  # noqa: E402
from covis.export.ops.layout import TokenLayout  # noqa: E402

Record = dict[str, Any]
FRAME, PATCHES = 1374, 1369  # VGGT at 518 x 518
HEADS = 16
DENSITIES = (1.0, 0.25, 0.126, 0.062, 0.03)
LAYOUT = TokenLayout(FRAME, FRAME - PATCHES)


def clocks() -> str:
    """SM clock, memory clock and power now, as nvidia-smi says."""
    query = "clocks.sm,clocks.mem,power.draw,temperature.gpu"
    done = subprocess.run(
        ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def measure(function: Callable[[], object], budget: float = 2.0) -> Record:
    """Median, minimum and number of timed runs, in milliseconds, within about `budget` seconds."""
    function()
    torch.cuda.synchronize()
    times: list[float] = []
    started = time.monotonic()
    while len(times) < 3 or (time.monotonic() - started < budget and len(times) < 50):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return {
        "ms": statistics.median(times),
        "ms_min": min(times),
        "runs": len(times),
        "clocks": clocks(),
    }


def tokens(frames: int, head_dim: int, heads: int = HEADS) -> list[torch.Tensor]:
    """Fresh Q, K, V of that many frames."""
    shape = (1, heads, frames * FRAME, head_dim)
    return [torch.randn(shape, device="cuda", dtype=torch.float16) for _ in range(3)]


def pair_map(frames: int, density: float) -> torch.Tensor:
    """A frame-pair map like those of co-visibility, with about `density` of the pairs.

    A band of neighbours, a few far pairs, and the reference view connected to all.
    """
    if density >= 1.0:
        return torch.full((1, 1, frames, frames), 2, dtype=torch.int8, device="cuda")
    generator = torch.Generator().manual_seed(frames)
    index = torch.arange(frames)
    distance = (index[:, None] - index[None]).abs().float()
    order = distance + 0.25 * frames * torch.rand(frames, frames, generator=generator) ** 4
    order[0, :] = order[:, 0] = -1.0
    order.fill_diagonal_(-1.0)
    kept = max(int(density * frames * frames), 3 * frames - 2)
    limit = order.flatten().kthvalue(kept).values
    return (2 * (order <= limit)).to(torch.int8)[None, None].cuda()


def pairs_of(level: torch.Tensor, frames: int) -> int:
    """Token pairs that the op must compute for one head."""
    every = (frames * FRAME) ** 2
    return int((level > 0).sum()) * PATCHES**2 + every - (frames * PATCHES) ** 2


def dense_baselines(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> dict[str, Record]:
    """The dense attentions that torch and FlashAttention-4 have here."""

    def sdpa(backend: SDPBackend) -> Callable[[], object]:
        def run() -> object:
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(q, k, v)

        return run

    candidates: dict[str, Callable[[], object]] = {
        "torch flash": sdpa(SDPBackend.FLASH_ATTENTION),
        "torch cuDNN": sdpa(SDPBackend.CUDNN_ATTENTION),
    }
    if importlib.util.find_spec("flash_attn") is not None:
        from flash_attn.cute import flash_attn_func

        qt, kt, vt = (x.transpose(1, 2) for x in (q, k, v))
        candidates["FlashAttention-4"] = lambda: flash_attn_func(qt, kt, vt)
    results: dict[str, Record] = {"FlashAttention-4": {"absent": "flash_attn is not installed"}}
    for name, run in candidates.items():
        try:
            results[name] = measure(run)
        except Exception as error:  # a backend may refuse the card or the size
            results[name] = {"absent": f"{type(error).__name__}: {str(error)[:200]}"}
    return results


def peers(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, level: torch.Tensor
) -> dict[str, Record]:
    """Block-sparse attentions of others on the same map, rounded to their blocks."""
    results: dict[str, Record] = {}
    frames = level.shape[-1]
    block = 128
    blocks = -(-q.shape[2] // block)
    frame_of = (torch.arange(blocks, device="cuda") * block).div(FRAME, rounding_mode="floor")
    last_of = (
        (torch.arange(blocks, device="cuda") * block + block - 1)
        .div(FRAME, rounding_mode="floor")
        .clamp(max=frames - 1)
    )
    kept = level[0, 0] > 0
    touched = torch.zeros(blocks, blocks, dtype=torch.bool, device="cuda")
    for rows in (frame_of, last_of):
        for columns in (frame_of, last_of):
            touched |= kept[rows][:, columns]
    share = float(touched.float().mean())

    try:
        from torch.nn.attention.flex_attention import BlockMask, flex_attention

        counts = touched.sum(-1, dtype=torch.int32)[None, None]
        order = touched.int().argsort(-1, descending=True, stable=True).int()[None, None]
        mask = BlockMask.from_kv_blocks(
            torch.zeros_like(counts), order, counts, order, BLOCK_SIZE=block
        )
        compiled = torch.compile(flex_attention)
        results["FlexAttention"] = measure(lambda: compiled(q, k, v, block_mask=mask))
        results["FlexAttention"]["block_density"] = share
    except Exception as error:
        results["FlexAttention"] = {"absent": f"{type(error).__name__}: {str(error)[:200]}"}

    for name, module in (
        ("cudnn-frontend block-sparse", "cudnn"),
        ("FlashAttention-4 block-sparse", "flash_attn"),
        ("FlashInfer block-sparse", "flashinfer"),
    ):
        if importlib.util.find_spec(module) is None:
            results[name] = {"absent": f"{module} is not installed"}
        else:
            results[name] = {"absent": f"{module} is installed, but has no adapter here yet"}
    return results


def ours(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, level: torch.Tensor, **options: Any
) -> Callable[[], object]:
    """One launch of our op with VGGT's layout."""
    out = torch.empty_like(q)
    return lambda: cuda.block_sparse_attention(
        q, k, v, level, layout=LAYOUT, q_block=PATCHES, k_block=PATCHES, out=out, **options
    )


def sparse_table(frames: int, head_dim: int, library: Any, budget: float) -> Record:
    """All densities at one length."""
    q, k, v = tokens(frames, head_dim)
    dense = dense_baselines(q, k, v)
    fastest = min((r["ms"], name) for name, r in dense.items() if "ms" in r)
    length = q.shape[2]
    flops = 4 * head_dim * HEADS
    record: Record = {
        "frames": frames,
        "tokens": length,
        "heads": HEADS,
        "head_dim": head_dim,
        "dense": dense,
        "D": {"ms": fastest[0], "by": fastest[1], "tflops": flops * length**2 / fastest[0] / 1e9},
        "rows": [],
    }
    plain = torch.full((1, 1, 1, 1), 2, dtype=torch.int8, device="cuda")
    kernels: list[cuda.Kernel] = ["auto"]
    if head_dim == 64 and torch.cuda.get_device_capability() == (9, 0):
        kernels.append("hopper-polynomial")
    for kernel in kernels:
        run = measure(
            lambda kernel=kernel: cuda.block_sparse_attention(
                q, k, v, plain, kernel=kernel, library=library
            ),
            budget,
        )
        record["rows"].append(
            {
                "map": "dense, no frames",
                "kernel": kernel,
                **run,
                "tflops": flops * length**2 / run["ms"] / 1e9,
                "of_D": fastest[0] / run["ms"],
            }
        )
    for density in DENSITIES:
        level = pair_map(frames, density)
        pairs = pairs_of(level, frames)
        run = measure(ours(q, k, v, level, library=library), budget)
        ideal = fastest[0] * pairs / length**2
        record["rows"].append(
            {
                "map": "frame pairs",
                "density": float((level > 0).float().mean()),
                "pairs": pairs,
                **run,
                "tflops": flops * pairs / run["ms"] / 1e9,
                "speed_up": fastest[0] / run["ms"],
                "efficiency": ideal / run["ms"],
            }
        )
        print(json.dumps(record["rows"][-1]), flush=True)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ours(q, k, v, pair_map(frames, 0.126), library=library)()
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before - q.numel() * 2
    record["extra_memory"] = {"bytes": extra, "share_of_qkvo": extra / (8 * q.numel())}
    return record


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--library", type=Path, default=ROOT / "build" / "cuda" / cuda.LIBRARY)
    parser.add_argument("--seconds", type=float, default=270.0)
    parser.add_argument("--frames", type=int, nargs="+", default=[100, 20, 200, 500])
    options = parser.parse_args()
    started = time.monotonic()
    library = cuda.load_kernels(options.library)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    result: Record = {
        "command": " ".join(sys.argv),
        "gpu": torch.cuda.get_device_name(),
        "driver": subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "commit": commit or "unknown",
        "tables": [],
        "not_measured": [],
    }
    # 100 views (137,400 tokens) first: the table that the targets are stated for.
    work = [(frames, 64) for frames in options.frames]
    work.insert(1, (20, 128))
    for frames, head_dim in work:
        left = options.seconds - (time.monotonic() - started)
        # The dense baselines grow with the square of the length; 0.16 s at 100 views is a guess
        # that only decides whether a table is begun.
        needed = 40 * 0.16 * (frames / 100) ** 2 * (head_dim / 64) + 15
        if left < needed:
            result["not_measured"].append({"frames": frames, "head_dim": head_dim, "left_s": left})
            continue
        result["tables"].append(sparse_table(frames, head_dim, library, budget=2.0))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1))
    q, k, v = tokens(20, 64)
    try:
        result["peers"] = {"frames": 20, **peers(q, k, v, pair_map(20, 0.126))}
        result["peers"]["ours"] = measure(ours(q, k, v, pair_map(20, 0.126), library=library))
    finally:
        options.out.write_text(json.dumps(result, indent=1))
    for table in result["tables"]:
        print(
            f"{table['tokens']} tokens, D = {table['D']['tflops']:.0f} TFLOP/s"
            f" by {table['D']['by']}"
        )
        for row in table["rows"]:
            name = f"{row['map']} {row.get('density', 1.0):.3f}"
            print(f"  {name:28} {row['ms']:9.3f} ms {row['tflops']:7.1f} TFLOP/s")


if __name__ == "__main__":
    main()
