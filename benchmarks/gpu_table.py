"""Measurements of one length and head dimension: our kernel and the fastest dense attention."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu_maps import FRAME, PATCHES, anchor_map, pair_map, pairs_of
from benchmarks.gpu_rows import PRECISIONS, planned_rows, subject
from benchmarks.gpu_timing import Record, kernel_times, measure
from covis.export.ops.attributes import AttentionAttributes, SelectAttributes
from covis.export.ops.cuda import attention, farthest, saliency, select
from covis.export.ops.layout import TokenLayout

HEADS = 16
LAYOUT = TokenLayout(FRAME, FRAME - PATCHES)
LISTING = ("measure_rows", "sort_rows", "gather_specials")
ROUNDING = ("measure_patches", "finish_scales", "quantize_cell")
Call = Callable[[], object]
Keep = Callable[[], None]


def tokens(frames: int, head_dim: int, heads: int = HEADS) -> list[torch.Tensor]:
    """Return random Q, K, V of that many frames."""
    shape = (1, heads, frames * FRAME, head_dim)
    return [torch.randn(shape, device="cuda", dtype=torch.float16) for _ in range(3)]


def schedule_rules() -> dict[str, torch.Tensor]:
    """Return pair rules of three maps: own frame, 10 anchors, 40 anchors with 4 neighbours."""
    none, flags = (
        torch.full((3,), 2.0, device="cuda"),
        torch.ones(3, dtype=torch.bool, device="cuda"),
    )
    return {
        "tau": none,
        "tau_low": none,
        "anchors": torch.tensor([0, 10, 40], device="cuda"),
        "min_neighbours": torch.tensor([0, 4, 4], device="cuda"),
        "own_frame": flags,
        "reference": torch.tensor(0, device="cuda"),
        "to_reference": flags,
        "from_reference": flags,
    }


def dense_baselines(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[dict[str, Record], dict[str, Call]]:
    """Return times and calls of the dense attentions that torch and FlashAttention-4 offer here."""

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
        """Return a launch with VGGT's layout; a map of one element has no frames."""
        frames = level.numel() > 1
        attributes = (
            AttentionAttributes(LAYOUT, PATCHES, PATCHES) if frames else AttentionAttributes()
        )
        return self.launch(level, attributes, **options)

    def regions(self, level: torch.Tensor, block: tuple[int, int]) -> Call:
        """Return a launch with a map of plain token blocks."""
        return self.launch(level, AttentionAttributes(q_block=block[0], k_block=block[1]))

    def launch(self, level: torch.Tensor, attributes: AttentionAttributes, **options: Any) -> Call:
        """Return a launch of the attention kernel on these tokens."""
        tokens = (self.q, self.k, self.v, level, attributes)
        return lambda: attention.block_sparse_attention(
            *tokens, out=self.out, library=self.library, **options
        )

    def row(
        self, name: str, level: torch.Tensor, dense: Call, budget: float, **options: Any
    ) -> Record:
        """Measure one row; `dense` alternates with it."""
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
        """Yield every row of `planned_rows` that is not left out, as it is measured."""
        for row in planned_rows(self.hopper, self.head_dim, self.left_out):
            if row.anchors is not None:
                level = anchor_map(self.frames, row.anchors).cuda()
            elif row.density is None:
                level = torch.full((1, 1, 1, 1), row.level, dtype=torch.int8, device="cuda")
            else:
                level = pair_map(self.frames, row.density, low=row.level == 1).cuda()
            options = {"kernel": row.kernel, "precision": row.precision}
            yield self.row(row.name, level, dense, budget, **options)

    def shares(self, level: torch.Tensor, precision: attention.Precision) -> Record:
        """Return the share of the small kernels before the attention in one call."""
        times = kernel_times(self.op(level, precision=precision))
        total = sum(times.values())
        listing = sum(times.get(name, 0.0) for name in LISTING)
        rounding = sum(times.get(name, 0.0) for name in ROUNDING)
        share = {"listing": listing / total, "rounding": rounding / total} if total else {}
        return {"ms": times, "share": share}

    def extra_memory(self, level: torch.Tensor, precision: attention.Precision) -> Record:
        """Return the peak memory of one call in addition to Q, K, V and O."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.op(level, precision=precision)()
        torch.cuda.synchronize()
        extra = torch.cuda.max_memory_allocated() - before
        return {"bytes": extra, "share_of_qkvo": extra / (8 * self.q.numel())}

    def selectors(self) -> dict[str, Record]:
        """Measure what computes the maps: BlockSelect, and the parts of the saliency stage."""
        level = torch.full((1, 1, 1, 1), 2, dtype=torch.int8, device="cuda")
        scalars = [torch.tensor(x, device="cuda") for x in (0.126, 0.9)]
        features = torch.randn(self.frames, PATCHES, 1024, device="cuda", dtype=torch.float16)
        similarity = torch.rand(self.frames, self.frames, device="cuda")
        given = torch.full((self.frames,), -1, device="cuda")
        rules = schedule_rules()
        count = rules["anchors"].max()

        def anchors() -> torch.Tensor:
            return farthest.farthest_first(similarity, given, count, library=self.library)

        rank = anchors()
        return {
            "BlockSelect": measure(
                lambda: select.block_select(
                    self.q, self.k, level, *scalars, SelectAttributes(LAYOUT), library=self.library
                )
            ),
            "similarity": measure(lambda: saliency.similarity(features, library=self.library)),
            "FarthestFirst": measure(anchors),
            "pair_levels": measure(
                lambda: saliency.pair_levels(similarity, rank, rules, library=self.library)
            ),
        }

    def measure(self, record: Record, budget: float, keep: Keep) -> None:
        """Measure everything at this length, into `record`; `keep` is called after each row."""
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
