"""The host-side parts of the CUDA kernels, built with the C++ compiler, called through ctypes."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covis.export.ops.cuda import Params
from tests.vectors.case import Array, AttentionCase, SelectCase

SOURCES = Path(__file__).resolve().parents[2] / "plugins" / "block_sparse_attention" / "cuda"


def params_of(case: AttentionCase, out: Array | None = None) -> Params:
    """The params of a case, with the pointers of its numpy arrays (`out` for O)."""
    batch, heads, tokens, head_dim = case.q.shape
    params = Params(struct_size=ctypes.sizeof(Params))
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
    """The host library; skips the calling test where there is no C++ compiler."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = Path(__file__).resolve().parents[2] / "build" / "cuda_host"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "libcovis_cuda_host.so"
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    files = [str(SOURCES / "host" / "emulate.cc"), str(SOURCES / "plan.cc")]
    subprocess.run(
        [compiler, *flags, f"-I{SOURCES}", *files, "-o", str(target)], check=True, timeout=120
    )
    loaded = ctypes.CDLL(str(target))
    loaded.covis_host_divide.restype = ctypes.c_uint32
    loaded.covis_host_divide.argtypes = (ctypes.c_uint32, ctypes.c_uint32)
    return loaded


@dataclass
class Plan:
    """What make_plan decided."""

    status: int
    message: str
    workspace_bytes: int
    tiles: int
    hopper: bool


def plan(params: Params, capability: int = 90, *, pointers: bool = False) -> Plan:
    """The plan for an invented GPU of that compute capability."""
    message = ctypes.create_string_buffer(512)
    size, tiles = ctypes.c_uint64(), ctypes.c_int64()
    hopper = ctypes.c_int()
    status = library().covis_host_plan(
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
    return Plan(status, text, size.value, tiles.value, bool(hopper.value))


def cost(params: Params, width: int) -> dict[str, int]:
    """Counts of the walk over all tiles and heads."""
    counts = (ctypes.c_int64 * 5)()
    library().covis_host_cost(ctypes.byref(params), width, counts)
    names = ("blocks", "pairs", "masked_blocks", "tiles", "unordered_tiles")
    return dict(zip(names, counts, strict=True))


class HostAdapter:
    """The kernels' walk as an implementation for the suite of tests/vectors."""

    low_precision = "exact"
    dtypes = ("float32",)

    def __init__(self, width: int, *, fp8: bool = False) -> None:
        self.width = width
        self.fp8 = fp8
        self.name = f"host walk, {width} pieces a tile"

    def supports(self, case: AttentionCase | SelectCase) -> str | None:
        return None if isinstance(case, AttentionCase) else "BlockSelect has its own kernels"

    def attention(self, case: AttentionCase) -> Array:
        out: Array = np.full_like(case.q, np.nan)
        written: np.ndarray[Any, np.dtype[np.int32]] = np.zeros(case.q.shape[:3], np.int32)
        params = params_of(case, out)
        library().covis_host_attention(
            ctypes.byref(params), self.width, int(self.fp8), ctypes.c_void_p(written.ctypes.data)
        )
        assert (written == 1).all(), f"{case.name}: rows not written once: {np.unique(written)}"
        return out

    def select(self, case: SelectCase) -> Array:
        raise NotImplementedError
