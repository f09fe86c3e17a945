"""What a GPU must show: right numbers, equal runs, far offsets, refusals without a launch."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from covis.engines.errors import CovisError
from covis.export.ops import cuda, cuda_select
from covis.export.ops.layout import TokenLayout
from covis.export.saliency import descriptor_similarity, pair_levels
from tests.gpu.cases import cases, exact, layout_of, plain, refresh, rounded
from tests.vectors.case import Array, AttentionCase, SelectCase
from tests.vectors.standard import standard_select_cases
from tests.vectors.suite import check_select

Record = dict[str, Any]
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


@dataclass(frozen=True)
class Subject:
    """One kernel of one library."""

    library: ctypes.CDLL
    kernel: cuda.Kernel

    def attention(self, *tensors: torch.Tensor, **options: Any) -> torch.Tensor:
        """The op by this kernel."""
        q, k, v, level = tensors
        return cuda.block_sparse_attention(
            q, k, v, level, library=self.library, kernel=self.kernel, **options
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
        scale=case.scale or None,
        out=out,
    )
    torch.cuda.synchronize()
    return out


def check_vectors(subjects: list[Subject], seed: int) -> list[Record]:
    """Every case in both types: error at most twice that of plain torch in the type."""
    records = []
    for base in cases():
        for name, dtype in DTYPES.items():
            case = rounded(refresh(base, seed), dtype)
            expected = exact(case, "cuda")
            allowed = 2.0 * float(np.abs(plain(case, dtype, "cuda") - expected).max())
            allowed = max(allowed, _EPSILON[name] * float(np.abs(case.v).max()))
            for subject in subjects:
                if subject.kernel == "hopper-polynomial" and base.q.shape[3] != 64:
                    continue
                out = run_case(case, dtype, subject)
                repeat = bool(torch.equal(out, run_case(case, dtype, subject)))
                error = float(np.abs(out.float().cpu().numpy() - expected).max())
                records.append(
                    {
                        "case": base.name,
                        "kernel": subject.kernel,
                        "dtype": name,
                        "error": error,
                        "allowed": allowed,
                        "bitwise_repeat": repeat,
                        "ok": repeat and error <= allowed,  # NaN is never within
                    }
                )
    return records


def check_strides(subject: Subject) -> Record:
    """Tensors as a packed QKV projection gives them: (B, S, 3, H, D), seen as (B, H, S, D)."""
    packed = torch.randn(2, 700, 3, 4, 64, device="cuda", dtype=torch.float16)
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    level = torch.full((1, 1, 1, 1), 2, dtype=torch.int8, device="cuda")
    strided = subject.attention(q, k, v, level)
    whole = subject.attention(q.contiguous(), k.contiguous(), v.contiguous(), level)
    same = torch.equal(strided, whole)
    return {"case": "strides", "kernel": subject.kernel, "ok": bool(same)}


def check_far_offsets(subject: Subject) -> Record:
    """Tokens whose offsets pass 2^31 elements: the last head against its own copy."""
    frames, heads = 1000, 26  # 1,374,000 tokens x 26 heads x 64 = 2.29e9 elements
    tokens = frames * 1374
    q = torch.randn(1, heads, tokens, 64, device="cuda", dtype=torch.float16)
    k, v = torch.randn_like(q), torch.randn_like(q)
    level = (2 * torch.eye(frames, device="cuda")).to(torch.int8)[None, None]
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
        "kernel": subject.kernel,
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
    return {"case": "graph", "kernel": subject.kernel, "ok": bool(torch.equal(out, again))}


class GpuSelect:
    """BlockSelect's kernels as an implementation for the suite of tests/vectors."""

    name = "CUDA BlockSelect"
    low_precision = "exact"
    dtypes = ("float32",)

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library

    def supports(self, case: AttentionCase | SelectCase) -> str | None:
        return None if isinstance(case, SelectCase) else "attention is checked apart"

    def attention(self, case: AttentionCase) -> Array:
        raise NotImplementedError

    def select(self, case: SelectCase) -> Array:
        level = cuda_select.block_select(
            torch.from_numpy(case.q).cuda(),
            torch.from_numpy(case.k).cuda(),
            torch.from_numpy(case.pair).cuda(),
            torch.tensor(case.keep_ratio).cuda(),
            torch.tensor(case.cdf).cuda(),
            layout=TokenLayout(**vars(case.layout)),
            q_block=case.q_block,
            k_block=case.k_block,
            pool=case.pool,
            library=self.library,
        )
        return level.cpu().numpy()


def check_selectors(library: ctypes.CDLL) -> list[Record]:
    """BlockSelect by the suite; saliency against its torch definition."""
    records: list[Record] = []
    adapter = GpuSelect(library)
    for case in standard_select_cases():
        try:
            check_select(adapter, case)
            records.append({"case": f"select {case.name}", "ok": True})
        except AssertionError as failure:
            records.append({"case": f"select {case.name}", "message": str(failure), "ok": False})
    for views, patches, channels in ((1, 7, 32), (23, 200, 384), (100, 1369, 1024)):
        tokens = torch.randn(views, patches, channels, device="cuda")
        tokens += torch.randn(views // 3 + 1, 1, channels, device="cuda").repeat(3, 1, 1)[:views]
        scalars = [torch.tensor(x).cuda() for x in (0.4, 0.2, 3, 0)]
        similarity, level = cuda_select.saliency(tokens, *scalars, library=library)
        expected = descriptor_similarity(tokens.double()).float()
        error = float((similarity - expected).abs().max())
        same = torch.equal(level, pair_levels(similarity, *scalars))
        records.append(
            {"case": f"saliency {views}", "error": error, "ok": bool(error < 1e-5 and same)}
        )
    return records


def run_all(library: ctypes.CDLL, kernels: tuple[cuda.Kernel, ...]) -> list[Record]:
    """All checks; fresh random tokens each time."""
    seed = int(time.time())
    subjects = [Subject(library, kernel) for kernel in kernels]
    records: list[Record] = [{"case": "seed", "seed": seed, "ok": True}]
    records += check_refusals(subjects[0])
    records += check_vectors(subjects, seed)
    for subject in subjects:
        records += [check_strides(subject), check_graph(subject)]
    records += check_selectors(library)
    records.append(check_far_offsets(subjects[0]))
    return records
