"""What a GPU must show: right numbers, equal runs, far offsets, refusals without a launch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from covis.engines.errors import CovisError
from covis.export.ops.attributes import AttentionAttributes
from covis.export.ops.cuda.attention import Kernel, Precision, block_sparse_attention
from covis.export.ops.layout import TokenLayout
from tests.gpu.cases import (
    all_low,
    cases,
    exact,
    layout_of,
    plain,
    plain_fp8,
    refresh,
    rounded,
)
from tests.vectors.case import Array, AttentionCase

Record = dict[str, Any]
DTYPES = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}  # an ulp of 1


@dataclass(frozen=True)
class Subject:
    """One kernel of one library; with precision "fp8", level 1 is computed in FP8."""

    library: ctypes.CDLL
    kernel: Kernel
    precision: Precision = "full"

    @property
    def name(self) -> str:
        """For records."""
        return f"{self.kernel} {self.precision}"

    @property
    def level(self) -> int:
        """The level that exercises this precision."""
        return 1 if self.precision == "fp8" else 2

    def attention(
        self, *tensors: torch.Tensor, out: torch.Tensor | None = None, **attributes: Any
    ) -> torch.Tensor:
        """The op by this kernel; `attributes` are those of the op."""
        q, k, v, level = tensors
        return block_sparse_attention(
            q,
            k,
            v,
            level,
            AttentionAttributes(**attributes),
            library=self.library,
            kernel=self.kernel,
            precision=self.precision,
            out=out,
        )


def run_case(case: AttentionCase, dtype: torch.dtype, subject: Subject) -> torch.Tensor:
    """The kernel's output, on the GPU; the buffer is poisoned with NaN first."""
    q, k, v = (torch.from_numpy(x).to("cuda", dtype) for x in (case.q, case.k, case.v))
    out = torch.full_like(q, torch.nan)
    subject.attention(
        q,
        k,
        v,
        torch.from_numpy(case.level).cuda(),
        layout=layout_of(case),
        q_block=case.q_block,
        k_block=case.k_block,
        scale=case.scale,
        out=out,
    )
    torch.cuda.synchronize()
    return out


def check_vectors(subjects: list[Subject], seed: int) -> list[Record]:
    """Every case in both types: error at most twice that of plain torch in the type.

    In FP8, each case as it is and with every computed pair of level 1; there the measure is plain
    torch with those pairs in emulated FP8.
    """
    records = []
    full = [subject for subject in subjects if subject.precision == "full"]
    low = [subject for subject in subjects if subject.precision == "fp8"]
    for base in cases():
        for dtype in DTYPES:
            case = rounded(refresh(base, seed), dtype)
            expected = exact(case, "cuda")
            error = float(np.abs(plain(case, dtype, "cuda") - expected).max())
            records += judge(full, case, dtype, expected, error)
            for mixed in (case, all_low(case)) if low else ():
                error = float(np.abs(plain_fp8(mixed, dtype, "cuda") - expected).max())
                records += judge(low, mixed, dtype, expected, error)
    return records


def judge(
    subjects: list[Subject],
    case: AttentionCase,
    dtype: torch.dtype,
    expected: Array,
    reference_error: float,
) -> list[Record]:
    """One case by each subject, twice: within twice the reference's error, and equal bits."""
    name = str(dtype).removeprefix("torch.")
    allowed = max(2.0 * reference_error, DTYPES[dtype] * float(np.abs(case.v).max()))
    records = []
    for subject in subjects:
        if subject.kernel == "hopper-polynomial" and case.q.shape[3] != 64:
            continue
        out = run_case(case, dtype, subject)
        repeat = bool(torch.equal(out, run_case(case, dtype, subject)))
        error = float(np.abs(out.float().cpu().numpy() - expected).max())
        records.append(
            {
                "case": case.name,
                "kernel": subject.name,
                "dtype": name,
                "error": error,
                "allowed": allowed,
                "bitwise_repeat": repeat,
                "ok": repeat and error <= allowed,  # NaN is never within
            }
        )
    return records


def check_nan(subject: Subject) -> Record:
    """NaN and Inf in two queries spoil these two rows alone; NaN in a key reaches all its head."""
    q, k, v = (torch.randn(2, 2, 640, 64, device="cuda", dtype=torch.float16) for _ in range(3))
    level = torch.randint(1, 3, (1, 1, 5, 5), device="cuda", dtype=torch.int8)
    options = {"q_block": 128, "k_block": 128}
    q[1, 0, 77, 5] = q[1, 0, 500, 0] = 0.0  # not the largest of an FP8 cell
    clean = subject.attention(q, k, v, level, **options)
    q[1, 0, 77, 5], q[1, 0, 500, 0] = torch.nan, torch.inf
    dirty = subject.attention(q, k, v, level, **options)
    others = torch.ones(2, 2, 640, dtype=torch.bool, device="cuda")
    others[1, 0, 77] = others[1, 0, 500] = False
    same = torch.equal(clean[others], dirty[others])
    seen = bool(dirty[1, 0, 77].isnan().all())
    q[1, 0, 77, 5] = q[1, 0, 500, 0] = 0.0
    k[1, 0, 290, 5] = torch.nan  # a column whose exponentials a polynomial kernel may compute
    dirty = subject.attention(q, k, v, level, **options)
    others = torch.ones(2, 2, dtype=torch.bool, device="cuda")
    others[1, 0] = False
    reached = bool(dirty[1, 0].isnan().all())
    same = same and torch.equal(clean[others], dirty[others])
    return {"case": "nan", "kernel": subject.name, "ok": bool(same and seen and reached)}


