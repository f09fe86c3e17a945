"""The attention kernels on a GPU, against the fastest dense attention and the sparse peers there.

    python benchmarks/attention_gpu.py --out benchmarks/results/attention_h200.json

Every ratio compares numbers of one run on one card: D is the fastest dense fp16 attention among
torch's flash SDPA, cuDNN SDPA and FlashAttention-4. Peers that are not installed are named as
absent. Inputs are fresh normal tokens; times are medians of CUDA events, on a cold L2 cache; each
row alternates with D, so that its ratios are of the same clocks, which are logged beside it. Needs
torch, numpy and the built library; stops after `--seconds`, and names what it then left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.nn.functional import scaled_dot_product_attention  # noqa: E402

from benchmarks.gpu_facts import gpu_facts  # noqa: E402
from benchmarks.gpu_maps import (  # noqa: E402
    FRAME,
    PATCHES,
    block_name,
    pair_map,
    pairs_of,
    rounded,
)
from benchmarks.gpu_summary import summary, text  # noqa: E402
from benchmarks.gpu_timing import Record, kernel_times, measure  # noqa: E402
from benchmarks.peers_gpu import PEERS, run_peer  # noqa: E402
from covis.export.ops import cuda, cuda_select  # noqa: E402
from covis.export.ops.layout import TokenLayout  # noqa: E402

HEADS = 16
DENSITIES = (1.0, 0.25, 0.126, 0.062, 0.03)
LAYOUT = TokenLayout(FRAME, FRAME - PATCHES)
LISTING = ("measure_rows", "sort_rows", "gather_specials")
ROUNDING = ("measure_patches", "finish_scales", "quantize_cell")
PEER_DENSITY = 0.126
PRECISIONS: tuple[cuda.Precision, ...] = ("full", "fp8")
SUBJECTS = tuple(
    f"{kernel} {precision}"
    for kernel in ("hopper", "hopper-polynomial", "portable")
    for precision in PRECISIONS
)
Call = Callable[[], object]
Keep = Callable[[], None]


def tokens(frames: int, head_dim: int, heads: int = HEADS) -> list[torch.Tensor]:
    """Fresh Q, K, V of that many frames."""
    shape = (1, heads, frames * FRAME, head_dim)
    return [torch.randn(shape, device="cuda", dtype=torch.float16) for _ in range(3)]


def dense_baselines(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[dict[str, Record], dict[str, Call]]:
    """The dense attentions that torch and FlashAttention-4 have here: times, and the calls."""

    def sdpa(backend: SDPBackend) -> Call:
        def run() -> object:
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(q, k, v)

        return run

    candidates: dict[str, Call] = {
        "torch flash": sdpa(SDPBackend.FLASH_ATTENTION),
        "torch cuDNN": sdpa(SDPBackend.CUDNN_ATTENTION),
    }
    results: dict[str, Record] = {"FlashAttention-4": {"absent": "flash_attn is not installed"}}
    if importlib.util.find_spec("flash_attn") is not None:
        try:
            from flash_attn.cute import flash_attn_func

            qt, kt, vt = (x.transpose(1, 2).contiguous() for x in (q, k, v))
            candidates["FlashAttention-4"] = lambda: flash_attn_func(qt, kt, vt)
        except ImportError as error:
            results["FlashAttention-4"] = {"absent": f"not usable: {error}"}
    for name, run in candidates.items():
        try:
            results[name] = measure(run)
        except Exception as error:  # a backend may refuse the card or the size
            results[name] = {"absent": f"{type(error).__name__}: {str(error)[:200]}"}
    return results, candidates


@dataclass(frozen=True)
class Row:
    """What one row measures.

    Attributes:
        name: of its map.
        level: the lowest level of computed pairs: 1 may be computed in FP8.
        density: share of frame pairs that are computed; None for a map of one element.
        kernel: see `covis.export.ops.cuda`.
        precision: likewise.
    """

    name: str
    level: int
    density: float | None = None
    kernel: cuda.Kernel = "auto"
    precision: cuda.Precision = "full"


def subject(kernel: cuda.Kernel, precision: cuda.Precision, *, hopper: bool) -> str:
    """The kernel that runs, in the words of the kernel checks, e.g. "hopper fp8"."""
    chosen = ("hopper" if hopper else "portable") if kernel == "auto" else kernel
    return f"{chosen} {precision}"


def planned_rows(hopper: bool, head_dim: int, left_out: Collection[str]) -> list[Row]:
    """Dense maps by every kernel and precision, then frame pairs of all densities.

    Args:
        hopper: whether the GPU has the Hopper kernels, and so FP8.
        head_dim: of the table.
        left_out: what is not measured, see `subject`.
    """
    kernels: list[cuda.Kernel] = ["auto"]
    if hopper and head_dim == 64:
        kernels.append("hopper-polynomial")
    rows: list[Row] = []
    for kernel in kernels:
        rows.append(Row("dense map", 2, kernel=kernel))
        if hopper:
            rows.append(Row("dense map", 1, kernel=kernel, precision="fp8"))
    rows += [Row("frame pairs", 2, density) for density in DENSITIES]
    if hopper:
        rows += [
            Row("frame pairs, levels 1, 2", 1, density, precision=precision)
            for density in (0.25, 0.126)
            for precision in PRECISIONS
        ]
    return [
        row for row in rows if subject(row.kernel, row.precision, hopper=hopper) not in left_out
    ]


class Table:
    """The measurements of one length and head dimension."""

    def __init__(
        self, frames: int, head_dim: int, library: Any, left_out: Collection[str] = ()
    ) -> None:
        self.frames, self.head_dim, self.library = frames, head_dim, library
        self.left_out = left_out
        self.hopper = torch.cuda.get_device_capability() == (9, 0)
        self.q, self.k, self.v = tokens(frames, head_dim)
        self.out = torch.empty_like(self.q)
        self.length = self.q.shape[2]

    def op(self, level: torch.Tensor, **options: Any) -> Call:
        """One launch with VGGT's layout; a map of one element has no frames."""
        if level.numel() > 1:
            options = {**options, "layout": LAYOUT, "q_block": PATCHES, "k_block": PATCHES}
        return lambda: cuda.block_sparse_attention(
            self.q, self.k, self.v, level, out=self.out, library=self.library, **options
        )

    def regions(self, level: torch.Tensor, block: tuple[int, int]) -> Call:
        """One launch with a map of plain token blocks."""
        return lambda: cuda.block_sparse_attention(
            self.q,
            self.k,
            self.v,
            level,
            q_block=block[0],
            k_block=block[1],
            out=self.out,
            library=self.library,
        )

    def row(
        self, name: str, level: torch.Tensor, dense: Call, budget: float, **options: Any
    ) -> Record:
        """One measured row; `dense` runs in turns with it."""
        pairs = self.length**2 if level.numel() == 1 else pairs_of(level)
        run = measure(self.op(level, **options), budget, beside=dense)
        dense_ms = run.pop("beside_ms")
        record = {
            "map": name,
            "density": float((level > 0).float().mean()),
            "level_1": float((level == 1).float().mean()),
            "kernel": options.get("kernel", "auto"),
            "precision": options.get("precision", "full"),
            "pairs": pairs,
            **run,
            "dense_ms": dense_ms,
            "tflops": 4 * self.head_dim * HEADS * pairs / run["ms"] / 1e9,
            "of_D": dense_ms / run["ms"] * pairs / self.length**2,
            "speed_up": dense_ms / run["ms"],
            "efficiency": dense_ms * pairs / self.length**2 / run["ms"],
        }
        print(json.dumps(record), flush=True)
        return record

    def rows(self, dense: Call, budget: float) -> Iterator[Record]:
        """Every row of `planned_rows` that is not left out, as it is measured."""
        for row in planned_rows(self.hopper, self.head_dim, self.left_out):
            if row.density is None:
                level = torch.full((1, 1, 1, 1), row.level, dtype=torch.int8, device="cuda")
            else:
                level = pair_map(self.frames, row.density, low=row.level == 1).cuda()
            options = {"kernel": row.kernel, "precision": row.precision}
            yield self.row(row.name, level, dense, budget, **options)

    def shares(self, level: torch.Tensor, precision: cuda.Precision) -> Record:
        """What the small kernels before the attention take of one call."""
        times = kernel_times(self.op(level, precision=precision))
        total = sum(times.values())
        listing = sum(times.get(name, 0.0) for name in LISTING)
        rounding = sum(times.get(name, 0.0) for name in ROUNDING)
        share = {"listing": listing / total, "rounding": rounding / total} if total else {}
        return {"ms": times, "share": share}

    def extra_memory(self, level: torch.Tensor, precision: cuda.Precision) -> Record:
        """Peak memory of one call beside Q, K, V and O."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.op(level, precision=precision)()
        torch.cuda.synchronize()
        extra = torch.cuda.max_memory_allocated() - before
        return {"bytes": extra, "share_of_qkvo": extra / (8 * self.q.numel())}

    def selectors(self) -> dict[str, Record]:
        """BlockSelect and saliency, which build the maps."""
        level = torch.full((1, 1, 1, 1), 2, dtype=torch.int8, device="cuda")
        scalars = [torch.tensor(x, device="cuda") for x in (0.126, 0.9)]
        features = torch.randn(self.frames, PATCHES, 1024, device="cuda", dtype=torch.float16)
        limits = [torch.tensor(x, device="cuda") for x in (0.5, 0.3, 4, 0)]
        return {
            "BlockSelect": measure(
                lambda: cuda_select.block_select(
                    self.q, self.k, level, *scalars, layout=LAYOUT, library=self.library
                )
            ),
            "saliency": measure(
                lambda: cuda_select.saliency(features, *limits, library=self.library)
            ),
        }

    def measure(self, record: Record, budget: float, keep: Keep) -> None:
        """Everything at this length, into `record`; `keep` is called after each row."""
        dense, calls = dense_baselines(self.q, self.k, self.v)
        fastest = min((r["ms"], name) for name, r in dense.items() if "ms" in r)
        flops = 4 * self.head_dim * HEADS * self.length**2
        record |= {
            "frames": self.frames,
            "tokens": self.length,
            "heads": HEADS,
            "head_dim": self.head_dim,
            "dense": dense,
            "D": {"ms": fastest[0], "by": fastest[1], "tflops": flops / fastest[0] / 1e9},
            "rows": [],
        }
        for row in self.rows(calls[fastest[1]], budget):
            record["rows"].append(row)
            keep()
        mixed = pair_map(self.frames, 0.126, low=True).cuda()
        precisions = [
            p for p in PRECISIONS if subject("auto", p, hopper=self.hopper) not in self.left_out
        ]
        record["shares"] = {p: self.shares(mixed, p) for p in precisions}
        record["extra_memory"] = {p: self.extra_memory(mixed, p) for p in precisions}
        record["selectors"] = self.selectors()
        map_ms = sum(each["ms"] for each in record["selectors"].values())
        record["map_share"] = map_ms / fastest[0]
        keep()


def measure_peers(
    record: Record,
    frames: int,
    library: Any,
    left_out: Collection[str],
    seconds: Callable[[], float],
    keep: Keep,
) -> None:
    """The sparse peers and our kernel on one map, into `record`, while there is time.

    Ours is measured on the frame-pair map, and on its rounding to each peer's blocks. `seconds`
    says how many the next peer may take, and `keep` is called after each.
    """
    level = pair_map(frames, PEER_DENSITY).cuda()
    table = Table(frames, 64, library, left_out)
    record |= {"frames": frames, "density": PEER_DENSITY, "of": {}, "ours": {}}
    ours = subject("auto", "full", hopper=table.hopper) not in left_out
    blocks = sorted({peer.block for peer in PEERS.values()}) if ours else []
    if ours:
        record["ours"]["frame pairs"] = measure(table.op(level), 1.0)
    for block in blocks:
        regions = (2 * rounded(level, *block).kept).to(torch.int8)[None, None]
        record["ours"][block_name(block)] = measure(table.regions(regions, block), 1.0)
    del table
    torch.cuda.empty_cache()
    for name, peer in PEERS.items():
        if importlib.util.find_spec(peer.module) is None:
            record["of"][name] = {"absent": f"{peer.module} is not installed"}
        elif seconds() < 10:
            record["of"][name] = {"absent": "not run: no time was left"}
        else:
            record["of"][name] = run_peer(name, frames, PEER_DENSITY, 64, seconds())
        keep()


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--library", type=Path, default=ROOT / "build" / "cuda" / cuda.LIBRARY)
    parser.add_argument("--seconds", type=float, default=270.0)
    parser.add_argument("--frames", type=int, nargs="+", default=[100, 20, 200, 500])
    parser.add_argument("--peer-frames", type=int, default=100)
    parser.add_argument(
        "--peer-seconds", type=float, default=90.0, help="of one peer; most compile at first use"
    )
    parser.add_argument(
        "--left-out", nargs="+", default=[], choices=SUBJECTS, help="kernels that must not be run"
    )
    return parser.parse_args(given)


def main() -> None:
    """Measure and write the JSON file, anew after each row and each peer."""
    options = arguments()
    started = time.monotonic()

    def left() -> float:
        return float(options.seconds) - (time.monotonic() - started)

    library = cuda.load_kernels(options.library)
    result: Record = {
        "command": " ".join(sys.argv),
        **gpu_facts(),
        "cuda": torch.version.cuda,
        "left_out": options.left_out,
        "tables": [],
        "not_measured": [],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)

    def write() -> None:
        result["summary"] = summary(result)
        scratch = options.out.with_name(f".{options.out.name}.partial")
        scratch.write_text(json.dumps(result, indent=1))
        scratch.replace(options.out)  # a cut leaves the last whole record

    def peers() -> None:
        result["peers"] = {}
        try:
            measure_peers(
                result["peers"],
                options.peer_frames,
                library,
                options.left_out,
                lambda: min(options.peer_seconds, left()),
                write,
            )
        except Exception as error:  # the tables are worth more than the peers
            result["peers"]["absent"] = f"{type(error).__name__}: {error}"
        write()

    # 100 views (137,400 tokens) first: the table that the targets are stated for. Then the peers.
    work = [(frames, 64) for frames in options.frames]
    work.insert(1, (20, 128))
    for index, (frames, head_dim) in enumerate(work):
        if index == 1:
            peers()
        # A dense call grows with the square of the length; the guess for 100 views only decides
        # whether a table is begun. Each of its some 18 measurements makes four calls at least, and
        # four of D beside most.
        needed = 100 * 0.16 * (frames / 100) ** 2 * (head_dim / 64) + 25
        if left() < needed:
            result["not_measured"].append(
                {"frames": frames, "head_dim": head_dim, "left_s": left()}
            )
            continue
        result["tables"].append({"frames": frames, "head_dim": head_dim, "rows": []})
        table = Table(frames, head_dim, library, options.left_out)
        table.measure(result["tables"][-1], 1.5, write)
        torch.cuda.empty_cache()
    write()
    print(text(result))


if __name__ == "__main__":
    main()
