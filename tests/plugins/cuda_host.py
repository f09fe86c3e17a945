"""The host-side parts of the CUDA kernels, called through ctypes."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from covis.export.ops.cuda.attention import AttentionParams
from tests.plugins.native import build
from tests.vectors.case import Array, AttentionCase, SelectCase
from tests.vectors.farthest_case import FarthestCase
from tests.vectors.suite import Case

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
ATTENTION = PLUGINS / "block_sparse_attention" / "cuda"
SELECT = PLUGINS / "block_select" / "cuda"
FARTHEST = PLUGINS / "farthest_first" / "cuda"
SALIENCY = PLUGINS / "saliency" / "cuda"


def params_of(case: AttentionCase, out: Array | None = None) -> AttentionParams:
    """The params of a case, with the pointers of its numpy arrays (`out` for O)."""
    batch, heads, tokens, head_dim = case.q.shape
    params = AttentionParams(struct_size=ctypes.sizeof(AttentionParams))
    params.batch, params.heads, params.tokens, params.head_dim = case.q.shape
    for name, value in case.attributes.items():
        setattr(params, name, value)
    tensors = {"q": case.q, "k": case.k, "v": case.v, "o": case.q if out is None else out}
    for name, tensor in tensors.items():
        setattr(params, name, tensor.ctypes.data)
        stride = (heads * tokens * head_dim, tokens * head_dim, head_dim)
        setattr(params, f"{name}_stride", (ctypes.c_int64 * 3)(*stride))
    params.level = case.level.ctypes.data
    sizes = case.level.shape
    params.level_batch, params.level_heads, params.level_rows, params.level_cols = sizes
    assert batch >= 1
    return params


@cache
def library() -> ctypes.CDLL:
    """The host library, brought up to date; skips the calling test where there is no cmake."""
    options = ("-DCOVIS_BUILD_ORT=OFF", "-DCOVIS_BUILD_TESTS=ON")
    folder = build("cuda_host", "covis_cuda_host", *options)
    loaded = ctypes.CDLL(str(folder / "libcovis_cuda_host.so"))
    loaded.covis_host_divide.restype = ctypes.c_uint32
    loaded.covis_host_divide.argtypes = (ctypes.c_uint32, ctypes.c_uint32)
    return loaded


@dataclass
class LaunchPlan:
    """What make_launch_plan decided."""

    status: int
    message: str
    workspace_bytes: int
    tiles: int
    hopper: bool


def launch_plan(
    params: AttentionParams, capability: int = 90, *, pointers: bool = False
) -> LaunchPlan:
    """The launch plan for an invented GPU of that compute capability."""
    message = ctypes.create_string_buffer(512)
    size, tiles = ctypes.c_uint64(), ctypes.c_int64()
    hopper = ctypes.c_int()
    status = library().covis_host_launch_plan(
        ctypes.byref(params),
        capability,
        int(pointers),
        ctypes.byref(size),
        ctypes.byref(tiles),
        ctypes.byref(hopper),
        message,
        ctypes.c_size_t(len(message)),
    )
    text = message.value.decode()
    return LaunchPlan(status, text, size.value, tiles.value, bool(hopper.value))


def cost(params: AttentionParams, width: int, *, fp8: bool = False) -> dict[str, int]:
    """Counts of the walk over all tiles and heads; low blocks are not in `blocks`."""
    counts = (ctypes.c_int64 * 7)()
    library().covis_host_cost(ctypes.byref(params), width, int(fp8), counts)
    names = ("blocks", "pairs", "masked_blocks", "tiles", "unordered_tiles", "low_blocks")
    names += ("masked_low_blocks",)
    return dict(zip(names, counts, strict=True))


class HostAdapter:
    """The kernels' walk as an implementation for the suite of tests/vectors."""

    dtypes = ("float32",)

    def __init__(self, width: int, *, fp8: Literal["no", "walk", "numbers"] = "no") -> None:
        """`fp8` "walk" takes the FP8 kernels' lists and computes exactly; "numbers" in FP8."""
        self.width = width
        self.fp8 = ("no", "walk", "numbers").index(fp8)
        self.low_precision = "fp8" if fp8 == "numbers" else "exact"
        self.name = f"host walk, {width} pieces a tile, fp8 {fp8}"

    def supports(self, case: Case) -> str | None:
        return None if isinstance(case, AttentionCase) else "maps are HostSelectors'"

    def attention(self, case: AttentionCase) -> Array:
        out: Array = np.full_like(case.q, np.nan)
        written: np.ndarray[Any, np.dtype[np.int32]] = np.zeros(case.q.shape[:3], np.int32)
        params = params_of(case, out)
        library().covis_host_attention(
            ctypes.byref(params), self.width, self.fp8, ctypes.c_void_p(written.ctypes.data)
        )
        assert (written == 1).all(), f"{case.name}: rows not written once: {np.unique(written)}"
        return out

    def select(self, case: SelectCase) -> Array:
        raise NotImplementedError

    def farthest(self, case: FarthestCase) -> Array:
        raise NotImplementedError