def check_permission(library: ctypes.CDLL) -> Record:
    """Kernels without FP8 take the permission and compute level 1 as level 2."""
    q, k, v = (torch.randn(1, 2, 320, 64, device="cuda", dtype=torch.float16) for _ in range(3))
    level = torch.randint(0, 3, (1, 1, 5, 5), device="cuda", dtype=torch.int8)
    outs = [
        Subject(library, "portable", precision).attention(q, k, v, level, q_block=64, k_block=64)
        for precision in ("full", "fp8")
    ]
    return {"case": "permission", "kernel": "portable", "ok": bool(torch.equal(*outs))}


def check_strides(subject: Subject) -> Record:
    """Tensors as a packed QKV projection gives them: (B, S, 3, H, D), seen as (B, H, S, D)."""
    packed = torch.randn(2, 700, 3, 4, 64, device="cuda", dtype=torch.float16)
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    level = torch.full((1, 1, 1, 1), subject.level, dtype=torch.int8, device="cuda")
    strided = subject.attention(q, k, v, level)
    whole = subject.attention(q.contiguous(), k.contiguous(), v.contiguous(), level)
    same = torch.equal(strided, whole)
    return {"case": "strides", "kernel": subject.name, "ok": bool(same)}


def check_far_offsets(subject: Subject) -> Record:
    """Tokens whose offsets pass 2^31 elements: the last head against its own copy."""
    frames, heads = 1000, 26  # 1,374,000 tokens x 26 heads x 64 = 2.29e9 elements
    tokens = frames * 1374
    q = torch.randn(1, heads, tokens, 64, device="cuda", dtype=torch.float16)
    k, v = torch.randn_like(q), torch.randn_like(q)
    level = (subject.level * torch.eye(frames, device="cuda")).to(torch.int8)[None, None]
    arguments = {
        "layout": TokenLayout(1374, 5),
        "q_block": 1369,
        "k_block": 1369,
    }
    out = torch.full_like(q, torch.nan)
    subject.attention(q, k, v, level, out=out, **arguments)
    last = slice(heads - 1, heads)
    alone = subject.attention(*(x[:, last].contiguous() for x in (q, k, v)), level, **arguments)
    same = torch.equal(out[:, last], alone)
    finite = bool(torch.isfinite(out[:, :, ::997]).all())
    return {
        "case": "far-offsets",
        "kernel": subject.name,
        "elements": q.numel(),
        "ok": same and finite,
    }


def check_refusals(subject: Subject) -> list[Record]:
    """Bad input gives an error that names it, and leaves the output and the device alone."""
    q = torch.randn(1, 2, 256, 64, device="cuda", dtype=torch.float16)
    level = torch.full((1, 1, 1, 1), 2, dtype=torch.int8, device="cuda")

    def call(options: dict[str, Any] | None = None, **changes: torch.Tensor) -> None:
        given = {"q": q, "k": q, "v": q, "level": level, **changes}
        subject.attention(*given.values(), **(options or {}))

    bad: dict[str, Callable[[], None]] = {
        "float32": lambda: call(q=q.float(), k=q.float(), v=q.float()),
        "head_dim": lambda: call(q=q[..., :40], k=q[..., :40], v=q[..., :40]),
        "level shape": lambda: call(level=torch.ones(1, 1, 3, 3, dtype=torch.int8).cuda()),
        "layout": lambda: call({"layout": TokenLayout(100, 5)}),
        "scale": lambda: call({"scale": -1.0}),
        "devices": lambda: call(k=q.cpu()),
    }
    records = []
    for name, function in bad.items():
        try:
            function()
            message = ""
        except CovisError as error:
            message = str(error)
        torch.cuda.synchronize()
        records.append({"case": f"refuses {name}", "message": message, "ok": bool(message)})
    return records


def check_graph(subject: Subject) -> Record:
    """A captured launch replays on new data: no hidden synchronisation or host state."""
    q, k, v = (torch.randn(1, 2, 640, 64, device="cuda", dtype=torch.float16) for _ in range(3))
    level = torch.randint(0, 3, (1, 1, 5, 5), device="cuda", dtype=torch.int8)
    out = torch.empty_like(q)
    arguments = {"q_block": 128, "k_block": 128}
    subject.attention(q, k, v, level, out=out, **arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        subject.attention(q, k, v, level, out=out, **arguments)
    q.copy_(torch.randn_like(q))
    graph.replay()
    torch.cuda.synchronize()
    again = subject.attention(q, k, v, level, **arguments)
    return {"case": "graph", "kernel": subject.name, "ok": bool(torch.equal(out, again))}