class HostSelectors:
    """The choices of BlockSelect and FarthestFirst as the kernels make them.

    BlockSelect's are made on scores pooled by numpy in float32.
    """

    name = "host choice"
    low_precision = "exact"
    dtypes = ("float32",)

    def supports(self, case: Case) -> str | None:
        return "attention is HostAdapter's" if isinstance(case, AttentionCase) else None

    def attention(self, case: AttentionCase) -> Array:
        raise NotImplementedError

    def select(self, case: SelectCase) -> Array:
        layout = case.layout
        numbers = np.arange(case.q.shape[2] - layout.trailing_tokens)
        place = numbers % layout.frame_tokens
        patch = (place >= layout.special_first) & (
            place < layout.frame_tokens - layout.special_last
        )
        tokens = numbers[patch]
        q, k = (
            pooled(x[:, :, tokens], block, case.pool)
            for x, block in ((case.q, case.q_block), (case.k, case.k_block))
        )
        scores = (q @ np.swapaxes(k, 2, 3) / np.float32(np.sqrt(q.shape[3]))).astype(np.float32)
        levels = block_levels(case, len(tokens), scores.shape[2:])
        scores[:, :, levels == 0] = -np.inf
        kept: Array = np.zeros(scores.shape, np.int8)
        for at in np.ndindex(*scores.shape[:3]):
            row = np.ascontiguousarray(scores[at])
            library().covis_host_choose(
                ctypes.c_void_p(row.ctypes.data),
                len(row),
                ctypes.c_float(case.keep_ratio),
                ctypes.c_float(case.cdf),
                ctypes.c_void_p(kept[at].ctypes.data),
            )
        return kept * levels

    def farthest(self, case: FarthestCase) -> Array:
        rank: Array = np.full(case.views, 77777, np.int32)
        library().covis_host_farthest(
            ctypes.c_void_p(case.similarity.ctypes.data),
            ctypes.c_void_p(case.given.ctypes.data),
            ctypes.c_int64(case.count),
            case.views,
            ctypes.c_void_p(rank.ctypes.data),
        )
        return rank


def pooled(x: Array, block: int, pool: str) -> Array:
    """(B, H, N, D) -> float32 (B, H, blocks, D)."""
    blocks = [x[:, :, i : i + block].astype(np.float32) for i in range(0, x.shape[2], block)]
    reduce = np.mean if pool == "mean" else np.max
    return np.stack([reduce(part, axis=2) for part in blocks], 2)


def block_levels(case: SelectCase, patches: int, shape: tuple[int, ...]) -> Array:
    """int8 (Rq, Rk): the highest pair level of each block pair, by the kernels' function."""
    per_frame = case.layout.frame_tokens - case.layout.special_first - case.layout.special_last
    pair = np.ascontiguousarray(case.pair[0, 0])
    levels: Array = np.zeros(shape, np.int8)
    for i, j in np.ndindex(*shape):
        ends = []
        for index, block in ((i, case.q_block), (j, case.k_block)):
            last = min((index + 1) * block, patches) - 1
            ends += [index * block // per_frame, last // per_frame]
        levels[i, j] = library().covis_host_block_level(
            ctypes.c_void_p(pair.ctypes.data), pair.shape[0], *ends
        )
    return levels
